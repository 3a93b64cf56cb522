"""What all dashboards share: panels in one style, variables, annotations and links."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import BigValueColorMode, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from monitoring.alerts.contracts import SERVER, TRAFFIC, WATCHER

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
RUNBOOKS = "docs/runbooks"
"""Where links to runbooks lead; ``driftwheel monitoring export --runbooks`` writes another place."""

M = 'model=~"$model"'
S = f"{SERVER},{M}"
T = f"{TRAFFIC},{M}"
W = f"{WATCHER},{M}"
"""Selectors: of a model, on the server, in its callers' requests, and on the watcher."""

RATE = "[$__rate_interval]"


def per_second(metric: str) -> str:
    """The rate of a counter by model; 0 where it has not begun to count, and the model has been asked anything."""
    asked = f"sum by (model) (rate(driftwheel_requests_total{{{T}}}{RATE}))"
    return f"sum by (model) (rate(driftwheel_{metric}{{{S}}}{RATE})) or 0 * {asked}"


@dataclass(frozen=True, slots=True)
class Query:
    """A query, and how its series are called (Grafana's template)."""

    expr: str
    legend: str


def _target(query: Query, letter: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).datasource(SOURCE)


def graph(title: str, unit: str, *queries: Query, about: str = "", stacked: bool = False) -> timeseries.Panel:
    """Lines over time, half as wide as the page. ``unit`` is Grafana's name for it."""
    legend = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)
    panel = timeseries.Panel().title(title).description(about).unit(unit).datasource(SOURCE).height(8).span(12)
    panel = panel.legend(legend.display_mode(LegendDisplayMode.LIST)).min(0).fill_opacity(40 if stacked else 5)
    for number, query in enumerate(queries):
        panel = panel.with_target(_target(query, chr(ord("A") + number)))
    return panel


def number(title: str, unit: str, query: Query, *, about: str = "") -> stat.Panel:
    """The newest value, large; four in a row."""
    panel = stat.Panel().title(title).description(about).unit(unit).datasource(SOURCE).height(4).span(6)
    return panel.color_mode(BigValueColorMode.NONE).with_target(_target(query, "A").instant())


def _model_variable() -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable("model").label("Model").datasource(SOURCE).multi(True).include_all(True)
    variable = variable.query("label_values(driftwheel_model_version_loaded, model)").all_value(".+")
    variable = variable.current(VariableOption(selected=True, text="All", value="$__all"))
    return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)


def _annotation(name: str, color: str, expr: str) -> dashboard.AnnotationQuery:
    return dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(color).expr(expr)


def _happened(metric: str) -> str:
    return f"changes(driftwheel_{metric}_timestamp_seconds{{{W}}}[$__interval]) > 0"


ANNOTATIONS = (
    ("Rollouts", "blue", _happened("rollout_last_change")),
    ("Verdicts", "purple", f'changes(driftwheel_verdicts_total{{{W},decision!="HOLD"}}[$__interval]) > 0'),
    ("Retrains", "orange", _happened("retrain_last_start")),
)
"""What may have changed a curve: deploys, verdicts but HOLD, and retrains."""

Row = tuple[str, Sequence[timeseries.Panel | stat.Panel]]


def page(uid: str, title: str, about: str, alerts: Iterable[str], rows: Iterable[Row]) -> dashboard.Dashboard:
    """A dashboard. ``alerts`` are those whose runbooks it links to."""
    made = dashboard.Dashboard(f"Driftwheel: {title}").uid(uid).description(about).tags(["driftwheel"]).readonly()
    made = made.timezone("browser").refresh("30s").time("now-6h", "now").tooltip(DashboardCursorSync.CROSSHAIR)
    made = made.with_variable(dashboard.DatasourceVariable("datasource").label("Source").type("prometheus"))
    made = made.with_variable(_model_variable())
    for name, color, expr in ANNOTATIONS:
        made = made.annotation(_annotation(name, color, expr))
    others = dashboard.DashboardLink("Driftwheel").type(DashboardLinkType.DASHBOARDS).tags(["driftwheel"])
    made = made.link(others.as_dropdown(True).include_vars(True).keep_time(True))
    for alert in alerts:
        link = dashboard.DashboardLink(alert).type(DashboardLinkType.LINK).icon("doc").target_blank(True)
        made = made.link(link.tooltip("Runbook").url(f"{RUNBOOKS}/{alert}.md"))
    for name, panels in rows:
        made = made.with_row(dashboard.Row(name))
        for panel in panels:
            made = made.with_panel(panel)
    return made
