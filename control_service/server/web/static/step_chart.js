// What a step costs by batch size, a curve for every length.

import { Chart, FONT } from "./chart.js";
import { STANDARD_ERRORS, dots, setEmpty } from "./dot_plot.js";
import { number, withError } from "./format.js";

export class StepTimeChart {
  #view = { batch_sizes: [], curves: [] };
  #length = 0;
  #chart = new Chart("step-chart", (colour) => this.#options(colour));

  // Length 0 first, then the length in force: each [curve, its series]; the others have a line only.
  #banded() {
    const lengths = this.#length === 0 ? [0] : [0, this.#length];
    return this.#view.curves.filter((curve) => lengths.includes(curve.num_steps));
  }

  #options(colour) {
    const curves = this.#view.curves;
    const places = this.#view.batch_sizes.map((size, place) => place);
    const stroke = (curve) => {
      if (curve.num_steps === this.#length) return { stroke: colour.accent, width: 2.5 };
      return curve.num_steps === 0
        ? { stroke: colour.without, width: 2, dash: [8, 4] } : { stroke: colour.predicted, width: 1 };
    };
    const points = { show: places.length === 1, size: 6 };
    const options = dots(colour, {
      xs: places,
      labels: (place) => this.#view.batch_sizes[place],
      range: (u, low, high) => [0, (high || 1) * 1.08],
      draw: (u) => this.#label(u, colour),
    });
    const edge = { stroke: "transparent", points: { show: false } };
    return {
      ...options,
      padding: [8, 24, 0, 0],
      scales: { ...options.scales, x: { time: false, range: [-0.2, Math.max(places.length - 1, 0.2) + 0.2] } },
      series: [
        {},
        ...curves.map((curve) => ({ ...stroke(curve), points })),
        ...this.#banded().flatMap(() => [edge, edge]),
      ],
      bands: this.#banded().map((curve, place) => ({
        series: [1 + curves.length + 2 * place, 2 + curves.length + 2 * place],
        fill: curve.num_steps === this.#length ? colour.accentSoft : colour.withoutSoft,
      })),
    };
  }

  // The length at the right end of every curve; one that would cover another's is left out.
  #label(u, colour) {
    const { ctx } = u;
    ctx.font = FONT.replace("12", String(12 * devicePixelRatio));
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    const x = u.bbox.left + u.bbox.width + 4 * devicePixelRatio;
    const taken = [];
    for (const curve of [...this.#view.curves].sort((a, b) => this.#rank(a) - this.#rank(b))) {
      const y = u.valToPos(curve.step_ms.at(-1), "y", true);
      if (taken.some((other) => Math.abs(other - y) < 12 * devicePixelRatio)) continue;
      taken.push(y);
      ctx.fillStyle = curve.num_steps === this.#length ? colour.accent : colour.muted;
      ctx.fillText(String(curve.num_steps), x, y);
    }
  }

  #rank(curve) {
    return curve.num_steps === this.#length ? -1 : curve.num_steps;
  }

  show(view, length) {
    this.#view = view;
    this.#length = length ?? 0;
    setEmpty("step-chart", view.ready ? "" : `Not ready: ${view.not_ready_reason}.`);
    if (!view.ready) return;
    const edges = this.#banded().flatMap(({ step_ms: means, standard_error_ms: errors }) => [
      means.map((mean, place) => mean + STANDARD_ERRORS * errors[place]),
      means.map((mean, place) => Math.max(mean - STANDARD_ERRORS * errors[place], 0)),
    ]);
    const current = view.curves.find((curve) => curve.num_steps === this.#length) ?? view.curves[0];
    const at = (curve, place) => withError(curve.step_ms[place], curve.standard_error_ms[place]);
    this.#chart.show([
      view.batch_sizes.map((size, place) => place), ...view.curves.map((curve) => curve.step_ms), ...edges,
    ], {
      describe: (place) => {
        const here = place ?? 0;
        return `batch ${view.batch_sizes[here]}: length ${current.num_steps} ${at(current, here)},`
          + ` length 0 ${at(view.curves[0], here)}`;
      },
      summary: `Chart: milliseconds of a step by batch size. At batch ${view.batch_sizes[0]}, length `
        + `${current.num_steps} takes ${number(current.step_ms[0])}, length 0 ${number(view.curves[0].step_ms[0])}.`,
      titles: ["Length", ...view.batch_sizes.map((size) => `Batch ${size}, ms`)],
      rows: view.curves.map((curve) => [
        String(curve.num_steps),
        ...view.batch_sizes.map((size, place) => `${at(curve, place)}${curve.samples[place] > 0 ? "" : " (never ran)"}`),
      ]),
    }, JSON.stringify([view.batch_sizes, this.#length, view.curves.length]));
  }
}
