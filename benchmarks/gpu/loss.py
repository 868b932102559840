"""What clients see of a control service that dies in the middle. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import Record, RequestRecord
from benchmarks.spread import percentile
from benchmarks.turns import cut


class KillResult(Record):
    """Tokens per second and gaps between an answer's chunks, before and after the service died."""

    tokens_per_s_before: float
    tokens_per_s_after: float
    gap_p50_before_s: float
    gap_p50_after_s: float
    gap_max_before_s: float
    gap_max_after_s: float


def kill_result(
    records: Sequence[RequestRecord], began_s: float, killed_s: float, ended_s: float
) -> KillResult:
    """From the records of a load that went on all the time; seconds since it began."""
    before, after = cut(records, began_s, killed_s), cut(records, killed_s, ended_s)
    gaps_before, gaps_after = _gaps_s(before), _gaps_s(after)
    return KillResult(
        tokens_per_s_before=_tokens(before) / (killed_s - began_s),
        tokens_per_s_after=_tokens(after) / (ended_s - killed_s),
        gap_p50_before_s=percentile(gaps_before, 50) or 0.0,
        gap_p50_after_s=percentile(gaps_after, 50) or 0.0,
        gap_max_before_s=max(gaps_before, default=0.0),
        gap_max_after_s=max(gaps_after, default=0.0),
    )


def _gaps_s(records: Sequence[RequestRecord]) -> list[float]:
    return [
        later - earlier
        for record in records
        for earlier, later in zip(record.chunk_s, record.chunk_s[1:], strict=False)
    ]


def _tokens(records: Sequence[RequestRecord]) -> int:
    return sum(sum(record.chunk_tokens) for record in records)
