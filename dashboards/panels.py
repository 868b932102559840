"""Panels as all dashboards use them, on Grafana's own schema package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Final

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATA_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
RATIO: Final = units.PercentUnit
SECONDS: Final = units.Seconds
TOKENS_PER_SECOND: Final = "suffix: tokens/s"
GOOD, MIDDLING, BAD = "green", "orange", "red"
WIDTH: Final = 24
# Grafana fills in a window that holds enough scrapes at the zoom at hand.
RATE: Final = "$__rate_interval"
LINES_HEIGHT: Final = 8
NUMBER_HEIGHT: Final = 4


def query(expr: str, legend: str = "") -> prometheus.Dataquery:
    """One PromQL expression over time; `legend` may name labels as in ``{{reason}}``."""
    return prometheus.Dataquery().expr(expr).legend_format(legend).range()


def quantile(q: float, bucket: str, matchers: str, legend: str) -> prometheus.Dataquery:
    """A quantile over time of the histogram whose series `bucket` are, of those that match."""
    expr = f"histogram_quantile({q:g}, sum by (le) (rate({bucket}{{{matchers}}}[{RATE}])))"
    return query(expr, legend)


def instant(expr: str, ref_id: str) -> prometheus.Dataquery:
    """One PromQL expression as of now, for a table; `ref_id` names its column."""
    return prometheus.Dataquery().expr(expr).format(PromQueryFormat.TABLE).instant().ref_id(ref_id)


def lines(
    title: str,
    meaning: str,
    unit: str,
    *queries: prometheus.Dataquery,
    span: int = 12,
    stacked: bool = False,
    steps: bool = False,
    right: str | None = None,
) -> timeseries.Panel:
    """Values over time.

    stacked: areas on each other. steps: a value holds until the next, as a length does. right: a regular
    expression of the legends that belong on an axis of their own.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(meaning)
        .unit(unit)
        .datasource(DATA_SOURCE)
        .span(span)
        .height(LINES_HEIGHT)
        .min(0)
        .line_width(1)
        .fill_opacity(30 if stacked else 0)
        .show_points(common.VisibilityMode.NEVER)
        .line_interpolation(common.LineInterpolation.STEP_AFTER if steps else common.LineInterpolation.LINEAR)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common_builders.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel = panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    if right is not None:
        on_the_right = [DynamicConfigValue(id_val="custom.axisPlacement", value="right")]
        panel = panel.override_by_regexp(right, on_the_right)
    for ref_id, each in zip(ascii_uppercase, queries, strict=False):
        panel = panel.with_target(each.ref_id(ref_id))
    return panel


def number(
    title: str,
    meaning: str,
    unit: str,
    target: prometheus.Dataquery,
    *,
    span: int = 4,
    colors: Sequence[tuple[float | None, str]] = ((None, "text"),),
) -> stat.Panel:
    """One newest value; `colors` are thresholds, ascending from None."""
    return (
        stat.Panel()
        .title(title)
        .description(meaning)
        .unit(unit)
        .datasource(DATA_SOURCE)
        .span(span)
        .height(NUMBER_HEIGHT)
        .with_target(target.ref_id("A"))
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.AREA)
        .thresholds(
            dashboard.ThresholdsConfig()
            .mode(ThresholdsMode.ABSOLUTE)
            .steps([Threshold(value=value, color=color) for value, color in colors])
        )
    )


def rows_of(
    title: str,
    meaning: str,
    key: str,
    columns: Sequence[tuple[str, str, str]],
    *,
    span: int = WIDTH,
    about: str = "",
    labels: Mapping[str, str] | None = None,
) -> table.Panel:
    """A table with a row for each value of the label `key`.

    columns: heading, expression and unit. about: an expression whose `labels` are shown, under these
    headings, and whose value is not.
    """
    labels = labels or {}
    values = {
        f"Value #{ref}": heading for ref, (heading, _, _) in zip(ascii_uppercase, columns, strict=False)
    }
    shown = [key, *labels, *values]
    panel = (
        table.Panel()
        .title(title)
        .description(meaning)
        .datasource(DATA_SOURCE)
        .span(span)
        .height(LINES_HEIGHT)
        .show_header(True)
        .transformations(
            [
                DataTransformerConfig(id_val="merge", options={}),
                DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": shown}}),
                DataTransformerConfig(
                    id_val="organize",
                    options={
                        "indexByName": {name: place for place, name in enumerate(shown)},
                        "renameByName": {**labels, **values},
                    },
                ),
            ]
        )
    )
    for ref, (heading, expr, unit) in zip(ascii_uppercase, columns, strict=False):
        panel = panel.with_target(instant(expr, ref))
        panel = panel.override_by_name(heading, [DynamicConfigValue(id_val="unit", value=unit)])
    return panel.with_target(instant(about, "about")) if about else panel


def board(title: str, uid: str, description: str) -> dashboard.Dashboard:
    """An empty dashboard with what all have in common."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["turbospec"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .link(
            dashboard.DashboardLink("TurboSpec")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["turbospec"])
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )


def engine_variable(*, several: bool) -> dashboard.QueryVariable:
    """The choice of engines, by engine_id."""
    variable = (
        dashboard.QueryVariable("engine")
        .label("Engine")
        .query("label_values(turbospec_engine_connected, engine_id)")
        .datasource(DATA_SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )
    if several:
        everything = VariableOption(selected=True, text="All", value="$__all")
        variable = variable.multi(True).include_all(True).all_value(".+").current(everything)
    return variable
