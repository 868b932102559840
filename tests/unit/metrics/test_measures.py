"""The list of metrics: names as the field has them, a bounded number of series, a page that says the same."""

from __future__ import annotations

import math
import re
from itertools import chain

import pytest
from prometheus_client.core import Metric

from control_service.core.types import EngineProfile, Mode
from control_service.core.validation import MAX_CANDIDATES, MAX_LENGTH
from control_service.server.metrics.collector import ENGINE_MEASURES
from control_service.server.metrics.measure import Measure
from control_service.server.metrics.service_measures import SERVICE_MEASURES
from scripts.docs import DOCS, HEADER
from scripts.pages import metrics
from tests.unit.control_service.factories import observation, profile, query
from tests.unit.metrics.builders import registry, scrape

ALL = (*ENGINE_MEASURES, *SERVICE_MEASURES)
PAGE = DOCS / "metrics.md"
UNITS = ("seconds", "tokens", "ratio", "tokens_per_second", "info")


def samples(families: list[Metric]) -> dict[tuple[str, ...], float]:
    """By name and label values in their order."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("measure", ALL, ids=lambda measure: measure.name)
def test_names_follow_the_conventions(measure: Measure[object]) -> None:
    assert re.fullmatch(r"turbospec_[a-z][a-z_]*", measure.exposed_name)
    assert measure.exposed_name.endswith("_total") == (measure.kind == "counter")
    # Times are seconds; no other unit of time may be named.
    assert not re.search(r"_(us|ms|ns|micros|millis)", measure.name)
    if measure.kind == "histogram":
        assert measure.name.endswith(UNITS)
    assert measure.meaning.endswith(".")


def test_no_name_is_used_twice() -> None:
    names = [measure.exposed_name for measure in ALL]
    assert len(names) == len(set(names))


def test_the_reference_page_is_what_the_code_says() -> None:
    made = HEADER + metrics.render().rstrip() + "\n"
    assert PAGE.read_text() == made, "docs/metrics.md is out of date: make docs"


async def test_what_is_not_known_yet_has_no_series() -> None:
    engines = registry()
    engines.attach(profile(), 1)
    found = samples(await scrape(engines))
    assert not [key for key, value in found.items() if math.isnan(value)]
    assert not [key for key in found if "goodput" in key[0] or "candidate" in key[0]]
    # Counters are there from the beginning, so that their first increase is seen.
    assert found["turbospec_steps_total", "engine", "fallback"] == 0
    assert found["turbospec_steps_by_length_total", "engine", "5"] == 0


async def test_a_step_is_counted_once_in_every_view_of_it() -> None:
    engines = registry()
    session = engines.attach(profile(), 1).session
    session.observe(observation(1, 3, (3, 1), duration_s=0.02, decision_wait_us=250.0, control_us=40.0))
    session.observe(observation(2, 0, (0, 0), duration_s=0.01, source="fallback", fallback_reason="deadline"))
    found = samples(await scrape(engines))
    assert found["turbospec_steps_total", "engine", "lease"] == 1
    assert found["turbospec_steps_total", "engine", "fallback"] == 1
    assert found["turbospec_fallbacks_total", "engine", "deadline"] == 1
    assert found["turbospec_steps_by_length_total", "engine", "3"] == 1
    assert found["turbospec_committed_tokens_total", "engine", "3"] == 6
    assert found["turbospec_committed_tokens_total", "engine", "0"] == 2
    assert found["turbospec_step_seconds_total", "engine", "3"] == pytest.approx(0.02)
    assert found["turbospec_committed_tokens_by_source_total", "engine", "lease"] == 6
    assert found["turbospec_committed_tokens_by_source_total", "engine", "fallback"] == 2
    assert found["turbospec_step_seconds_by_source_total", "engine", "lease"] == pytest.approx(0.02)
    assert found["turbospec_step_seconds_by_source_total", "engine", "fallback"] == pytest.approx(0.01)
    by_position = "turbospec_accepted_tokens_per_position_total"
    assert [found[by_position, "engine", str(position)] for position in (1, 2, 3, 4)] == [2, 1, 1, 0]
    for histogram, total in (("decision_wait", 250e-6), ("control", 40e-6), ("step_duration", 0.03)):
        assert found[f"turbospec_{histogram}_seconds_count", "engine"] == 2
        assert found[f"turbospec_{histogram}_seconds_sum", "engine"] == pytest.approx(total)


async def test_odd_names_in_any_number_cannot_make_more_series_than_are_declared() -> None:
    """Engines come and go, and one of them makes up names as it goes."""
    engines_max = 3
    engines = registry(engines_max)
    for number in range(10):
        names = _odd_profile(number)
        entry = engines.attach(names, number)
        for index in range(1, 100):
            entry.session.decide(query(index, 2))
            odd = observation(
                index, index % 65, (0, 0), source=("fallback", f"source-{index}")[index % 2],
                fallback_reason=f"reason-{index}", previous_num_steps=-1,
            )  # fmt: skip
            entry.session.observe(odd)
            if entry.session.needs_refit:
                entry.session.refit()
        entry.session.set_mode(Mode.SHADOW, 0)
        engines.detach(names.engine_id, number)
    families = await scrape(engines)
    assert {f.name for f in families} >= {"turbospec_fallbacks", "turbospec_telemetry_dropped"}
    measures = {f"turbospec_{measure.name}": measure for measure in ALL}
    for family in families:
        measure = measures[family.name]
        allowed = math.prod(label.values_max for label in measure.labels)
        allowed *= engines_max if measure in ENGINE_MEASURES else 1
        series = {
            tuple(value for name, value in sample.labels.items() if name != "le") for sample in family.samples
        }
        assert len(series) <= allowed, family.name
    longest = max(len(value) for f in families for s in f.samples for value in s.labels.values())
    assert longest <= 128
    everything = [sample for family in families for sample in family.samples]
    assert len(everything) < engines_max * 500


def _odd_profile(number: int) -> EngineProfile:
    lengths = tuple(chain(range(MAX_CANDIDATES - 1), (MAX_LENGTH,)))
    return profile(
        engine_id=f'engine\n{{}}"-{number}'.replace("\n", " "),
        candidate_num_steps=lengths,
        launch_num_steps=MAX_LENGTH,
        target_model="m" * 512,
        accelerator='quote " and \\ backslash',
    )
