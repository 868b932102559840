// One engine in words: the verdict, the four facts, the last decisions and the totals.

import { byId, make, setChildren, setText } from "./dom.js";
import { clock, counts, number, percent, plural, shellWord, signedPercent } from "./format.js";

export function showEngine(engine) {
  const { profile, verdict } = engine;
  setText(byId("engine-id"), profile.engine_id);
  setText(byId("profile"), profileText(profile));
  byId("verdict").dataset.level = verdict.level;
  setText(byId("headline-text"), verdict.headline);
  setText(byId("headline-figure"), verdict.figure);
  setText(byId("detail"), verdict.detail);
  showFacts(engine);
  setChildren(byId("decisions"), engine.decisions, (rows) => rows.map(decisionItem));
  showCommands(profile.engine_id);
  setChildren(byId("totals-list"), totals(engine), (pairs) => pairs.map(([name, text]) => make("div", {}, [
    make("dt", { text: name }), make("dd", { text }),
  ])));
  setText(byId("version"), `TurboSpec ${engine.version}, up since ${clock(engine.started_s)}.`);
}

function profileText(profile) {
  const draft = profile.draft_model ? `, draft ${modelName(profile.draft_model)}` : "";
  return `${modelName(profile.target_model)} · ${profile.algorithm}${draft} · SGLang ${profile.sglang_version}`
    + ` · ${profile.dtype} on ${profile.accelerator}`;
}

// Of a directory, its name: that is what tells models apart. A hub's `owner/name` stays whole.
function modelName(model) {
  return model.startsWith("/") ? model.split("/").findLast(Boolean) ?? model : model;
}

function showFacts({ profile, now, control, decision, ...engine }) {
  setText(byId("goodput"), number(now.goodput_tokens_per_s));
  setText(byId("goodput-more"), now.without_tokens_per_s === null
    ? "what it would be without speculation is not known yet"
    : `${number(now.without_tokens_per_s)} expected without speculation`);
  setText(byId("length"), number(now.num_steps));
  setText(byId("length-of"), `of ${profile.candidate_num_steps.join(", ")}`);
  setText(byId("why"), [batchText(now), decision?.why, decision && gainText(decision)].filter(Boolean).join("; "));
  setText(byId("accepted"), percent(now.acceptance_rate));
  setText(byId("accepted-more"), now.mean_accepted_length_tokens === null
    ? "no drafts of late" : `${number(now.mean_accepted_length_tokens)} tokens a request and step that drafted`);
  setText(byId("mode"), engine.mode === "canary" ? `canary ${engine.canary_percent} %` : engine.mode);
  setText(byId("control-more"), [
    engine.connected ? "connected" : "not connected",
    `policy ${engine.policy}${parametersText(engine.policy_parameters)}`,
    control.steps ? `last minute: ${sharesText(control)}` : "no step in the last minute",
  ].join("; "));
}

function batchText({ batch_size: batch, waiting_requests: waiting }) {
  if (batch === null) return "";
  return `batch ${number(batch)}${waiting ? `, ${number(waiting)} waiting` : ""}`;
}

function parametersText(parameters) {
  const parts = Object.entries(parameters).map(([name, value]) => `${name}=${value}`);
  return parts.length ? ` (${parts.join(", ")})` : "";
}

function sharesText({ steps, steps_by_source: bySource }) {
  return Object.entries(bySource)
    .map(([source, count]) => `${source.replaceAll("_", " ")} ${percent(count / steps, count === steps ? 0 : 1)}`)
    .join(", ");
}

function gainText({ gain_ratio: ratio, gain_standard_error_ratio: error, rival_num_steps: rival }) {
  return ratio === null ? "" : `${signedPercent(ratio)} ± ${percent(error, 1)} expected over length ${rival}`;
}

function decisionItem(row) {
  const meta = [
    `batch ${number(row.batch_size)}`, gainText(row), plural(row.decisions, "decision"),
    `from step ${number(row.step_index)}`,
  ].filter(Boolean).join(" · ");
  return make("li", {}, [
    make("span", { className: "when", text: clock(row.reported_s) }),
    make("span", { className: "length", text: `length ${row.num_steps}` }),
    make("div", {}, [
      make("p", { text: capital(row.why) }),
      make("p", { className: "meta", text: meta }),
    ]),
  ]);
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function showCommands(engineId) {
  for (const mode of ["shadow", "off", "enforce"]) {
    setText(byId(`command-${mode}`), `turbospec mode ${shellWord(engineId)} ${mode}`);
  }
}

function totals({ profile, totals: total, control }) {
  return [
    ["steps", `${number(total.steps)}, length switched ${plural(total.switches, "time")}`],
    ["steps by length", counts(total.steps_by_num_steps)],
    ["steps by source", counts(total.steps_by_source)],
    ["fallbacks by reason", counts(total.fallbacks_by_reason)],
    ["decisions", `${number(total.decisions)}, model generation ${number(total.model_generation)}`],
    ["decisions by reason", counts(total.decisions_by_reason)],
    ["tokens", `${number(total.committed_tokens)} committed, ${number(total.accepted_tokens)} of `
      + `${number(total.draft_tokens)} drafts accepted`],
    ["telemetry dropped", counts(total.telemetry_dropped_by_cause)],
    ["control per step, µs", quantiles(control.control_us)],
    ["wait for a lease, µs", quantiles(control.decision_wait_us)],
    ["service's answer, µs", quantiles(control.answer_us)],
    ["engine epoch", profile.epoch],
    ["running requests at most", number(profile.max_running_requests)],
  ];
}

function quantiles({ p50, p99, max }) {
  return p50 === null ? "–" : `p50 ${number(p50)}, p99 ${number(p99)}, max ${number(max)}`;
}
