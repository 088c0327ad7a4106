"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Tables: a click on a header sorts; numbers start with the largest, names with A. Empty values stay last.
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const isText = head.dataset.kind === "text";
        const current = head.getAttribute("aria-sort");
        const order = current ? (current === "ascending" ? "descending" : "ascending") : isText ? "ascending" : "descending";
        const sign = order === "ascending" ? 1 : -1;
        const value = (row) => row.cells[column].dataset.value;
        const rows = all("tr", body).sort((a, b) => {
          const x = value(a), y = value(b);
          if (!isText && (x === "" || y === "")) return (x === "") - (y === "");
          return sign * (isText ? x.localeCompare(y) : Number(x) - Number(y));
        });
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        body.append(...rows);
      });
    });
  }

  // Charts: the value under the pointer.
  for (const chart of all("svg.chart")) {
    const output = chart.closest("figure")?.querySelector(".read-out");
    if (!output) continue;
    const series = JSON.parse(chart.dataset.series);
    const cursor = chart.querySelector(".cursor");
    const rest = series.map((line) => `${series.length > 1 ? line.name + " " : ""}${line.text.at(-1)}`).join(", ");
    output.textContent = rest;
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
      let at = "";
      const texts = series.map((line) => {
        let best = 0;
        line.px.forEach((px, place) => { if (Math.abs(px - x) < Math.abs(line.px[best] - x)) best = place; });
        at ||= line.at[best];
        cursor.setAttribute("x1", line.px[best]);
        cursor.setAttribute("x2", line.px[best]);
        return `${series.length > 1 ? line.name + " " : ""}${line.text[best]}`;
      });
      cursor.setAttribute("visibility", "visible");
      output.textContent = `${chart.dataset.x} ${at}: ${texts.join(", ")}`;
    });
    chart.addEventListener("pointerleave", () => {
      cursor.setAttribute("visibility", "hidden");
      output.textContent = rest;
    });
  }

  // Gallery.
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const viewer = document.getElementById("viewer");
  const viewerBody = document.getElementById("viewer-body");
  const holder = gallery.querySelector(".cards");
  const cards = all(".card", holder);
  const visible = () => all(".card", holder).filter((card) => !card.hidden);

  const applyToggles = () => {
    for (const box of all("[data-toggle]", gallery)) {
      gallery.classList.toggle(box.dataset.toggle, box.checked);
      viewerBody.classList.toggle(box.dataset.toggle, box.checked);
    }
  };
  const orders = {
    errors: (a, b) => b.dataset.errors - a.dataset.errors || a.dataset.f1 - b.dataset.f1,
    f1: (a, b) => a.dataset.f1 - b.dataset.f1 || b.dataset.errors - a.dataset.errors,
    gain: (a, b) => b.dataset.gain - a.dataset.gain,
    loss: (a, b) => a.dataset.gain - b.dataset.gain,
    objects: (a, b) => b.dataset.objects - a.dataset.objects,
    place: () => 0,
  };
  const applyFilter = () => {
    const wanted = document.getElementById("only-class").value;
    for (const card of cards) card.hidden = wanted !== "" && !JSON.parse(card.dataset.labels).includes(wanted);
    const count = visible().length;
    document.getElementById("shown").textContent = `${count} ${count === 1 ? "image" : "images"}`;
  };
  const applyOrder = () => {
    const name = document.getElementById("order").value;
    const compare = orders[name] ?? ((a, b) => b.dataset[name] - a.dataset[name]);
    holder.append(...cards.sort((a, b) => compare(a, b) || a.dataset.place - b.dataset.place));
  };
  for (const box of all("[data-toggle]", gallery)) box.addEventListener("change", applyToggles);
  document.getElementById("order").addEventListener("change", applyOrder);
  document.getElementById("only-class").addEventListener("change", applyFilter);
  applyToggles();
  applyFilter();

  let open = null;
  const show = (card) => {
    open = card;
    viewerBody.replaceChildren(card.querySelector(".shots").cloneNode(true));
    document.getElementById("viewer-title").textContent = card.querySelector(".file").textContent;
    if (!viewer.open) viewer.showModal();
  };
  const step = (by) => {
    const shown = visible();
    show(shown[(shown.indexOf(open) + by + shown.length) % shown.length]);
  };
  for (const card of cards) card.querySelector(".open").addEventListener("click", () => show(card));
  for (const button of all("[data-step]", viewer)) button.addEventListener("click", () => step(Number(button.dataset.step)));
  viewer.querySelector("[data-close]").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  });
})();
