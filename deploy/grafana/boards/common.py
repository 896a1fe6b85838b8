"""What the dashboards share: one look for each kind of panel, one colour for each meaning, variables and links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, statetimeline, table, text, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models import prometheus as queries
from grafana_foundation_sdk.models import text as texts

Panel: TypeAlias = Builder[models.Panel]
States: TypeAlias = Mapping[str, tuple[str, str]]
Steps: TypeAlias = Sequence[tuple[float | None, str]]

WIDTH = 24
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
HERE = 'instance=~"$instance"'
THEIRS = f'{HERE}, producer=~"$producer"'

GREEN, BLUE, ORANGE, RED, PURPLE, GREY = "green", "blue", "orange", "red", "purple", "#8e8e8e"
VERDICTS = {"accept": GREEN, "correct": BLUE, "quarantine": ORANGE}
SEVERITIES = {"critical": RED, "warning": ORANGE, "info": BLUE}
STANDINGS = {"0": ("good", GREEN), "1": ("watched", ORANGE), "2": ("suspended", RED)}
THRESHOLD = PURPLE

NATS, RATIO, COUNT, SECONDS, BYTES = "suffix: nats", "percentunit", "short", "s", "bytes"
NUMBER = "none"

BOARDS = {
    "weir-overview": "Overview",
    "weir-guard": "Guard",
    "weir-producers": "Producers",
    "weir-operations": "Operations",
    "weir-runbook": "Runbook",
}

_Panel = TypeVar("_Panel", timeseries.Panel, stat.Panel, table.Panel, heatmap.Panel, statetimeline.Panel)


class Query(NamedTuple):
    """An expression and what its series are called."""

    expr: str
    legend: str = ""


class Text(NamedTuple):
    """What a panel is called, what it means, and what it says while there is nothing to show."""

    title: str
    meaning: str
    nothing: str


def lines(
    said: Text,
    *shown: Query,
    unit: str,
    width: int = 12,
    height: int = 8,
    colours: Mapping[str, str] | None = None,
    top: float | None = None,
    bottom: float | None = 0,
) -> timeseries.Panel:
    """Curves over time; series that are called *threshold* are dashed and purple on every board."""
    panel = _sized(timeseries.Panel(), said, unit, width, height)
    panel.line_width(2).fill_opacity(6).show_points(looks.VisibilityMode.NEVER)
    panel.legend(_legend()).tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI))
    panel.override_by_regexp("/threshold|configured/", [_fixed(THRESHOLD), _dashed(), _value("custom.fillOpacity", 0)])
    for name, colour in (colours or {}).items():
        panel.override_by_name(name, [_fixed(colour)])
    if top is not None:
        panel.max(top)
    if bottom is not None:
        panel.min(bottom)
    return _asking(panel, shown)


def stacked(
    said: Text,
    *shown: Query,
    unit: str,
    width: int = 12,
    height: int = 8,
    colours: Mapping[str, str] | None = None,
) -> timeseries.Panel:
    """Curves on top of one another, whose sum means something too."""
    panel = lines(said, *shown, unit=unit, width=width, height=height, colours=colours)
    return panel.line_width(1).fill_opacity(40).stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))


def bars(
    said: Text,
    *shown: Query,
    width: int = 12,
    height: int = 6,
    colours: Mapping[str, str] | None = None,
) -> timeseries.Panel:
    """Counts of events, each interval's on its own."""
    panel = lines(said, *shown, unit=COUNT, width=width, height=height, colours=colours)
    panel.draw_style(looks.GraphDrawStyle.BARS).fill_opacity(80).line_width(0)
    return panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))


def number(
    said: Text,
    query: Query,
    *,
    unit: str,
    width: int = 4,
    height: int = 4,
    steps: Steps = ((None, GREEN),),
    states: States | None = None,
    link: str | None = None,
) -> stat.Panel:
    """The value of this moment, in the colour of what it means; ``states`` turn numbers into words."""
    panel = _sized(stat.Panel(), said, unit, width, height)
    panel.color_mode(looks.BigValueColorMode.BACKGROUND if states else looks.BigValueColorMode.VALUE)
    panel.graph_mode(looks.BigValueGraphMode.NONE if states else looks.BigValueGraphMode.AREA)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.thresholds(thresholds(*steps))
    if states:
        panel.mappings([mapping(states)])
    if link:
        panel.data_links([to_board(link, BOARDS[link])])
    return _asking(panel, [query])


