// What the charts of the models have in common: a value for each of a few places, and how sure it is.

import { axis } from "./chart.js";

// Half a whisker, and half a band.
export const STANDARD_ERRORS = 2;
const Y_AXIS = { size: 48 };

export function dots(colour, { xs, labels, range, draw }) {
  return {
    cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
    padding: [8, 8, 0, 0],
    scales: { x: { time: false, range: [Math.min(...xs) - 0.5, Math.max(...xs) + 0.5] }, y: { range } },
    axes: [
      axis(colour, { grid: { show: false }, splits: () => xs, values: (u, splits) => splits.map((x) => labels(x)) }),
      axis(colour, Y_AXIS),
    ],
    series: [{}, { stroke: "transparent", points: { show: false } }],
    hooks: { draw: [draw] },
  };
}

// A range around values and their whiskers, as [low, high].
export function around(values, errors) {
  const lows = values.map((value, place) => value - STANDARD_ERRORS * errors[place]);
  const highs = values.map((value, place) => value + STANDARD_ERRORS * errors[place]);
  const [low, high] = [Math.min(...lows), Math.max(...highs)];
  const room = (high - low || 1) * 0.12;
  return [Math.max(low - room, 0), high + room];
}

// Says in place of a chart why there is none.
export function setEmpty(figureId, text) {
  const figure = document.getElementById(figureId);
  figure.classList.toggle("empty", text !== "");
  if (text !== "") figure.querySelector(".readout").textContent = text;
}
