// How likely each draft is to be accepted, given that all before it were.

import { Chart, dot, eachPoint, whisker } from "./chart.js";
import { STANDARD_ERRORS, dots, setEmpty } from "./dot_plot.js";
import { number, percent } from "./format.js";

export class AcceptanceChart {
  #plain = [];
  #inside = null;
  #chart = new Chart("acceptance-chart", (colour) => dots(colour, {
    xs: this.#plain.map((estimate) => estimate.position),
    labels: String,
    range: [0, 1.02],
    draw: (u) => this.#draw(u, colour),
  }));

  #draw(u, colour) {
    eachPoint(u, 1, "y", (ctx, x, y, value, place) => {
      // Nothing was observed there: what is shown leans on the position before.
      const stroke = this.#plain[place].observed > 0 ? colour.accent : colour.muted;
      this.#mark(u, x, this.#plain[place], stroke, stroke, colour.surface);
    });
    if (this.#inside?.observed > 0) {
      const x = u.valToPos(1.18, "x", true);
      this.#mark(u, x, this.#inside, colour.accent, colour.surface, colour.accent);
    }
  }

  #mark(u, x, { probability, standard_error: standardError }, line, fill, edge) {
    const error = STANDARD_ERRORS * standardError;
    whisker(u, x, Math.max(probability - error, 0), Math.min(probability + error, 1), line);
    dot(u.ctx, x, u.valToPos(probability, "y", true), 4.5, fill, edge);
  }

  show(estimates) {
    this.#plain = estimates.filter((estimate) => !estimate.after_full_accept);
    this.#inside = estimates.find((estimate) => estimate.after_full_accept) ?? null;
    setEmpty("acceptance-chart", this.#plain.length > 0 ? "" : "This engine runs length 0 only.");
    if (this.#plain.length === 0) return;
    const named = ({ position, after_full_accept: after }) => `${position}${after ? " after a full accept" : ""}`;
    const spoken = ({ probability, standard_error: error }) => `${percent(probability, 1)} ± ${percent(error, 1)}`;
    this.#chart.show([
      this.#plain.map((estimate) => estimate.position),
      this.#plain.map((estimate) => estimate.probability),
    ], {
      describe: (place) => {
        const at = this.#plain[place ?? 0];
        return `position ${at.position}: ${spoken(at)}${at.observed > 0 ? "" : ", not observed"}`;
      },
      summary: `Chart: chance that a draft is accepted. ${this.#plain
        .map((estimate) => `Position ${estimate.position} ${percent(estimate.probability)}`).join(", ")}.`,
      titles: ["Position", "Accepted", "Weight of what was observed"],
      rows: estimates.map((estimate) => [named(estimate), spoken(estimate), number(estimate.observed)]),
    }, this.#plain.length);
  }
}
