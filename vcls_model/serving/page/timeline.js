// What happened so far: scores over time, and below them when labels came and went. A click jumps to its moment.

const SERIES = 6;
const KEPT_MOMENTS = 3600;
const SPANS = [30, 60, 120, 300, 600, 1200, 1800, 3600]; // seconds, which fill from left to right
const TOPS = [0.25, 0.5, 1]; // of the plot, so that improbable labels are no flat lines

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

const sorted = (row) => new Map([...row].sort((a, b) => b[1] - a[1]));

export class Timeline {
  /**
   * @param {HTMLElement} root with .plot and .lanes
   * @param {(index: number) => string} nameOf a class
   * @param {(seconds: number) => void} jump
   */
  constructor(root, nameOf, jump) {
    this.plotRoot = root.querySelector(".plot");
    this.lanes = root.querySelector(".lanes");
    this.nameOf = nameOf;
    this.jump = jump;
    this.moments = [];
    this.spans = new Map();
    this.ended = [];
    this.shown = [];
    this.rows = new Map();
    this.range = [0, SPANS[0]];
    this.whole = false;
    new ResizeObserver(() => this.#resize()).observe(this.plotRoot);
  }

  add(seconds, now, events) {
    this.moments.push({ seconds, scores: new Map(now) });
    if (this.moments.length > KEPT_MOMENTS) this.moments.shift();
    this.follow(events);
  }

  /** Takes what happened to labels. */
  follow(events) {
    for (const event of events) {
      if (event.kind === "end") {
        this.spans.delete(event.index);
        this.ended.push({ ...event, end: event.at });
      } else this.spans.set(event.index, { ...event, end: null });
    }
  }

  /** What a whole file's answer holds, see `FORMATS` of the service: JSON in Video Intelligence's names. */
  load(result) {
    this.whole = true;
    const scores = new Map();
    for (const { entity, frames } of result.frameLabelAnnotations)
      for (const { timeOffset, confidence } of frames) {
        const seconds = parseFloat(timeOffset);
        if (!scores.has(seconds)) scores.set(seconds, new Map());
        scores.get(seconds).set(Number(entity.entityId), confidence);
      }
    this.moments = [...scores].sort(([a], [b]) => a - b).map(([seconds, row]) => ({ seconds, scores: sorted(row) }));
    for (const { entity, segments } of result.labelTimeline)
      for (const { segment, confidence } of segments) {
        const index = Number(entity.entityId);
        const [start, end] = [parseFloat(segment.startTimeOffset), parseFloat(segment.endTimeOffset)];
        const inside = this.moments.filter(({ seconds }) => seconds >= start && seconds < end);
        const score = (moment) => moment.scores.get(index) ?? 0;
        const best = inside.reduce((a, b) => (score(b) > score(a) ? b : a), inside[0]);
        this.ended.push({ index, start, end, best: confidence, best_at: best?.seconds ?? start });
      }
  }

  /** The classes whose label held at a moment. */
  activeAt(seconds) {
    return new Set(this.all().filter(({ start, end }) => start <= seconds && seconds < end).map(({ index }) => index));
  }

  /** All spans by start; those that are open end now. */
  all() {
    const last = this.moments.at(-1)?.seconds ?? 0;
    const open = [...this.spans.values()].map((span) => ({ ...span, end: last, open: true }));
    return [...this.ended, ...open].sort((a, b) => a.start - b.start);
  }

  at(seconds) {
    let best = null;
    for (const moment of this.moments)
      if (!best || Math.abs(moment.seconds - seconds) < Math.abs(best.seconds - seconds)) best = moment;
    return best;
  }

  draw(visible, marked) {
    const best = new Map();
    for (const { scores } of this.moments)
      for (const [index, score] of scores) if (visible(index)) best.set(index, Math.max(best.get(index) ?? 0, score));
    const wanted = [...best].sort((a, b) => b[1] - a[1]).slice(0, SERIES).map(([index]) => index).sort((a, b) => a - b);
    const times = this.moments.map((moment) => moment.seconds);
    const data = [times, ...wanted.map((index) => this.moments.map(({ scores }) => scores.get(index) ?? 0))];
    this.marked = marked;
    const first = times[0] ?? 0;
    const length = (times.at(-1) ?? 0) - first;
    this.range = [first, first + (this.whole ? Math.max(length, 1) : (SPANS.find((span) => length <= span) ?? length))];
    if (wanted.join() !== this.shown.join() || !this.plot) this.#make(wanted, data);
    else this.plot.setData(data);
    this.#drawLanes(visible);
  }

  recolour() {
    this.plot?.destroy();
    this.plot = null;
  }

  #make(wanted, data) {
    this.plot?.destroy();
    this.shown = wanted;
    const axis = { stroke: style("--quiet"), grid: { stroke: style("--line"), width: 1 }, ticks: { show: false } };
    const mark = (plot) => {
      if (this.marked == null) return;
      const x = plot.valToPos(this.marked, "x", true);
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.strokeStyle = style("--ink");
      ctx.lineWidth = 2;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.restore();
    };
    this.plot = new uPlot(
      {
        width: Math.max(200, this.plotRoot.clientWidth),
        height: 130,
        padding: [8, 8, 0, 0],
        scales: { x: { time: false, range: () => this.range }, y: { range: (_, __, best) => [0, TOPS.find((top) => best <= top) ?? 1] } },
        legend: { live: false },
        cursor: { y: false, drag: { x: false, y: false } },
        axes: [
          { ...axis, size: 26, incrs: [1, 2, 5, 10, 15, 30, 60, 120, 300, 600], values: (_, values) => values.map(clock) },
          { ...axis, size: 44, values: (_, values) => values.map((value) => `${Math.round(value * 100)} %`) },
        ],
        series: [
          {},
          ...wanted.map((index, place) => ({
            label: this.nameOf(index),
            stroke: style(`--s${place}`),
            width: 2,
            points: { show: () => this.moments.length < 3 },
          })),
        ],
        hooks: { draw: [mark] },
      },
      data,
      this.plotRoot,
    );
    this.plot.over.addEventListener("click", (event) => this.jump(this.plot.posToVal(event.offsetX, "x")));
  }