def timeline(said: Text, *shown: Query, states: States, width: int = 12, height: int = 6) -> statetimeline.Panel:
    """States over time, one row for each series."""
    panel = _sized(statetimeline.Panel(), said, NUMBER, width, height)
    panel.mappings([mapping(states)]).show_value(looks.VisibilityMode.NEVER).fill_opacity(75).row_height(0.8)
    panel.thresholds(thresholds((None, GREY)))
    return _asking(panel, shown)


def heat_map(said: Text, expr: str, *, unit: str, width: int = WIDTH, height: int = 8) -> heatmap.Panel:
    """The buckets of a histogram over time."""
    panel = _sized(heatmap.Panel(), said, unit, width, height)
    scheme = heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Oranges").steps(32)
    panel.calculate(calculate=False).color(scheme.exponent(0.5)).cell_gap(1)
    panel.y_axis(heatmap.YAxisConfig().unit(unit)).filter_values(heatmap.FilterValueRange().le(1e-9))
    query = _query(Query(expr, "{{le}}")).format(queries.PromQueryFormat.HEATMAP)
    return panel.datasource(SOURCE).with_target(query)


def grid(said: Text, *shown: Query, width: int = WIDTH, height: int = 8, hidden: Sequence[str] = ()) -> table.Panel:
    """A table of this moment: one row for each combination of labels, a column for each query, called by its legend."""
    panel = _sized(table.Panel(), said, NUMBER, width, height).datasource(SOURCE)
    names = {}
    for letter, query in zip("ABCDEFG", shown, strict=False):
        panel.with_target(_query(query).format(queries.PromQueryFormat.TABLE).instant().ref_id(letter))
        names[f"Value #{letter}" if len(shown) > 1 else "Value"] = query.legend
    tidy = {"excludeByName": dict.fromkeys(("Time", *hidden), True), "renameByName": names}
    panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    return panel.with_transformation(models.DataTransformerConfig(id_val="organize", options=tidy))


def samples_by_verdict() -> timeseries.Panel:
    """What became of the traffic, as more than one board shows it."""
    said = Text(
        "Samples by verdict",
        "Samples a second: accepted, corrected (if correction is enabled) and held.",
        "No samples yet: weir stream rest.npz sends some.",
    )
    expr = f"sum by (verdict) (rate(weir_samples_total{{{HERE}}}[$__rate_interval]))"
    return stacked(said, Query(expr, "{{verdict}}"), unit="suffix:/s", colours=VERDICTS)


def words(title: str, markdown: str, *, width: int = 12, height: int = 8) -> text.Panel:
    """Text, for what no number says."""
    panel = text.Panel().title(title).span(width).height(height)
    return panel.mode(texts.TextMode.MARKDOWN).content(markdown)


def board(
    uid: str, about: str, *rows: tuple[str, Sequence[Panel]], events: bool = True, producers: bool = False
) -> builders.Dashboard:
    """A dashboard of titled rows, with the variables, links and annotations that all of them share."""
    made = builders.Dashboard(f"Weir / {BOARDS[uid]}").uid(uid).description(about).tags(["weir"]).readonly()
    made.tooltip(models.DashboardCursorSync.CROSSHAIR).time("now-1h", "now").refresh("30s").timezone("browser")
    made.with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    if events:
        made.with_variable(_choice("instance", "Instance", 'label_values(up{job="weir"}, instance)'))
        for event in EVENTS:
            made.annotation(event)
    if producers:
        known = f"label_values(weir_producer_seen_samples{{{HERE}}}, producer)"
        made.with_variable(
            _choice("producer", "Producer", known).multi(multi=True).include_all(include_all=True).all_value(".*")
        )
    for other, title in BOARDS.items():
        if other != uid:
            made.link(to_board(other, title))
    for title, panels in rows:
        made.with_row(builders.Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made


@dataclass(frozen=True, slots=True)
class Event(Builder[models.AnnotationQuery]):
    """A mark on every curve at the moments at which an expression has a value."""

    name: str
    expr: str
    title: str
    colour: str

    def build(self) -> models.AnnotationQuery:
        """As the SDK wants it; it does not know the title, which only Prometheus' annotations have."""
        return _Titled(self)


class _Titled(models.AnnotationQuery):
    def __init__(self, event: Event) -> None:
        super().__init__(name=event.name, datasource=SOURCE, icon_color=event.colour, expr=event.expr)
        self._title = event.title

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), "titleFormat": self._title, "step": "15s"}


