"""The interactive figures of the page: Vega-Lite specifications by altair, their data, and the JavaScript for them.

All of it stands in the page, which needs no network. Without JavaScript the page shows the figures of matplotlib.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
from markupsafe import Markup

from lmsae.report.main_metrics import MAIN_METRICS
from lmsae.report.plots import COLORS, CURVE_PANELS, pareto_panels
from lmsae.report.results import Result, text_of

ROWS, CURVES = "rows", "curves"
"""The names of the data of figures: a line for each row, and one for each point of a row's curves."""
MOST_POINTS, MOST_OF_A_CURVE = 12_000, 200
HEIGHT = 240
ARCHITECTURE = "architecture:N"
Channel = dict[str, Any]
"""The way in which a channel of a figure shows the architecture."""
L0_TITLE = "L0: active latents a token"


def explore(results: Sequence[Result], headed: Sequence[str], grouped: Sequence[int]) -> dict[str, Any]:
    """Data by name and the specifications of figures by section, for the page's script to read as JSON.

    `headed` are the settings that a hint tells of a row. Rows of one number in `grouped` differ in seeds only.
    """
    architectures = list(dict.fromkeys(result.architecture for result in results))
    lines = {line: number for number, line in enumerate(dict.fromkeys(result.line for result in results))}
    rows = []
    for result, seeds in zip(results, grouped, strict=True):
        metrics = {metric.name: _or_null(result.metrics.get(metric.name, math.nan)) for metric in MAIN_METRICS}
        settings = {f"setting{i}": text_of(result.settings.get(name)) for i, name in enumerate(headed)}
        rows.append(
            {
                "row": result.name,
                "where": result.hook_points,
                "architecture": result.architecture,
                "line": lines[result.line],
                "seeds": seeds,
                "healthy": result.verdict.ok,
                **metrics,
                **settings,
            }
        )
    l0 = [result.metrics["l0"] for result in results]
    is_wide = min(l0) > 0 and max(l0) > 4 * min(l0)
    shades = [COLORS[i % len(COLORS)] for i in range(len(architectures))]
    color: Channel = {"legend": None, "scale": alt.Scale(domain=architectures, range=shades)}
    hint = [alt.Tooltip("row:N", title="row")]
    hint += [alt.Tooltip(f"setting{i}:N", title=name) for i, name in enumerate(headed)]
    hint += [alt.Tooltip(f"['{metric.name}']:Q", title=metric.heading, format=".4~g") for metric in MAIN_METRICS]
    shown = [(name, title) for name, title in CURVE_PANELS if any(any(r.curves.get(name, ())) for r in results)]
    return {
        "colors": list(zip(architectures, shades, strict=True)),
        "data": {ROWS: rows, CURVES: _points(results, [name for name, _ in shown])},
        "figures": {
            "pareto": [_pareto(name, title, color, hint, is_wide) for name, title in pareto_panels(results)],
            "curves": [_curve(name, title, color) for name, title in shown],
        },
    }