  #resize() {
    const width = this.plotRoot.clientWidth;
    if (this.plot && width && Math.abs(width - this.plot.width) > 1) this.plot.setSize({ width, height: 130 });
  }

  // Rows and buttons are kept from one drawing to the next, so that none loses the focus.
  #drawLanes(visible) {
    const [first, last] = this.range;
    const wanted = new Map();
    for (const span of this.all()) {
      if (!visible(span.index) || span.end < first) continue;
      if (!wanted.has(span.index)) wanted.set(span.index, []);
      wanted.get(span.index).push(span);
    }
    const rows = keep(this.rows, [...wanted.keys()], "div", this.lanes);
    for (const [index, spans] of wanted) {
      const row = rows.get(index);
      row.className = "lane";
      row.buttons ??= new Map();
      const buttons = keep(row.buttons, spans.map(({ start }) => start), "button", row);
      for (const span of spans) this.#drawSpan(buttons.get(span.start), span, first, last - first);
    }
  }

  #drawSpan(button, span, first, length) {
    const name = this.nameOf(span.index);
    const until = span.open ? "still there" : `to ${clock(span.end)}`;
    const start = Math.max(span.start, first); // it may have come before this page was opened
    button.type = "button";
    button.className = span.open ? "open" : "";
    if (button.textContent !== name) button.textContent = name;
    button.title = `${name}, from ${clock(span.start)} ${until}, best ${Math.round(span.best * 100)} %`;
    button.style.left = `${(100 * (start - first)) / length}%`;
    button.style.width = `${Math.max(1, (100 * (span.end - start)) / length)}%`;
    button.onclick = () => this.jump(span.best_at);
  }
}

/** Makes an element's children those of the keys, in their order, and moves none that is in its place. */
function keep(kept, keys, tag, parent) {
  const wanted = new Set(keys);
  for (const [key, child] of kept) {
    if (wanted.has(key)) continue;
    child.remove();
    kept.delete(key);
  }
  keys.forEach((key, place) => {
    if (!kept.has(key)) kept.set(key, document.createElement(tag));
    const child = kept.get(key);
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
  return kept;
}
