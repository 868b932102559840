// What every length was expected to bring when the newest decision was made.

import { Chart, dot, eachPoint, whisker } from "./chart.js";
import { STANDARD_ERRORS, around, dots, setEmpty } from "./dot_plot.js";
import { number, percent, withError } from "./format.js";

export class ForecastChart {
  #decision = null;
  #chart = new Chart("forecast-chart", (colour) => this.#options(colour));

  #options(colour) {
    const candidates = this.#decision.candidates;
    return dots(colour, {
      xs: candidates.map((candidate) => candidate.num_steps),
      labels: String,
      range: () => around(
        this.#decision.candidates.map((candidate) => candidate.goodput_tokens_per_s),
        this.#decision.candidates.map((candidate) => candidate.goodput_standard_error_tokens_per_s),
      ),
      draw: (u) => this.#draw(u, colour),
    });
  }

  #draw(u, colour) {
    const { candidates, num_steps: chosen } = this.#decision;
    eachPoint(u, 1, "y", (ctx, x, y, value, place) => {
      const error = STANDARD_ERRORS * candidates[place].goodput_standard_error_tokens_per_s;
      const stroke = candidates[place].num_steps === chosen ? colour.accent : colour.muted;
      whisker(u, x, value - error, value + error, stroke);
      dot(ctx, x, y, candidates[place].num_steps === chosen ? 5.5 : 4, stroke, colour.surface);
    });
  }

  show(decision) {
    this.#decision = decision ?? { candidates: [] };
    const { candidates, num_steps: chosen } = this.#decision;
    const known = candidates.length > 0;
    setEmpty("forecast-chart", known ? "" : "No forecast yet: the models are not ready.");
    if (!known) return;
    const best = candidates.reduce((a, b) => (b.goodput_tokens_per_s > a.goodput_tokens_per_s ? b : a));
    this.#chart.show([
      candidates.map((candidate) => candidate.num_steps),
      candidates.map((candidate) => candidate.goodput_tokens_per_s),
    ], {
      describe: (place) => {
        const at = candidates[place] ?? candidates.find((candidate) => candidate.num_steps === chosen);
        const { goodput_tokens_per_s: goodput, goodput_standard_error_tokens_per_s: error } = at;
        return `length ${at.num_steps}: ${withError(goodput, error)} tokens/s`;
      },
      summary: `Chart: expected goodput by length. Length ${chosen} was chosen; length ${best.num_steps} is `
        + `expected to bring most, ${number(best.goodput_tokens_per_s)} tokens a second.`,
      titles: ["Length", "Goodput, tokens/s", "Tokens a step", "Step, ms", "Lost against the best"],
      rows: candidates.map((candidate) => [
        candidate.num_steps === chosen ? `${candidate.num_steps} (chosen)` : String(candidate.num_steps),
        withError(candidate.goodput_tokens_per_s, candidate.goodput_standard_error_tokens_per_s),
        withError(candidate.tokens, candidate.tokens_standard_error),
        withError(candidate.step_ms, candidate.step_standard_error_ms),
        percent(candidate.regret_ratio, 1),
      ]),
    }, candidates.map((candidate) => candidate.num_steps).join());
  }
}
