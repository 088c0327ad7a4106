"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Tables: a click on a header sorts; numbers start with the largest, names with A; empty values stay last. Rows beyond a page wait in a template.
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    const rest = document.getElementById(`${table.id}-rest`);
    const more = document.querySelector(`[data-more="${table.id}"]`);
    const search = document.querySelector(`[data-filters="${table.id}"]`);
    const shows = document.querySelector(`[data-shows="${table.id}"]`);
    const page = Number(table.dataset.page ?? Infinity);
    const rows = [...body.rows, ...(rest ? rest.content.querySelectorAll("tr") : [])];
    const heads = all("thead th", table);
    let limit = page;
    const draw = () => {
      const wanted = search?.value.trim().toLowerCase() ?? "";
      const found = rows.filter((row) => row.cells[0].dataset.value.toLowerCase().includes(wanted));
      body.replaceChildren(...found.slice(0, limit));
      if (more) more.hidden = found.length <= limit;
      if (!shows) return;
      const count = found.length.toLocaleString("en");
      shows.textContent = wanted ? `${count} of ${rows.length.toLocaleString("en")} ${table.dataset.what}` : `${count} ${table.dataset.what}`;
    };
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const isText = head.dataset.kind === "text";
        const current = head.getAttribute("aria-sort");
        const order = current ? (current === "ascending" ? "descending" : "ascending") : isText ? "ascending" : "descending";
        const sign = order === "ascending" ? 1 : -1;
        rows.sort((a, b) => {
          const x = a.cells[column].dataset.value, y = b.cells[column].dataset.value;
          if (!isText && (x === "" || y === "")) return (x === "") - (y === "");
          return sign * (isText ? x.localeCompare(y) : Number(x) - Number(y));
        });
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        draw();
      });
    });
    search?.addEventListener("input", () => { limit = page; draw(); });
    more?.addEventListener("click", () => { limit += 5 * page; draw(); });
    draw();
  }

  // Charts: the value under the pointer. The lines of a chart may change.
  const charts = new Map();
  const say = (chart, x = null) => {
    const { series, output, cursor } = charts.get(chart);
    let at = "";
    const texts = series.map((line) => {
      let best = line.px.length - 1;
      if (x !== null) {
        line.px.forEach((px, place) => { if (Math.abs(px - x) < Math.abs(line.px[best] - x)) best = place; });
        at ||= line.at[best];
        cursor.setAttribute("x1", line.px[best]);
        cursor.setAttribute("x2", line.px[best]);
      }
      return `${series.length > 1 ? line.name + " " : ""}${line.text[best]}`;
    });
    cursor.setAttribute("visibility", x === null ? "hidden" : "visible");
    output.textContent = x !== null ? `${chart.dataset.x} ${at}: ${texts.join(", ")}` : output.dataset.rest === "last" ? texts.join(", ") : "";
  };
  for (const chart of all("svg.chart")) {
    const output = chart.closest("figure")?.querySelector(".read-out");
    const series = JSON.parse(chart.dataset.series);
    if (!output || !series.length) continue;
    charts.set(chart, { series, output, cursor: chart.querySelector(".cursor") });
    say(chart);
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      say(chart, ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width);
    });
    chart.addEventListener("pointerleave", () => say(chart));
  }

  // Precision over recall of one class, in front of the means.
  const choice = document.getElementById("pr-class");
  if (choice) {
    const curves = JSON.parse(document.getElementById("pr-data").textContent);
    const chart = document.querySelector("#pr-curves svg");
    const state = charts.get(chart);
    const means = state.series;
    const [left, bottom, width, height] = JSON.parse(chart.dataset.frame);
    choice.addEventListener("change", () => {
      for (const line of all(".chosen", chart)) line.remove();
      chart.classList.toggle("has-chosen", choice.value !== "");
      const chosen = choice.value === "" ? [] : curves[Number(choice.value)];
      state.series = choice.value === "" ? means : chosen.map((values, place) => ({
        name: means[place].name,
        px: values.map((_, step) => left + (width * step) / (values.length - 1)),
        at: values.map((_, step) => (step / (values.length - 1)).toFixed(2)),
        text: values.map((value) => (value / 1000).toFixed(3)),
      }));
      chosen.forEach((values, place) => {
        const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
        line.setAttribute("class", `line chosen ${["main", "second"][place]}`);
        line.setAttribute("points", values.map((value, step) => `${left + (width * step) / (values.length - 1)},${bottom - (height * value) / 1000}`).join(" "));
        chart.insertBefore(line, chart.querySelector(".cursor"));
      });
      say(chart);
    });
  }
})();
