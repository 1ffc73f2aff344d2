// Bytes by source over the last ten minutes: a stacked bar for each ten seconds, and the same as a table.

import { bytes, element, rate, setText } from "./format.js";

const SOURCES = [
  ["store", "this node’s store"],
  ["members", "other members"],
  ["object_store", "the object store"],
  ["mirrors", "mirrors"],
  ["registries", "registries"],
];
const BUCKET_MS = 10_000;
const BUCKETS = 60;
const [HEIGHT, LEFT, BOTTOM, TOP] = [190, 70, 18, 8];
const MARK_WIDTH = 90;
const SVG = "http://www.w3.org/2000/svg";

export class Chart {
  #moments = [];
  #bars;
  #marks;
  #legend = new Map();
  #table;
  #svg;
  #width = 720;

  constructor(root, table) {
    this.#table = table;
    this.#svg = svg("svg", { height: HEIGHT, role: "img" });
    this.#marks = svg("g");
    this.#bars = svg("g");
    this.#svg.append(this.#marks, this.#bars);
    const list = element("ul");
    for (const [key, label] of [...SOURCES].reverse()) {
      const text = element("span");
      list.append(element("li", {}, element("i", { className: className(key) }), text));
      this.#legend.set(key, { text, label });
    }
    for (const [, label] of SOURCES) {
      table.tHead.rows[0].append(element("th", { scope: "col", textContent: label }));
    }
    root.append(this.#svg, list);
    // One unit of the drawing is one pixel, so that its words are as large as all others.
    new ResizeObserver(([{ contentRect }]) => {
      this.#width = Math.max(240, contentRect.width);
      this.#svg.setAttribute("viewBox", `0 0 ${this.#width} ${HEIGHT}`);
      if (this.#moments.length) this.draw(Date.now());
    }).observe(root);
  }

  reset(history) {
    this.#moments = history.slice();
  }

  /** The counters as they are now. What lies between two buckets' ends counts to the later one. */
  add(at_ms, traffic) {
    const last = this.#moments.at(-1);
    // A look of the same bucket is replaced by the later one, but for the first of all.
    const moment = { at_ms, ...traffic };
    if (this.#moments.length > 1 && last && bucket(last.at_ms) === bucket(at_ms)) this.#moments.pop();
    this.#moments.push(moment);
    const oldest = at_ms - (BUCKETS + 1) * BUCKET_MS;
    while (this.#moments.length > 2 && this.#moments[0].at_ms < oldest) this.#moments.shift();
  }

  draw(now_ms) {
    const sums = this.#sums(now_ms);
    const most = Math.max(1, ...sums.map((sum) => SOURCES.reduce((all, [key]) => all + sum[key], 0)));
    this.#drawBars(sums, most);
    this.#drawMarks(most);
    const recent = sums.slice(-3);
    const spoken = [];
    for (const [key, { text, label }] of this.#legend) {
      const total = sums.reduce((all, sum) => all + sum[key], 0);
      const now = recent.reduce((all, sum) => all + sum[key], 0) / ((recent.length * BUCKET_MS) / 1000);
      setText(text, `${label} ${bytes(total)}${now > 0 ? `, now ${rate(now)}` : ""}`);
      spoken.push(`${label} ${bytes(total)}`);
    }
    this.#svg.setAttribute("aria-label", `Bytes by source over ten minutes: ${spoken.join(", ")}`);
    if (this.#table.closest("details").open) this.#drawTable(sums);
  }

  #sums(now_ms) {
    const end = bucket(now_ms);
    const zero = () => Object.fromEntries(SOURCES.map(([key]) => [key, 0]));
    const sums = Array.from({ length: BUCKETS }, zero);
    for (let i = 1; i < this.#moments.length; i += 1) {
      const [before, after] = [this.#moments[i - 1], this.#moments[i]];
      const sum = sums[BUCKETS - 1 - (end - bucket(after.at_ms))];
      // A counter that fell is that of an agent that has started anew.
      if (sum) for (const [key] of SOURCES) sum[key] += Math.max(0, after[key] - before[key]);
    }
    return sums;
  }

  #drawBars(sums, most) {
    const step = (this.#width - LEFT) / BUCKETS;
    const scale = (HEIGHT - BOTTOM - TOP) / most;
    const bars = [];
    sums.forEach((sum, i) => {
      let y = HEIGHT - BOTTOM;
      for (const [key] of SOURCES) {
        const height = sum[key] * scale;
        if (height < 0.2) continue;
        y -= height;
        bars.push(svg("rect", { class: className(key), x: LEFT + i * step + 1, y, width: Math.max(1, step - 2), height }));
      }
    });
    this.#bars.replaceChildren(...bars);
  }

  #drawMarks(most) {
    const marks = [];
    const line = (y, text) => marks.push(
      svg("line", { class: "grid", x1: LEFT, x2: this.#width, y1: y, y2: y }),
      svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, text),
    );
    line(HEIGHT - BOTTOM, "0");
    if (most > 1) {
      line(TOP + (HEIGHT - BOTTOM - TOP) / 2, rate(most / 2 / (BUCKET_MS / 1000)));
      line(TOP, rate(most / (BUCKET_MS / 1000)));
    }
    const room = this.#width - LEFT;
    for (const minutes of room / 5 > MARK_WIDTH ? [10, 8, 6, 4, 2, 0] : [10, 5, 0]) {
      const x = this.#width - (minutes / 10) * room;
      const anchor = minutes === 0 ? "end" : minutes === 10 ? "start" : "middle";
      const text = minutes === 0 ? "now" : `${minutes} min ago`;
      marks.push(svg("text", { x, y: HEIGHT - 2, "text-anchor": anchor }, text));
    }
    this.#marks.replaceChildren(...marks);
  }

  #drawTable(sums) {
    const rows = [];
    for (let minute = 9; minute >= 0; minute -= 1) {
      const part = sums.slice((9 - minute) * 6, (10 - minute) * 6);
      const cells = SOURCES.map(([key]) => bytes(part.reduce((all, sum) => all + sum[key], 0)));
      const row = element("tr", {}, element("th", { scope: "row", textContent: `${minute} to ${minute + 1}` }));
      row.append(...cells.map((text) => element("td", { textContent: text })));
      rows.push(row);
    }
    this.#table.tBodies[0].replaceChildren(...rows);
  }
}

const bucket = (ms) => Math.floor(ms / BUCKET_MS);

const className = (key) => `s-${key.replace("_", "-")}`;

function svg(tag, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(text);
  return made;
}
