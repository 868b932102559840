"""Tables of the service benchmark."""

from __future__ import annotations

from benchmarks.report import Table
from benchmarks.service.results import ANSWER_P99_BAR_S, Asking, ServiceResult, Trial

NOTES = (
    "Each engine: a connection of its own, a step every 10 ms on a fixed timetable, "
    "spans of batch {batch} in an export every 100 ms; the metrics are scraped every 5 s. "
    "The service has one core, the load the others.",
    "answer: from sending a request to its answer at the engine. lost: requests unanswered, leases refused, "
    "spans rejected, dropped or uncounted. bare steps: without a lease, as they began.",
)


def tables(result: ServiceResult) -> list[Table]:
    """What was held, then every trial."""
    asked = [asking for asking in Asking if any(trial.asking is asking for trial in result.trials)]
    return [held_table(result, asked), *(trials_table(result, asking) for asking in asked)]


def notes(result: ServiceResult) -> list[str]:
    """What the words in the tables mean."""
    return [note.format(batch=result.batch_size) for note in NOTES]


def held_table(result: ServiceResult, asked: list[Asking]) -> Table:
    """One line for each way of asking."""
    columns = (
        "engines ask", "engines held", "decisions/s", "spans/s", "answer ms p50/99/99.9", "service cores",
        "MiB an engine",
    )  # fmt: skip
    rows = []
    for asking in asked:
        held = result.engines_held.get(asking, 0)
        best = [trial for trial in result.trials if trial.asking is asking and trial.engines == held]
        memory = result.memory_per_engine_mib(asking)
        rows.append(
            (
                str(asking),
                str(held),
                *(_numbers(best[-1]) if best else ("-",) * 4),
                "-" if memory is None else f"{memory:.2f}",
            )
        )
    bar = f"p99 <= {ANSWER_P99_BAR_S * 1e3:g} ms and nothing lost"
    environment = result.environment
    title = f"engines held on one core of {environment.cpu_model} ({bar}), commit {environment.git_commit}"
    return Table(title, columns, rows)


def trials_table(result: ServiceResult, asking: Asking) -> Table:
    """One line for each trial, in the order of the search."""
    columns = (
        "engines", "s", "decisions/s", "spans/s", "answer ms p50/99/99.9", "service cores", "load cores",
        "max ms", "bare steps", "RSS MiB", "verdict",
    )  # fmt: skip
    rows = [
        (
            str(trial.engines),
            f"{trial.seconds:.0f}",
            *_numbers(trial),
            f"{trial.load_cores:.2f}",
            _ms(trial.answer_max_s),
            str(trial.steps_without_lease),
            f"{trial.service_rss_mib:.0f}",
            "held" if trial.held else ", ".join(trial.faults),
        )
        for trial in result.trials
        if trial.asking is asking
    ]
    return Table(f"engines ask: {asking}", columns, rows)


def _numbers(trial: Trial) -> tuple[str, str, str, str]:
    latencies = (trial.answer_p50_s, trial.answer_p99_s, trial.answer_p999_s)
    return (
        f"{trial.decisions_per_s:,.0f}",
        f"{trial.spans_per_s:,.0f}",
        " / ".join(map(_ms, latencies)),
        f"{trial.service_cores:.2f}",
    )


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f}"