def as_json(content: object) -> Markup:
    """Content as JSON that may stand in a script of a page, whatever text it holds."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def bundle() -> Markup:
    """The JavaScript of Vega, Vega-Lite and Vega-Embed, in the version that altair writes for."""
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return Markup(script.replace("</script", "<\\/script"))


def _pareto(metric: str, title: str, color: Channel, hint: list[alt.Tooltip], is_wide: bool) -> dict[str, Any]:
    """A point for each row, a line through the means of seeds, and a bar of one standard deviation at each mean."""
    scale = alt.Scale(type="log", base=2, nice=False, padding=12) if is_wide else alt.Scale(zero=False, padding=12)
    x = alt.X("l0:Q", title=L0_TITLE, scale=scale, axis=alt.Axis(tickCount=5))
    y = alt.Y(f"{metric}:Q", title=None, scale=alt.Scale(zero=False, padding=8), axis=alt.Axis(tickCount=6))
    rows = alt.Chart(alt.NamedData(ROWS))
    of_seeds = [
        alt.AggregatedFieldDef(op="mean", field="l0", **{"as": "l0"}),
        alt.AggregatedFieldDef(op="stdev", field=metric, **{"as": "spread"}),
        alt.AggregatedFieldDef(op="count", **{"as": "n"}),
        alt.AggregatedFieldDef(op="mean", field=metric, **{"as": metric}),
    ]
    means = rows.transform_aggregate(of_seeds, groupby=["line", "seeds", "architecture"])
    line = means.mark_line(strokeWidth=1.6, opacity=0.7).encode(
        x=x, y=y, color=alt.Color(ARCHITECTURE, **color), detail="line:N"
    )
    ends = means.transform_filter("datum.n > 1").transform_calculate(
        low=f"datum['{metric}'] - datum.spread", high=f"datum['{metric}'] + datum.spread"
    )
    bars = ends.mark_rule(strokeWidth=5, opacity=0.25).encode(
        x=x, y=alt.Y("low:Q", title=None), y2="high:Q", color=alt.Color(ARCHITECTURE, **color)
    )
    points = rows.mark_point(size=60, strokeWidth=1.6, cursor="pointer").encode(
        x=x,
        y=y,
        color=alt.Color(ARCHITECTURE, **color),
        fill=alt.Fill(ARCHITECTURE, **color),
        fillOpacity=alt.condition("datum.healthy", alt.value(0.9), alt.value(0.0)),
        tooltip=hint,
        href="href:N",
    )
    return _finish(alt.layer(bars, line, points), title)


def _curve(column: str, title: str, color: Channel) -> dict[str, Any]:
    """A line for each row; the one under the pointer stands out and tells its name, by points that are not seen."""
    near = alt.selection_point(on="pointerover", clear="pointerout", fields=["row"], name="near")
    y_scale = alt.Scale(type="log") if column == "loss" else alt.Scale(zero=False)
    if column == "explained_variance":
        y_scale = alt.Scale(domainMin=-0.1, domainMax=1.0, clamp=True)
    base = alt.Chart(alt.NamedData(CURVES)).transform_filter(f"isValid(datum['{column}'])")
    axis = alt.Axis(tickCount=4, format="~s")
    x, y = (
        alt.X("tokens:Q", title="training tokens", axis=axis),
        alt.Y(f"{column}:Q", title=None, scale=y_scale, axis=alt.Axis(tickCount=6)),
    )
    line = base.mark_line(strokeWidth=1.3).encode(
        x=x,
        y=y,
        color=alt.Color(ARCHITECTURE, **color),
        detail="row:N",
        opacity=alt.condition(near, alt.value(1.0), alt.value(0.45), empty=False),
    )
    points = base.mark_point(size=90, filled=True, cursor="pointer").encode(
        x=x,
        y=y,
        color=alt.Color(ARCHITECTURE, **color),
        opacity=alt.condition(near, alt.value(0.6), alt.value(0.0), empty=False),
        tooltip=[
            alt.Tooltip("row:N", title="row"),
            alt.Tooltip("tokens:Q", format=".4~s"),
            alt.Tooltip(f"{column}:Q", title=title, format=".4~g"),
        ],
        href="href:N",
    )
    return _finish(alt.layer(line, points.add_params(near)), title)


def _finish(chart: alt.LayerChart | alt.FacetChart, title: str) -> dict[str, Any]:
    sized = chart.properties(title=title, width="container", height=HEIGHT)
    return sized.to_dict()


def _points(results: Sequence[Result], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The points of curves, every n-th of them if there are too many, the last one always."""
    most = max(20, min(MOST_OF_A_CURVE, MOST_POINTS // len(results)))
    points = []
    for result in results:
        tokens = result.curves.get("tokens", ())
        step = max(1, math.ceil(len(tokens) / most))
        chosen = dict.fromkeys([*range(0, len(tokens), step), len(tokens) - 1]) if tokens else ()
        for i in chosen:
            values = {name: _or_null(result.curves[name][i]) for name in columns if name in result.curves}
            points.append({"row": result.name, "architecture": result.architecture, "tokens": tokens[i], **values})
    return points


def _or_null(value: float) -> float | None:
    """Six digits are more than any screen shows."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
