// The two charts over time; they share the time axis and the cursor.

import { Chart, axis, eachPoint } from "./chart.js";
import { clock, number, plural } from "./format.js";

const TABLE_ROWS = 120;
const SYNC = "time";
const LENGTH_COLUMNS = ["num_steps_high", "num_steps_low", "num_steps", "batch_size"];
const GOODPUT_COLUMNS = ["goodput_tokens_per_s", "predicted_tokens_per_s", "without_tokens_per_s"];
// Axes of one width, so that the charts' times stand above one another.
const Y_AXIS = 48;

function common(colour, more) {
  return {
    cursor: { y: false, sync: { key: SYNC }, points: { show: false }, drag: { x: false, y: false } },
    padding: [8, 0, 0, 0],
    ...more,
    axes: [
      axis(colour, {
        grid: { show: false },
        // A time of day and a gap.
        space: 80,
        values: (u, splits, index, space, increment) => splits.map((timeS) => clock(timeS, increment < 60)),
      }),
      ...more.axes,
    ],
  };
}

function lengthOptions(colour, candidates) {
  const stepped = { paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } };
  return common(colour, {
    scales: {
      y: { range: [-0.4, Math.max(candidates.at(-1), 1) + 0.4] },
      batch: { range: (u, low, high) => [0, Math.max(high, 1) * 1.15] },
    },
    axes: [
      axis(colour, { size: Y_AXIS, splits: () => candidates, values: (u, splits) => splits.map(String) }),
      axis(colour, {
        scale: "batch", side: 1, size: Y_AXIS, grid: { show: false },
        values: (u, splits) => splits.map((size) => (Number.isInteger(size) ? String(size) : "")),
      }),
    ],
    series: [
      {},
      { stroke: "transparent", ...stepped },
      { stroke: "transparent", ...stepped },
      { stroke: colour.accent, width: 2.5, ...stepped },
      { scale: "batch", fill: colour.batch, width: 0, ...stepped },
      { show: false },
    ],
    bands: [{ series: [1, 2], fill: colour.accentSoft }],
    hooks: { draw: [(u) => drawFallbacks(u, colour)] },
  });
}

function drawFallbacks(u, colour) {
  const { top, height } = u.bbox;
  const tall = 6 * devicePixelRatio;
  const wide = Math.max(u.valToPos(1, "x", true) - u.valToPos(0, "x", true), 2);
  eachPoint(u, 5, "y", (ctx, x, y, steps) => {
    if (steps === 0) return;
    ctx.fillStyle = colour.warn;
    ctx.fillRect(x, top + height - tall, wide, tall);
  });
}

function goodputOptions(colour) {
  const line = (stroke, more) => ({ stroke, points: { show: false }, ...more });
  return common(colour, {
    scales: { y: { range: (u, low, high) => [0, (high || 1) * 1.1] } },
    axes: [
      axis(colour, { size: Y_AXIS }),
      // Keeps the width of the batch axis above.
      axis(colour, { side: 1, size: Y_AXIS, grid: { show: false }, values: () => [] }),
    ],
    series: [
      {},
      line(colour.accent, { width: 2 }),
      line(colour.predicted, { width: 1.5, dash: [2, 3] }),
      line(colour.without, { width: 2, dash: [8, 4] }),
    ],
    bands: [{ series: [1, 3], fill: colour.accentSoft }],
  });
}

export class TimeCharts {
  #candidates = [];
  #length = new Chart("length-chart", (colour) => lengthOptions(colour, this.#candidates));
  #goodput = new Chart("goodput-chart", goodputOptions);

  show(history, candidates, nowS, windowS) {
    const fromS = nowS - windowS;
    this.#candidates = candidates;
    this.#showLength(history, fromS, nowS);
    this.#showGoodput(history, fromS, nowS);
  }

  #showLength(history, fromS, nowS) {
    const [times, ...columns] = history.dense(LENGTH_COLUMNS, fromS, nowS);
    const [high, low, length, batch] = columns;
    const fallbacks = times.map((timeS) => history.at(timeS)?.fallback_steps ?? 0);
    const rows = history.rows(fromS);
    this.#length.show([times, ...columns, fallbacks], {
      describe: (place) => {
        const at = place ?? lastKnown(length);
        if (at === null || length[at] === null) return place === null ? "no step" : `${clock(times[at])} · no step`;
        const range = low[at] === high[at] ? "" : ` (${low[at]} to ${high[at]})`;
        const lost = fallbacks[at] ? ` · ${plural(fallbacks[at], "step")} without a lease` : "";
        return `${clock(times[at])} · length ${length[at]}${range} · batch ${number(batch[at])}${lost}`;
      },
      summary: lengthSummary(rows),
      titles: ["Time", "Length", "Lowest", "Highest", "Batch", "Steps", "Without a lease"],
      rows: newestFirst(rows).map((row) => [
        clock(row.time_s), String(row.num_steps), String(row.num_steps_low), String(row.num_steps_high),
        number(row.batch_size), number(row.steps), number(row.fallback_steps),
      ]),
    }, this.#candidates.join());
  }

  #showGoodput(history, fromS, nowS) {
    const data = history.dense(GOODPUT_COLUMNS, fromS, nowS);
    const rows = history.rows(fromS);
    const [times, measured, predicted, without] = data;
    this.#goodput.show(data, {
      describe: (place) => {
        const at = place ?? lastKnown(measured);
        if (at === null || measured[at] === null) return place === null ? "no step" : `${clock(times[at])} · no step`;
        return `${clock(times[at])} · ${number(measured[at])} measured · ${number(predicted[at])} expected`
          + ` · ${number(without[at])} without`;
      },
      summary: goodputSummary(rows),
      titles: ["Time", "Measured", "Expected", "Without speculation"],
      rows: newestFirst(rows).map((row) => [
        clock(row.time_s), ...GOODPUT_COLUMNS.map((name) => number(row[name])),
      ]),
    });
  }
}

function lengthSummary(rows) {
  if (rows.length === 0) return "Chart: no step in this time.";
  const lengths = rows.map((row) => row.num_steps);
  const newest = rows.at(-1);
  return `Chart: speculation length ${newest.num_steps} at last, from ${Math.min(...lengths)} to `
    + `${Math.max(...lengths)} in this time; ${number(newest.batch_size)} requests in the batch at last.`;
}

function goodputSummary(rows) {
  if (rows.length === 0) return "Chart: no step in this time.";
  const newest = rows.at(-1);
  return `Chart: goodput ${number(newest.goodput_tokens_per_s)} tokens a second at last, `
    + `${number(newest.without_tokens_per_s)} expected without speculation.`;
}

function newestFirst(rows) {
  return rows.slice(-TABLE_ROWS).reverse();
}

function lastKnown(values) {
  const place = values.findLastIndex((value) => value !== null);
  return place < 0 ? null : place;
}
