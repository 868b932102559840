// Asks the service once a second and shows what it says; says so when it does not answer.

import { AcceptanceChart } from "./acceptance_chart.js";
import { byId, make, setChildren, setText } from "./dom.js";
import { showEngine } from "./engine.js";
import { ForecastChart } from "./forecast_chart.js";
import { clock } from "./format.js";
import { History } from "./history.js";
import { StepTimeChart } from "./step_chart.js";
import { TimeCharts } from "./time_charts.js";

// Charts that move are motion: whoever wants less of it gets it less often.
const CALM = window.matchMedia("(prefers-reduced-motion: reduce)");
const PERIOD_MS = 1_000;
const CALM_PERIOD_MS = 5_000;
const TIMEOUT_MS = 4_000;

class UnknownEngine extends Error {}

class Page {
  #timeCharts = new TimeCharts();
  #forecast = new ForecastChart();
  #acceptance = new AcceptanceChart();
  #stepTimes = new StepTimeChart();
  #history = new History();
  #engineId = null;
  #engine = null;
  #startedS = null;
  #windowS = 300;
  #failingSinceS = null;
  #paused = false;
  #asking = false;
  #timer = null;

  start() {
    byId("pause").addEventListener("click", () => this.#setPaused(!this.#paused));
    document.addEventListener("visibilitychange", () => this.#ask());
    window.addEventListener("hashchange", () => this.#choose(engineInAddress()));
    CALM.addEventListener("change", () => this.#ask());
    byId("skip").addEventListener("click", (event) => {
      // The address names the engine; the link must not overwrite that.
      event.preventDefault();
      byId("engine").focus();
    });
    for (const radio of document.querySelectorAll("input[name=window]")) {
      radio.addEventListener("change", () => {
        this.#windowS = Number(radio.value);
        this.#draw();
      });
    }
    // A browser may restore what was chosen before a reload.
    this.#windowS = Number(document.querySelector("input[name=window]:checked").value);
    this.#engineId = engineInAddress();
    this.#ask();
  }

  #setPaused(paused) {
    this.#paused = paused;
    byId("pause").setAttribute("aria-pressed", String(paused));
    setText(byId("pause"), paused ? "Resume" : "Pause");
    this.#showFreshness();
    this.#ask();
  }

  #choose(engineId) {
    if (engineId === this.#engineId) return;
    this.#engineId = engineId;
    this.#engine = null;
    this.#history = new History();
    this.#ask();
  }

  async #ask() {
    clearTimeout(this.#timer);
    if (this.#paused || document.hidden || this.#asking) return;
    this.#asking = true;
    try {
      await this.#update();
      this.#setFailing(null);
    } catch (error) {
      this.#setFailing(error);
    }
    this.#asking = false;
    this.#showFreshness();
    this.#timer = setTimeout(() => this.#ask(), this.#pauseMs);
  }

  get #pauseMs() {
    const shown = this.#engine?.profile.engine_id ?? null;
    if (this.#failingSinceS === null && shown !== this.#engineId) return 0;
    return CALM.matches ? CALM_PERIOD_MS : PERIOD_MS;
  }

  async #update() {
    const list = await getJson("api/engines");
    if (list.started_s !== this.#startedS) {
      // Another run of the service: it remembers nothing of what is shown.
      this.#startedS = list.started_s;
      this.#history = new History();
    }
    this.#engineId ??= list.engines[0]?.engine_id ?? null;
    this.#showList(list);
    byId("nothing").hidden = this.#engineId !== null;
    if (this.#engineId === null) return;
    try {
      await this.#updateEngine(this.#engineId);
    } catch (error) {
      if (!(error instanceof UnknownEngine)) throw error;
      this.#forget();
    }
  }

  async #updateEngine(engineId) {
    const history = this.#history;
    const query = new URLSearchParams({ id: engineId, since: history.sinceS });
    const engine = await getJson(`api/engine?${query}`);
    // Another one was chosen while this was under way.
    if (engineId !== this.#engineId) return;
    history.add(engine.history, engine.now_s);
    this.#engine = engine;
    this.#draw();
  }

  #forget() {
    this.#engineId = null;
    this.#engine = null;
    byId("engine").hidden = true;
  }

  #draw() {
    const engine = this.#engine;
    if (engine === null) return;
    byId("engine").hidden = false;
    document.title = `${engine.verdict.headline} ${engine.verdict.figure}`.trim() + " – TurboSpec";
    showEngine(engine);
    this.#timeCharts.show(this.#history, engine.profile.candidate_num_steps, engine.now_s, this.#windowS);
    this.#forecast.show(engine.decision);
    this.#acceptance.show(engine.acceptance);
    this.#stepTimes.show(engine.step_time, engine.now.num_steps);
  }

  #showList(list) {
    byId("engines").hidden = list.engines_total < 2;
    const leftOut = list.engines_total - list.engines.length;
    setText(byId("engines-count"), `Engines (${list.engines_total}${leftOut ? `, ${leftOut} not listed` : ""})`);
    const items = byId("engine-list");
    // Links stay while the engines do: one of them may have the focus.
    setChildren(items, list.engines.map((engine) => engine.engine_id), (ids) => ids.map(engineItem));
    list.engines.forEach((engine, place) => {
      const link = items.children[place].firstElementChild;
      link.dataset.level = engine.verdict.level;
      link.setAttribute("aria-current", String(engine.engine_id === this.#engineId));
      setText(link.lastElementChild, `${engine.verdict.headline} ${engine.verdict.figure}`.trim());
    });
  }

  #setFailing(error) {
    const banner = byId("banner");
    banner.hidden = error === null;
    document.body.classList.toggle("stale", error !== null);
    if (error === null) {
      this.#failingSinceS = null;
      return;
    }
    this.#failingSinceS ??= Date.now() / 1000;
    setText(banner, `The control service has not answered since ${clock(this.#failingSinceS)} (${error.message}). `
      + "What is shown is from before. Without it engines do not speculate. Trying again …");
    document.title = "Service not reached – TurboSpec";
  }

  #showFreshness() {
    const at = this.#engine === null ? "" : `, ${clock(this.#engine.now_s)}`;
    const state = this.#paused ? "Paused" : this.#failingSinceS !== null ? "Not reached" : "Live";
    setText(byId("freshness"), `${state}${at}`);
  }
}

function engineItem(engineId) {
  return make("li", {}, [
    make("a", { href: `#engine=${encodeURIComponent(engineId)}` }, [make("b", { text: engineId }), make("span")]),
  ]);
}

function engineInAddress() {
  return new URLSearchParams(location.hash.slice(1)).get("engine");
}

async function getJson(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS), cache: "no-store" });
  if (answer.status === 404) throw new UnknownEngine((await answer.json()).error);
  if (!answer.ok) throw new Error(`it answers ${answer.status}`);
  return answer.json();
}

new Page().start();
