"use strict";
(() => {
  // Only the images of one page of the gallery are elements; all others are rows of this data, whose form viz/gallery_data.py describes.
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const { runs, names, types, folder, changes, images } = read("gallery-data");
  const PAGE = 24, MISSED = 4, TAGS_ON_CARD = 12;
  const last = runs.length - 1;
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, className = "", text = "") => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = text;
    return element;
  };
  const draw = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  let pictures = null;

  const items = images.map(([file, width, height, gt, preds, picture], place) => {
    const counts = preds.map((list) => {
      const hits = list.reduce((sum, item) => sum + (item[2] > 0), 0);
      return { hits, wrong: list.length - hits, missed: gt.length - hits, errors: list.length + gt.length - 2 * hits };
    });
    const own = counts[last];
    const kinds = new Set(preds[last].filter((item) => item[2] < 0).map((item) => types[-1 - item[2]]));
    if (gt.some((item) => item[1] & MISSED)) kinds.add("missed");
    const total = 2 * own.hits + own.errors;
    const sure = Math.max(-1, ...preds[last].filter((item) => item[2] < 0 && item[1] !== null).map((item) => item[1]));
    // of two runs: what only the second finds, and what only the first does
    const foundBy = (flags) => gt.filter((item) => (item[1] & 3) === flags).map((item) => item[0]);
    const [gained, lost] = runs.length === 2 ? [foundBy(2), foundBy(1)] : [[], []];
    if (gained.length) kinds.add("gained");
    if (lost.length) kinds.add("lost");
    return { place, file, width, height, gt, preds, picture, counts, kinds, sure, gained, lost, errors: own.errors, f1: total ? (2 * own.hits) / total : 1, gain: counts[0].errors - own.errors };
  });

  // One object of an image, whichever side it is on.
  const marksOf = (item, run) => [
    ...item.gt.map(([name, flags, ...points]) => ({ side: "gt", status: flags & (1 << run) ? "hit" : "miss", name, points, score: null, state: 0 })),
    ...item.preds[run].map(([name, score, state, ...points]) => ({ side: "pred", status: state > 0 ? "hit" : "false", name, points, score, state })),
  ];
  const nameOf = (mark) => names[mark.name] || "(no name)";
  const tell = (mark) => {
    if (mark.side === "gt") return `ground truth: ${nameOf(mark)}, ${mark.status === "hit" ? "found" : "missed"}`;
    const score = mark.score === null ? "" : `, score ${mark.score}`;
    return `prediction: ${nameOf(mark)}${score}, ${mark.state > 0 ? `hit with IoU ${(mark.state / 100).toFixed(2)}` : `error: ${types[-1 - mark.state]}`}`;
  };
  const ring = ({ points: [x1, y1, x2, y2, ...more], points }) => (more.length ? points : [x1, y1, x2, y1, x2, y2, x1, y2]);
  const path = (mark) => ring(mark).reduce((text, value, place) => text + (place % 2 ? `,${value}` : `${place ? "L" : "M"}${value}`), "") + "Z";
  const extent = (mark) => {
    const values = ring(mark), xs = values.filter((_, place) => place % 2 === 0), ys = values.filter((_, place) => place % 2);
    return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  };
  const area = (mark) => {
    const [left, top, right, bottom] = extent(mark);
    return (right - left) * (bottom - top);
  };

  const source = (item) => {
    if (item.picture === 2) return `${encodeURIComponent(folder)}/${String(item.place).padStart(6, "0")}.jpg`;
    pictures ??= read("gallery-pictures");
    return pictures[item.place];
  };
  const outlines = (item, marks, isLarge) => {
    const svg = draw("svg", { viewBox: `0 0 ${item.width} ${item.height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    const add = (className, d, title) => {
      const group = draw("g", { class: `mark ${className}` });
      if (title) group.append(Object.assign(draw("title", {}), { textContent: title }));
      group.append(draw("path", { class: "halo", d }), draw("path", { class: "edge", d }));
      svg.append(group);
    };
    for (const kind of ["gt hit", "pred hit", "gt miss", "pred false"]) {
      const some = marks.filter((mark) => `${mark.side} ${mark.status}` === kind);
      if (isLarge) for (const mark of some) add(kind, path(mark), tell(mark));
      else if (some.length) add(kind, some.map(path).join(""));
    }
    return svg;
  };
  const tag = (item, mark) => {
    const [left, top, right, bottom] = extent(mark);
    const x = (100 * left) / item.width, y = (100 * (mark.status === "miss" ? bottom : top)) / item.height;
    const element = make("span", `tag ${mark.side} ${mark.status}${y < 8 ? " inside" : ""}`, nameOf(mark));
    // near the right edge a name grows to the left
    const side = x > 60 ? `right:${(100 - (100 * right) / item.width).toFixed(2)}%` : `left:${x.toFixed(2)}%`;
    element.style.cssText = `${side};top:${y.toFixed(2)}%`;
    return element;
  };
  const shot = (item, run, isLarge) => {
    const marks = marksOf(item, run);
    const { hits, wrong, missed } = item.counts[run];
    const element = make("span", "shot");
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", `${item.file}${runs[run] ? `, ${runs[run].toLowerCase()}` : ""}: ${hits} hits, ${wrong} false, ${missed} missed`);
    element.style.cssText = `aspect-ratio:${item.width}/${item.height};--ratio:${item.width / item.height}`;
    if (item.picture) {
      const picture = make("img");
      picture.alt = "";
      picture.decoding = "async";
      picture.addEventListener("error", () => { picture.remove(); byId("no-files").hidden = item.picture !== 2; }, { once: true });
      picture.src = source(item);
      element.append(picture);
    }
    // errors are named first, then large objects, where a name hides least
    const tagged = [...marks].sort((a, b) => (a.status === "hit") - (b.status === "hit") || area(b) - area(a)).slice(0, isLarge ? 400 : TAGS_ON_CARD);
    element.append(outlines(item, marks, isLarge), ...tagged.map((mark) => tag(item, mark)));
    return element;
  };
  const shots = (item, isLarge) => {
    const element = make("span", "shots");
    runs.forEach((name, run) => {
      const one = make("span", "one");
      if (name) {
        const which = make("span", "which", name);
        which.append(make("span", "score", `${plural(item.counts[run].hits, "hit")}, ${plural(item.counts[run].errors, "error")}`));
        one.append(which);
      }
      const frame = make("span", "frame");
      frame.append(shot(item, run, isLarge));
      one.append(frame);
      element.append(one);
    });
    return element;
  };
  const countsOf = (item) => {
    const { hits, wrong, missed } = item.counts[last];
    const element = make("p", "counts");
    element.append(make("span", "c-hit", plural(hits, "hit")), make("span", "c-false", `${wrong} false`), make("span", "c-miss", `${missed} missed`), make("span", "f1", `F1 ${item.f1.toFixed(2)}`));
    return element;
  };
  const changeOf = (style, sign, run, list) => {
    const element = make("p", "changed"), tally = new Map();
    for (const name of list) tally.set(name, (tally.get(name) ?? 0) + 1);
    const text = [...tally].map(([name, times]) => `${times > 1 ? `${times} × ` : ""}${names[name] || "(no name)"}`).join(", ");
    element.append(make("span", style, `${sign}${list.length}`), ` found only by ${runs[run]}: ${text}`);
    return element;
  };
  const card = (item) => {
    const element = make("article", "card");
    element.dataset.place = item.place;
    const open = make("button", "open");
    open.type = "button";
    open.setAttribute("aria-label", `Enlarge ${item.file}`);
    open.append(shots(item, false));
    open.addEventListener("click", () => show(item));
    const caption = make("div", "caption"), file = make("p", "file", item.file);
    file.title = item.file;
    caption.append(file);
    if (!changes) caption.append(countsOf(item));
    if (changes && item.gained.length) caption.append(changeOf("up", "+", 1, item.gained));
    if (changes && item.lost.length) caption.append(changeOf("down", "−", 0, item.lost));
    element.append(open, caption);
    return element;
  };

  // What is shown: filter, order, page.
  const gallery = byId("gallery"), viewer = byId("viewer"), body = byId("viewer-body"), text = byId("only-text"), kind = byId("only-kind"), order = byId("order");
  const orders = {
    errors: (a, b) => b.errors - a.errors || a.f1 - b.f1,
    f1: (a, b) => a.f1 - b.f1 || b.errors - a.errors,
    sure: (a, b) => b.sure - a.sure,
    gain: (a, b) => b.gain - a.gain,
    loss: (a, b) => a.gain - b.gain,
    objects: (a, b) => b.gt.length - a.gt.length,
    changed: (a, b) => b.gained.length + b.lost.length - a.gained.length - a.lost.length,
    gained: (a, b) => b.gained.length - a.gained.length,
    lost: (a, b) => b.lost.length - a.lost.length,
    place: () => 0,
  };
  let found = items, first = 0;
  // a class has all spellings that are equal as labels: semantics/normalize.py
  const folded = (name) => name.toLowerCase().replace(/[_/()\s]+/g, " ").trim();
  const matcher = () => {
    const asked = text.value.trim().toLowerCase();
    if (!asked) return () => true;
    const exact = /^"(.*)"$/.exec(asked)?.[1];
    const wanted = names.map((name) => (exact === undefined ? name.toLowerCase().includes(asked) : folded(name) === folded(exact)));
    return (item) => item.gt.some((mark) => wanted[mark[0]]) || item.preds.some((list) => list.some((mark) => wanted[mark[0]])) || (exact === undefined && item.file.toLowerCase().includes(asked));
  };
  const kinds = { "": () => true, errors: (item) => item.errors > 0, clean: (item) => item.errors === 0 };
  const turn = (start) => {
    first = start;
    const page = found.slice(first, first + PAGE);
    byId("cards").replaceChildren(...page.map(card));
    const range = found.length > PAGE ? `${first + 1}–${first + page.length} of ` : "";
    for (const output of all(".shown", gallery)) output.textContent = `${range}${found.length.toLocaleString("en")} ${found.length === 1 ? "image" : "images"}`;
    for (const button of all("[data-turn]", gallery)) button.disabled = Number(button.dataset.turn) < 0 ? first === 0 : first + PAGE >= found.length;
    for (const pager of all(".pager", gallery)) pager.classList.toggle("single", found.length <= PAGE);
  };
  const apply = () => {
    const hasText = matcher(), hasKind = kinds[kind.value] ?? ((item) => item.kinds.has(kind.value));
    found = items.filter((item) => hasKind(item) && hasText(item)).sort((a, b) => orders[order.value](a, b) || a.place - b.place);
    turn(0);
  };
  const toggle = () => {
    for (const box of all("[data-toggle]", gallery)) for (const root of [gallery, body]) root.classList.toggle(box.dataset.toggle, box.checked);
  };
  for (const box of all("[data-toggle]", gallery)) box.addEventListener("change", toggle);
  for (const input of [text, kind, order]) input.addEventListener("input", apply);
  for (const button of all("[data-turn]", gallery)) {
    button.addEventListener("click", () => {
      turn(first + PAGE * Number(button.dataset.turn));
      if (button.closest(".bottom")) gallery.scrollIntoView();
    });
  }
  const seek = (wantedText, wantedKind) => {
    text.value = wantedText;
    kind.value = wantedKind;
    apply();
    gallery.scrollIntoView();
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-find],[data-kind][type=button],[data-show]");
    if (!button) return;
    if (button.dataset.show !== undefined) show(items[Number(button.dataset.show)]);
    else if (button.dataset.find !== undefined) seek(`"${button.dataset.find}"`, "");
    else seek("", button.dataset.kind);
  });

  // The viewer goes through what the gallery has found.
  let open = null;
  const show = (item) => {
    open = item;
    body.replaceChildren(shots(item, true));
    byId("viewer-title").textContent = item.file;
    byId("viewer-note").textContent = "Point at a box to read it.";
    if (!viewer.open) viewer.showModal();
  };
  const step = (by) => {
    if (found.length) show(found[(found.indexOf(open) + by + found.length) % found.length]);
  };
  body.addEventListener("pointerover", (event) => {
    const title = event.target.closest(".mark")?.querySelector("title");
    if (title) byId("viewer-note").textContent = title.textContent;
  });
  for (const button of all("[data-step]", viewer)) button.addEventListener("click", () => step(Number(button.dataset.step)));
  viewer.querySelector("[data-close]").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  });
  toggle();
  apply();
})();