EVENTS = (
    Event("Alarms", f"sum by (reason) (increase(weir_alarms_total{{{HERE}}}[1m])) > 0", "Alarm: {{reason}}", ORANGE),
    Event("Rollbacks", f"increase(weir_rollbacks_total{{{HERE}}}[1m]) > 0", "Rollback", RED),
)


def thresholds(*steps: tuple[float | None, str]) -> builders.ThresholdsConfig:
    """Colours from a value on; the first begins at None."""
    config = builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE)
    return config.steps([models.Threshold(value, colour) for value, colour in steps])


def mapping(states: States) -> models.ValueMap:
    """Numbers as words in a colour."""
    results = {value: models.ValueMappingResult(text=word, color=colour) for value, (word, colour) in states.items()}
    return models.ValueMap(options=results)


def coloured(column: str, states: States) -> tuple[str, list[models.DynamicConfigValue]]:
    """What :meth:`override_by_name` takes to turn the values of a table's column into coloured words."""
    return column, [
        _value("mappings", [mapping(states)]),
        _value("custom.cellOptions", {"type": "color-text"}),
    ]


def united(column: str, unit: str) -> tuple[str, list[models.DynamicConfigValue]]:
    """What :meth:`override_by_name` takes to give a table's column its unit."""
    return column, [_value("unit", unit)]


def linked(column: str, uid: str, title: str) -> tuple[str, list[models.DynamicConfigValue]]:
    """What :meth:`override_by_name` takes to make a table's column lead to another board."""
    return column, [_value("links", [{"title": title, "url": f"/d/{uid}"}])]


def right(unit: str) -> list[models.DynamicConfigValue]:
    """An axis of its own, on the right, for a curve in another unit."""
    return [_value("custom.axisPlacement", "right"), _value("unit", unit)]


def to_board(uid: str, title: str) -> builders.DashboardLink:
    """A link to another board, that keeps time and variables."""
    link = builders.DashboardLink(title).type(models.DashboardLinkType.LINK).icon("dashboard").url(f"/d/{uid}")
    return link.keep_time(keep_time=True).include_vars(include_vars=True)


def _sized(panel: _Panel, said: Text, unit: str, width: int, height: int) -> _Panel:
    panel.title(said.title).description(said.meaning).no_value(said.nothing)
    panel.unit(unit).span(width).height(height)
    return panel


def _asking(panel: _Panel, shown: Sequence[Query]) -> _Panel:
    panel.datasource(SOURCE)
    for letter, query in zip("ABCDEFGH", shown, strict=False):
        panel.with_target(_query(query).ref_id(letter))
    return panel


def _query(query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id("A").datasource(SOURCE)


def _choice(name: str, label: str, query: str) -> builders.QueryVariable:
    variable = builders.QueryVariable(name).label(label).datasource(SOURCE).sort(models.VariableSort.ALPHABETICAL_ASC)
    return variable.query(query).refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().display_mode(looks.LegendDisplayMode.LIST)
    return legend.placement(looks.LegendPlacement.BOTTOM).show_legend(show_legend=True)


def _fixed(colour: str) -> models.DynamicConfigValue:
    return _value("color", {"mode": "fixed", "fixedColor": colour})


def _dashed() -> models.DynamicConfigValue:
    return _value("custom.lineStyle", {"fill": "dash", "dash": [8, 8]})


def _value(id: str, value: object) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(id_val=id, value=value)
