"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const total = data.names.length;
  const ROW = 32; // pixels; the same as in the style sheet
  const byId = (id) => document.getElementById(id);

  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text !== undefined && text !== null) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const draw = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const score = (value) => (value === null ? "–" : (value / 1000).toFixed(3));
  const signed = (value) => (value === null ? "–" : (value < 0 ? "−" : "+") + Math.abs(value / 1000).toFixed(3));
  const whole = (value) => (value === null ? "–" : value.toLocaleString("en"));
  const plain = (text) => text.normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase();

  // The columns: key, heading, width in pixels, how a value shows, what it sorts by.
  const column = (key, heading, width, show) => ({ key, heading, width, show: (i) => show(data[key][i]), by: (i) => data[key][i] });
  const columns = [
    { key: "name", heading: "Class", width: 158, show: (i) => data.names[i], by: null },
    column("support", "Positives", 88, whole),
    column("ap", "AP", 60, score),
    { key: "low", heading: "95 %", width: 102, show: (i) => (data.low[i] === null ? "–" : `${(data.low[i] / 1000).toFixed(2)} – ${(data.high[i] / 1000).toFixed(2)}`), by: (i) => data.low[i] },
    column("f1", "F1", 60, score),
    column("precision", "Precision", 86, score),
    column("recall", "Recall", 72, score),
    column("best", "Best thr.", 82, score),
    column("f1Best", "F1 there", 80, score),
    column("roc", "ROC AUC", 84, score),
  ];
  if (!data.best.some((value) => value !== null)) // the model brings no thresholds of its own
    columns.splice(columns.findIndex((entry) => entry.key === "best"), 2);
  if (data.delta) columns.splice(3, 0, { key: "delta", heading: "Change", width: 92, by: (i) => data.delta[i],
    show: (i) => signed(data.delta[i]) + (data.exceeds[i] ? (data.delta[i] > 0 ? " ▲" : " ▼") : "") });
  if (data.train) columns.push(column("train", "Trained on", 92, whole));
  if (data.verticals.length) columns.push({ key: "vertical", heading: "Vertical", width: 148, text: true,
    show: (i) => data.verticals[data.vertical[i]], by: (i) => data.vertical[i] });
  const nameRank = new Int32Array(total);
  const searchable = data.names.map(plain);
  const collator = new Intl.Collator("en", { numeric: true });
  [...data.names.keys()].sort((a, b) => collator.compare(data.names[a], data.names[b])).forEach((index, rank) => { nameRank[index] = rank; });
  columns[0].by = (i) => nameRank[i];

  const table = byId("all"), head = table.tHead.rows[0], body = table.tBodies[0], frame = byId("window");
  const state = { sort: "support", falling: true, chosen: -1, rows: [] };

  const group = make("colgroup");
  columns.forEach((entry) => {
    const col = make("col");
    col.style.width = `${entry.width}px`;
    group.append(col);
    const cell = make("th"), button = make("button", entry.heading);
    cell.scope = "col";
    if (entry.key !== "name" && !entry.text) cell.className = "n";
    button.type = "button";
    button.addEventListener("click", () => {
      const same = state.sort === entry.key;
      state.falling = same ? !state.falling : entry.key !== "name" && !entry.text;
      state.sort = entry.key;
      update();
    });
    cell.append(button);
    head.append(cell);
  });
  table.prepend(group);
  table.style.width = `max(100%, ${columns.reduce((sum, entry) => sum + entry.width, 0)}px)`;

  const update = () => {
    const words = plain(byId("search").value.trim()).split(/\s+/).filter(Boolean);
    const vertical = byId("vertical").value, least = Number(byId("positives").value);
    const rows = [];
    for (let i = 0; i < total; i++) {
      if (data.support[i] < least) continue;
      if (vertical !== "" && data.vertical[i] !== Number(vertical)) continue;
      if (words.length && !words.every((word) => searchable[i].includes(word) || String(i) === word)) continue;
      rows.push(i);
    }
    const { by } = columns.find((entry) => entry.key === state.sort);
    const sign = state.falling ? -1 : 1;
    rows.sort((a, b) => {
      const x = by(a), y = by(b);
      if (x === y) return a - b;
      if (x === null) return 1; // what is unknown stays last, whichever way
      if (y === null) return -1;
      return x < y ? -sign : sign;
    });
    state.rows = rows;
    columns.forEach((entry, position) => {
      const cell = head.cells[position], active = entry.key === state.sort;
      if (active) cell.setAttribute("aria-sort", state.falling ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      cell.firstChild.textContent = entry.heading + (active ? (state.falling ? " ↓" : " ↑") : "");
    });
    byId("count").textContent = `${rows.length.toLocaleString("en")} of ${total.toLocaleString("en")} classes`;
    table.setAttribute("aria-rowcount", rows.length + 1);
    frame.scrollTop = 0;
    render();
  };

  const filler = (height) => {
    const row = make("tr"), cell = make("td", null, "filler");
    cell.colSpan = columns.length;
    cell.style.height = `${height}px`;
    row.setAttribute("aria-hidden", "true");
    row.append(cell);
    return row;
  };
  // Only the rows in sight are in the document; fillers stand for those above and below.
  const render = () => {
    const first = Math.max(0, Math.floor(frame.scrollTop / ROW) - 8);
    const last = Math.min(state.rows.length, first + Math.ceil(frame.clientHeight / ROW) + 16);
    const rows = [];
    if (first) rows.push(filler(first * ROW));
    for (let place = first; place < last; place++) {
      const i = state.rows[place], row = make("tr");
      row.dataset.index = i;
      row.setAttribute("aria-rowindex", place + 2);
      if (i === state.chosen) row.className = "chosen";
      columns.forEach((entry) => {
        const cell = make("td", null, entry.key === "name" || entry.text ? "" : "n");
        if (entry.key === "name") {
          const button = make("button", data.names[i]);
          button.type = "button";
          button.title = data.names[i];
          cell.append(button);
        } else cell.textContent = entry.show(i);
        row.append(cell);
      });
      rows.push(row);
    }
    if (last < state.rows.length) rows.push(filler((state.rows.length - last) * ROW));
    body.replaceChildren(...rows);
  };
  let waiting = false;
  frame.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; render(); });
  }, { passive: true });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-index]");
    if (row) choose(Number(row.dataset.index), false);
  });

  const decode = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const curves = { pr: decode(data.pr), roc: decode(data.rocCurve) };
  const chart = (kind, i, title, xLabel, yLabel) => {
    const svg = draw("svg", { viewBox: "0 0 170 188", role: "img", "aria-label": title });
    const x = (value) => 26 + 138 * value, y = (value) => 154 - 132 * value;
    for (const tick of [0, 0.5, 1]) {
      svg.append(draw("path", { d: `M${x(0)} ${y(tick)}H${x(1)}M${x(tick)} ${y(0)}V${y(1)}`, stroke: "#e4e7eb", fill: "none" }));
      const left = draw("text", { x: 22, y: y(tick) + 4, "text-anchor": "end" });
      left.textContent = tick;
      const below = draw("text", { x: x(tick), y: 168, "text-anchor": tick === 1 ? "end" : "middle" });
      below.textContent = tick;
      svg.append(left, below);
    }
    const name = draw("text", { x: 95, y: 183, "text-anchor": "middle" });
    name.textContent = xLabel;
    const side = draw("text", { x: 26, y: 12 });
    side.textContent = yLabel;
    svg.append(name, side);
    const line = (values, scale, style) => {
      const points = Array.from(values, (value, k) => `${x(k / (values.length - 1)).toFixed(1)} ${y(value / scale).toFixed(1)}`);
      svg.append(draw("path", { d: `M${points.join("L")}`, fill: "none", ...style }));
    };
    if (data.micro) line(data.micro[kind].map((value) => value ?? 0), 1000, { stroke: "#8a9199", "stroke-dasharray": "4 3" });
    const start = data.curveRow[i] * data.points;
    line(curves[kind].subarray(start, start + data.points), 255, { stroke: "#0072b2", "stroke-width": 2 });
    return svg;
  };
  const square = (caption, tp, fp, fn, tn) => {
    const result = make("table", null, "square");
    result.append(make("caption", caption));
    const header = result.createTHead().insertRow();
    header.append(make("td"), make("th", "predicted"), make("th", "not"));
    const rows = result.createTBody();
    for (const [label, left, right, hit] of [["true", tp, fn, 0], ["not", fp, tn, 1]]) {
      const row = rows.insertRow();
      row.append(make("th", label), make("td", whole(left), hit === 0 ? "n hit" : "n"), make("td", whole(right), hit === 1 ? "n hit" : "n"));
    }
    return result;
  };
  const others = (title, flat) => {
    const box = make("div"), list = make("ul");
    box.append(make("h5", title), flat.length ? list : make("p", "none"));
    for (let k = 0; k < flat.length; k += 2) {
      const item = make("li"), button = make("button", data.names[flat[k]]);
      button.type = "button";
      button.addEventListener("click", () => choose(flat[k], true));
      item.append(button, make("span", whole(flat[k + 1])));
      list.append(item);
    }
    return box;
  };
  const choose = (i, bring) => {
    state.chosen = i;
    const panel = byId("detail"), parts = [], columnsBelow = [];
    parts.push(make("h4", data.names[i]));
    const where = [`class ${i}`];
    if (data.verticals.length) where.unshift(data.verticals[data.vertical[i]]);
    parts.push(make("p", where.join(" · "), "small"));
    const trained = data.train && data.train[i] !== null ? `, trained on ${whole(data.train[i])}` : "";
    parts.push(make("p", `${whole(data.support[i])} positives among ${whole(data.videos)} videos${trained}`));
    if (data.ap[i] !== null) {
      parts.push(make("p", `AP ${score(data.ap[i])}, 95 % ${score(data.low[i])} to ${score(data.high[i])}`));
      if (data.delta && data.delta[i] !== null)
        parts.push(make("p", `${score(data.before[i])} in the baseline: ${signed(data.delta[i])}, ${data.exceeds[i] ? "beyond" : "within"} chance`));
    } else parts.push(make("p", "No positive was scored, so nothing can be said about this class."));
    if (data.curveRow.length && data.curveRow[i] >= 0) {
      const plots = make("div", null, "plots");
      plots.append(chart("pr", i, `Precision against recall of ${data.names[i]}`, "recall", "precision"));
      if (data.roc[i] !== null) plots.append(chart("roc", i, `ROC of ${data.names[i]}`, "false positive rate", "true positive rate"));
      const box = make("div");
      box.append(plots, make("p", "Blue: this class. Dashed: all pairs pooled.", "small"));
      columnsBelow.push(box);
    }
    const negatives = data.videos - data.support[i];
    const squares = make("div");
    squares.append(make("h5", "Confusion counts"));
    squares.append(square(`at threshold ${data.threshold}`, data.tp[i], data.fp[i], data.fn[i], negatives - data.fp[i]));
    if (data.best[i] !== null && data.recallBest[i] !== null && (data.precisionBest[i] > 0 || data.recallBest[i] === 0)) {
      const tp = Math.round(data.recallBest[i] * data.support[i] / 1000);
      if (data.precisionBest[i] > 0) {
        const fp = Math.round(tp * (1000 / data.precisionBest[i] - 1));
        squares.append(square(`at its best threshold, ${score(data.best[i])} (rounded)`, tp, fp, data.support[i] - tp, negatives - fp));
      }
    }
    columnsBelow.push(squares, others("When it was missed, predicted instead", data.insteadOf[i]),
      others("When it was wrongly predicted, true instead", data.mistakenFor[i]));
    const below = make("div", null, "columns");
    below.append(...columnsBelow);
    panel.replaceChildren(...parts, below);
    if (bring) {
      let place = state.rows.indexOf(i);
      if (place < 0) { // a filter hides it
        byId("search").value = "";
        byId("vertical").value = "";
        byId("positives").value = "0";
        update();
        place = state.rows.indexOf(i);
      }
      frame.scrollTop = Math.max(0, place * ROW - frame.clientHeight / 2);
    }
    render();
  };

  const names = data.verticals.map((name, position) => [name, position]).sort((a, b) => collator.compare(a[0], b[0]));
  names.forEach(([name, position]) => {
    const option = make("option", name);
    option.value = position;
    byId("vertical").append(option);
  });
  byId("vertical-label").hidden = !data.verticals.length;
  if (!data.support.some((count) => count > 0)) byId("positives").value = "0";
  for (const id of ["search", "vertical", "positives"]) byId(id).addEventListener("input", update);

  // Links to classes all over the page open the drill-down.
  const follow = () => {
    const match = /^#class-(\d+)$/.exec(location.hash);
    if (!match || Number(match[1]) >= total) return;
    choose(Number(match[1]), true);
    byId("explorer-title").scrollIntoView();
  };
  byId("explorer").hidden = false;
  update();
  if (state.rows.length) choose(state.rows[0], false);
  addEventListener("hashchange", follow);
  document.addEventListener("click", (event) => { // a link to the class that is open already changes no hash
    const link = event.target.closest("a.class");
    if (link && link.getAttribute("href") === location.hash) follow();
  });
  follow();
})();
