"""Asks a Prometheus every query of every dashboard: `python -m dashboards.check URL --engine NAME`.

Prints how many series each returned. Exit status 1 if one returned none or was refused.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import Any, NamedTuple

import httpx

from dashboards.queries import PanelQuery, dashboard_queries

STEP_S = 1.0
TIMEOUT_S = 30.0


class Answer(NamedTuple):
    """How many series with a number in them a query returned; `error` is Prometheus' own text, if any."""

    query: PanelQuery
    series: int
    error: str


def ask(url: str, engine: str, *, minutes: float, rate_interval: str) -> list[Answer]:
    """Every query, over the last `minutes`, for one engine.

    Raises httpx.HTTPError if Prometheus cannot be asked.
    """
    variables = {"__rate_interval": rate_interval, "engine": engine}
    end = time.time()
    answers = []
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        for query in dashboard_queries():
            parameters: dict[str, str | float] = {"query": query.with_variables(variables)}
            if query.instant:
                path, parameters["time"] = "/api/v1/query", end
            else:
                path = "/api/v1/query_range"
                parameters |= {"start": end - 60.0 * minutes, "end": end, "step": STEP_S}
            answer = client.post(path, data=parameters).json()
            series = answer["data"]["result"] if answer["status"] == "success" else []
            answers.append(Answer(query, sum(map(_has_a_number, series)), answer.get("error", "")))
    return answers


def _has_a_number(series: dict[str, Any]) -> bool:
    """A quantile of no steps is not a number: such a series shows nothing."""
    values = series["values"] if "values" in series else [series["value"]]
    return any(not math.isnan(float(value)) for _, value in values)


def table(answers: list[Answer]) -> str:
    """One line a query."""
    return "\n".join(
        f"{series:4d}  {query.dashboard:7s}{query.panel:33.33s} {error or query.expr}"
        for query, series, error in answers
    )


def main() -> int:
    """Exit status 1 if a query returned nothing."""
    parser = argparse.ArgumentParser(description="Ask a Prometheus every query of every dashboard.")
    parser.add_argument("url", help="of Prometheus, as http://127.0.0.1:9090")
    parser.add_argument("--engine", required=True, help="engine_id to ask about")
    parser.add_argument("--minutes", type=float, default=5.0, help="how far back to look")
    parser.add_argument("--rate-interval", default="20s", help="what Grafana calls $__rate_interval")
    arguments = parser.parse_args()
    answers = ask(
        arguments.url, arguments.engine, minutes=arguments.minutes, rate_interval=arguments.rate_interval
    )
    print(table(answers))
    empty = [answer for answer in answers if not answer.series]
    print(f"{len(answers)} queries, {len(empty)} without data")
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
