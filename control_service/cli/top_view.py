"""What `turbospec top` shows: a few lines an engine on a terminal, one line an engine elsewhere."""

from __future__ import annotations

import math
import time
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from control_service.cli.render import UNKNOWN, counts, mode_text, number, percent, policy_text
from control_service.cli.sparkline import sparkline
from control_service.cli.top_history import EngineHistory, Histories
from turbospec.v1 import admin_pb2

CLOCK: Final = "%H:%M:%S"
BARS: Final = 30
OVERVIEW_BARS: Final = 12
# Of one engine, the blank line before it included.
BLOCK_LINES: Final = 8
HEADING_LINES: Final = 1
NO_ENGINE: Final = "no engine has connected to this service yet"


def screen(
    answer: admin_pb2.ListEnginesResponse | None,
    problem: str,
    address: str,
    histories: Histories,
    lines_max: int,
) -> RenderableType:
    """All engines, drawn over the look before; without an answer, why there is none.

    An engine gets a block of lines, or one line where that is all there is room for.
    """
    heading = Table.grid(expand=True)
    heading.add_column(overflow="fold")
    heading.add_column(justify="right", no_wrap=True)
    if answer is None:
        heading.add_row(Text(f"no service: {problem}", style="bold red"), _clock())
        return Group(heading, Text("trying again; Ctrl-C ends this"))
    service = f"turbospec {answer.service_version} at {address}, up {duration(answer.uptime_ms / 1e3)}"
    heading.add_row(Text(service, style="bold"), _clock())
    if not answer.engines:
        return Group(heading, Text(NO_ENGINE))
    known = [(status, histories.of(status.profile.engine_id)) for status in answer.engines]
    room = lines_max - HEADING_LINES
    if len(known) * BLOCK_LINES <= room:
        return Group(heading, *(_engine(status, history) for status, history in known))
    # Titles take a line, and so does the number of those left out.
    shown = known[: max(room - 2, 1)]
    left_out = len(known) - len(shown)
    more = [Text(f"and {left_out} more: turbospec top --once lists all")] if left_out else []
    return Group(heading, _overview(shown), *more)


def line(status: admin_pb2.EngineStatus) -> str:
    """One engine in one line."""
    words = (
        _clock(),
        status.profile.engine_id,
        _link(status),
        mode_text(status.mode, status.canary_percent),
        policy_text(status),
        f"length {status.num_steps}",
        f"batch {status.batch_size}",
        f"acceptance {percent(status.acceptance_rate)}",
        f"goodput {_goodput(status)}",
        f"fallbacks {_fallbacks(status)}",
        f"switches {status.switches_total}",
    )
    return "  ".join(words)


def problem_line(problem: str) -> str:
    """A look that found no service."""
    return f"{_clock()}  no service: {problem}"


def no_engine_line() -> str:
    """A look that found a service without engines."""
    return f"{_clock()}  {NO_ENGINE}"


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3.5 h`, `6.1 d`."""
    for unit, size in (("d", 86_400), ("h", 3_600)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _overview(engines: list[tuple[admin_pb2.EngineStatus, EngineHistory]]) -> Table:
    table = Table.grid(padding=(0, 2))
    titles = ("engine", "", "mode", "length", "", "tokens/s", "no spec.", "accepted", "fallbacks")
    for title in titles:
        table.add_column(no_wrap=True, justify="right" if title in titles[5:] else "left")
    table.add_row(*(Text(title, style="bold") for title in titles))
    for status, history in engines:
        table.add_row(
            Text(status.profile.engine_id, style="" if status.connected else "red"),
            "" if status.connected else "gone",
            mode_text(status.mode, status.canary_percent),
            str(status.num_steps),
            Text(_length_bars(status, history, OVERVIEW_BARS), style="cyan"),
            number(status.goodput_tokens_per_s),
            number(status.predicted_goodput_without_speculation_tokens_per_s),
            percent(status.acceptance_rate),
            str(sum(status.fallbacks_by_reason.values())),
        )
    return table


def _length_bars(status: admin_pb2.EngineStatus, history: EngineHistory, count: int) -> str:
    longest = max(status.profile.candidate_num_steps, default=0)
    return sparkline([interval.num_steps for interval in history.intervals][-count:], float(longest))


def _engine(status: admin_pb2.EngineStatus, history: EngineHistory) -> RenderableType:
    profile = status.profile
    heading = Text(f"\n{profile.engine_id}", style="bold")
    state = f"  {_link(status)}, {mode_text(status.mode, status.canary_percent)}, {policy_text(status)}"
    heading.append(state, style="not bold green" if status.connected else "not bold red")
    newest = history.newest
    rows = (
        (
            "length",
            f"{status.num_steps} of {', '.join(map(str, profile.candidate_num_steps))}",
            _length_bars(status, history, BARS),
        ),
        (
            "goodput",
            _goodput(status),
            sparkline([interval.tokens_per_s for interval in history.intervals][-BARS:]),
        ),
        (
            "acceptance",
            f"{percent(status.acceptance_rate)}, {number(status.mean_accepted_length_tokens)} tokens a step",
            "",
        ),
        ("batch", f"{status.batch_size} requests, {status.context_tokens} tokens of context", ""),
        ("steps", _steps(status, history), ""),
        (
            "fallbacks",
            Text(_fallbacks(status), style="red" if newest is not None and newest.fallbacks else ""),
            "",
        ),
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True, style="cyan")
    for label, value, bars in rows:
        table.add_row(f"  {label}", value, bars)
    return Group(heading, table)


def _goodput(status: admin_pb2.EngineStatus) -> str:
    measured = status.goodput_tokens_per_s
    without = status.predicted_goodput_without_speculation_tokens_per_s
    text = f"{number(measured)} tokens/s, {number(without)} predicted without speculation"
    if math.isfinite(measured) and math.isfinite(without) and without > 0:
        text += f" ({measured / without - 1:+.0%})"
    return text


def _steps(status: admin_pb2.EngineStatus, history: EngineHistory) -> str:
    newest = history.newest
    if newest is None:
        rate = UNKNOWN
    elif newest.steps_per_s == 0:
        rate = "idle"
    else:
        rate = f"{number(newest.steps_per_s)}/s, {number(newest.tokens_per_s)} tokens/s"
    return f"{rate}; {status.switches_total} switches of length in {status.steps_total} steps"


def _fallbacks(status: admin_pb2.EngineStatus) -> str:
    total = sum(status.fallbacks_by_reason.values())
    reasons = f" ({counts(status.fallbacks_by_reason)})" if total else ""
    return f"{total} of {status.steps_total} steps{reasons}"


def _link(status: admin_pb2.EngineStatus) -> str:
    return "connected" if status.connected else "not connected"


def _clock() -> str:
    return time.strftime(CLOCK)
