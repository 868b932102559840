// One figure of the page: a uPlot chart that follows the figure's width and the colour scheme,
// with a readout, a description for screen readers, and a table of the same numbers.

import { setTable, setText } from "./dom.js";

const DARK = window.matchMedia("(prefers-color-scheme: dark)");
const FONT = "12px system-ui, sans-serif";

export function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "muted", "rule", "surface", "accent", "accent-soft", "predicted", "without", "without-soft",
    "batch", "warn"];
  return Object.fromEntries(names.map((name) => [name.replace("-s", "S"), style.getPropertyValue(`--${name}`)]));
}

export class Chart {
  #figure;
  #plot;
  #options;
  #uplot = null;
  #key = "";
  #data = null;
  #text = null;

  // options(colours): uPlot's options without a size.
  constructor(figureId, options) {
    this.#figure = document.getElementById(figureId);
    this.#plot = this.#figure.querySelector(".plot");
    this.#options = options;
    DARK.addEventListener("change", () => this.#build());
    new ResizeObserver(() => this.#resize()).observe(this.#plot);
    this.#table.addEventListener("toggle", () => this.#fillTable());
  }

  // key: whatever the options depend on; another one builds the chart anew. text: the same in words:
  // describe(place), the readout at a place of the x values (null: where nothing is pointed at); summary;
  // titles and rows of the table.
  show(data, text, key = "") {
    this.#data = data;
    this.#text = text;
    this.#plot.setAttribute("aria-label", text.summary);
    if (this.#uplot === null || key !== this.#key) {
      this.#key = key;
      this.#build();
    } else {
      this.#uplot.setData(data);
    }
    this.#read();
    this.#fillTable();
  }

  get #table() {
    return this.#figure.querySelector("details.data");
  }

  #fillTable() {
    if (this.#text !== null) setTable(this.#table, this.#text.titles, this.#text.rows);
  }

  get #size() {
    return { width: Math.max(this.#plot.clientWidth, 120), height: this.#plot.clientHeight };
  }

  #build() {
    if (this.#data === null) return;
    this.#uplot?.destroy();
    const options = this.#options(colours());
    const hooks = { ...options.hooks, setCursor: [() => this.#read()] };
    this.#uplot = new uPlot({
      ...this.#size, ...options, hooks, legend: { show: false },
    }, this.#data, this.#plot);
  }

  #resize() {
    if (this.#uplot === null) return;
    const { width, height } = this.#size;
    if (width !== this.#uplot.width || height !== this.#uplot.height) this.#uplot.setSize({ width, height });
  }

  #read() {
    const place = this.#uplot?.cursor.idx ?? null;
    setText(this.#figure.querySelector(".readout"), this.#text.describe(place));
  }
}

// An axis in the page's colours.
export function axis(colour, more = {}) {
  return {
    stroke: colour.muted,
    font: FONT,
    grid: { stroke: colour.rule, width: 1 },
    ticks: { show: false },
    gap: 6,
    size: 26,
    ...more,
  };
}

// Draws `mark(context, x, y, value, place)` for every value of a series, in canvas pixels.
export function eachPoint(u, seriesIndex, scale, mark) {
  u.data[seriesIndex].forEach((value, place) => {
    if (value === null) return;
    const x = u.valToPos(u.data[0][place], "x", true);
    mark(u.ctx, x, u.valToPos(value, scale, true), value, place);
  });
}

// A whisker from `low` to `high` (values of the y scale), centred on x.
export function whisker(u, x, low, high, colour) {
  const { ctx } = u;
  const [bottom, top] = [u.valToPos(low, "y", true), u.valToPos(high, "y", true)];
  const half = 3 * devicePixelRatio;
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(x, bottom);
  ctx.lineTo(x, top);
  ctx.moveTo(x - half, bottom);
  ctx.lineTo(x + half, bottom);
  ctx.moveTo(x - half, top);
  ctx.lineTo(x + half, top);
  ctx.stroke();
}

export function dot(ctx, x, y, radius, fill, stroke) {
  ctx.beginPath();
  ctx.arc(x, y, radius * devicePixelRatio, 0, 2 * Math.PI);
  ctx.fillStyle = fill;
  ctx.fill();
  ctx.strokeStyle = stroke;
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.stroke();
}

export { FONT };
