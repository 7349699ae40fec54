"""Figures of an atlas about layers: shares, interactions, specialization beside twins."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from interp.dashboards.atlas_figures import (
    BLUE,
    DIVERGING,
    GREEN,
    LEGEND,
    ORANGE,
    PINK,
    SKY,
    check_attribute,
    error_bars,
    layer_axis,
    made_from,
    pick,
    values_of,
    wrapped,
)
from interp.dashboards.atlas_html import bounds, known, number
from interp.dashboards.theme import MUTED, apply_theme, escape
from interp.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go


def shares_figure(atlas: Any, attribute: str, which: int = 0) -> "go.Figure":
    """Return first-in, last-in and Shapley shares of each layer for one attribute.

    Bars are gray where the record says that shares do not add up: they are then no division of
    labor. All attributes of a study have one axis. which: number of the study in `atlas.layers`.
    Raises InputError for none such.
    """
    import plotly.graph_objects as go

    check_attribute(atlas, attribute)
    study = pick(atlas.layers, which, "study of layers")
    table = study.shares
    k = _row(table.attributes, attribute, study.name)
    kind, y = table.kinds[k], list(range(len(table.layers)))
    colors = (SKY, ORANGE, BLUE) if kind == "additive" else ("#dedad1", "#c4bfb4", "#a19c92")
    three = zip(table.shapley[k], table.shapley_low[k], table.shapley_high[k], strict=True)
    reach = [_Bounds(*one) for one in three]
    figure = go.Figure()
    figure.add_bar(y=y, x=list(table.first_in[k]), name="first-in", **_bar(colors[0]))
    figure.add_bar(y=y, x=list(table.last_in[k]), name="last-in", **_bar(colors[1]))
    bars = error_bars(reach)
    figure.add_bar(y=y, x=values_of(reach), name="Shapley", error_x=bars, **_bar(colors[2]))
    figure.add_vline(x=0, line={"color": MUTED, "width": 1})
    caption = made_from(
        atlas, "bars: 95 % bootstrap over pairs; null: no edit, every share exactly 0"
    )
    title = f"{escape(attribute)}: {escape(kind)}"
    apply_theme(figure, title=title, caption=caption, height=150 + 46 * len(table.layers))
    figure.update_layout(barmode="group", bargap=0.25, showlegend=True, legend=LEGEND)
    figure.update_xaxes(title="donor share (1 = all)", range=_range(table))
    layer_axis(figure.update_yaxes, [wrapped(name) for name in table.layers], "part swapped")
    return figure


def _range(table: Any) -> list[float] | None:
    """One axis for all attributes of a study, so that their bars can be compared."""
    fields = (table.first_in, table.last_in, table.shapley_low, table.shapley_high)
    found = [v for matrix in fields for row in matrix for v in row if known(v)]
    if not found:
        return None
    low, high = min(0.0, *found), max(0.0, *found)
    room = 0.05 * (high - low) or 0.05
    return [low - (room if low < 0 else 0), high + room]


class _Bounds:
    """A value with bounds, as `error_bars` reads them."""

    def __init__(self, value: float | None, low: float | None, high: float | None) -> None:
        self.value, self.low, self.high = value, low, high


def _bar(color: str) -> dict[str, Any]:
    template = "%{y}, %{fullData.name}: %{x:.3f}<extra></extra>"
    return {"orientation": "h", "marker": {"color": color}, "hovertemplate": template}


def _row(names: Sequence[str], attribute: str, where: str) -> int:
    if attribute not in names:
        raise InputError(f"{where} has no shares of {attribute!r}; it has {', '.join(names)}")
    return list(names).index(attribute)


def interactions_figure(atlas: Any, attribute: str, which: int = 0) -> "go.Figure":
    """Return v({i, j}) - v({i}) - v({j}) of each pair of layers for one attribute.

    Raises InputError for a study that does not exist, or in which pairs of layers were not run.
    """
    import plotly.graph_objects as go

    check_attribute(atlas, attribute)
    study = pick(atlas.layers, which, "study of layers")
    table = study.shares
    if table.interactions is None:
        raise InputError(f"{study.name}: pairs of layers were not run, so none interact here")
    n = len(table.layers)
    square = table.interactions[_row(table.attributes, attribute, study.name)]
    z = [[None if i == j else square[i][j] for j in range(n)] for i in range(n)]
    most = max((abs(v) for line in z for v in line if v is not None and known(v)), default=0.0)
    names = [f"{wrapped(name)} ({i})" for i, name in enumerate(table.layers, start=1)]
    heat = go.Heatmap(
        z=z,
        x=list(range(n)),
        y=list(range(n)),
        text=[[number(value) if value is not None else "" for value in line] for line in z],
        texttemplate="%{text}",
        customdata=[[f"{escape(a)} with {escape(b)}" for b in table.layers] for a in table.layers],
        hovertemplate="%{customdata}: %{z:.3f}<extra></extra>",
        colorscale=DIVERGING,
        zmid=0,
        # Not below a tenth, so that noise around 0 stays pale.
        zmin=-max(most, 0.1),
        zmax=max(most, 0.1),
        colorbar={"thickness": 10, "outlinewidth": 0},
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    caption = made_from(atlas, "no intervals; 0: two layers together do what each does alone")
    title = f"{escape(attribute)}: what pairs of layers add"
    apply_theme(figure, title=title, caption=caption, height=190 + 38 * n)
    # Columns are the rows' parts in the same order: their numbers need no room.
    layer_axis(figure.update_yaxes, names, "part swapped")
    ticks = {"tickvals": list(range(n)), "ticktext": [str(i + 1) for i in range(n)]}
    figure.update_xaxes(title="part swapped with it (number)", showgrid=False, **ticks)
    return figure


def specialization_figure(atlas: Any, which: int = 0) -> "go.Figure":
    """Return the specialization of the layers beside that of twins, and the excess over each kind.

    which: number of the study in `atlas.layers`. Raises InputError for none such.
    """
    import plotly.graph_objects as go

    study = pick(atlas.layers, which, "study of layers")
    rows: list[tuple[str, Any, str, str]] = [("this model", study.specialization, BLUE, "circle")]
    rows += [("given the step", study.given_step, SKY, "circle")]
    rows += [("over steps", study.over_steps, SKY, "square")]
    rows += [(name, one, PINK, "diamond") for name, one in study.wiring.items()]
    rows = [row for row in rows if row[1] is not None]
    figure = go.Figure()
    names = [name if known(one.value) else f"{name}: undefined" for name, one, *_ in rows]
    for i, (name, one, color, symbol) in enumerate(rows):
        _dot(figure, i, one, escape(name), {"color": color, "symbol": symbol, "size": 11})
    for kind, values, beyond in (
        ("untrained", study.twins, study.excess),
        ("band", study.band_twins, study.band_excess),
    ):
        if values:
            names.append(_twins(figure, len(names), values, kind))
        if beyond is not None:
            marker = {"color": GREEN, "symbol": "diamond", "size": 12}
            label = f"excess over {kind} twins"
            _dot(figure, len(names), beyond, label, marker)
            names.append(label if known(beyond.value) else f"{label}: undefined")
    figure.add_vline(x=0, line={"color": MUTED, "width": 1})
    caption = made_from(atlas, "bars: 95 % bootstrap over pairs, 99 % for an excess; null: twins")
    title = f"Specialization: {escape(study.name)}"
    apply_theme(figure, title=title, caption=caption, height=170 + 38 * len(names))
    figure.update_xaxes(title="specialization (0 none, 1 full)", range=_span(rows, study))
    figure.update_yaxes(
        title={"text": "whose", "standoff": 12},
        tickvals=list(range(len(names))),
        ticktext=[wrapped(name) for name in names],
        range=[len(names) - 0.5, -0.5],
    )
    return figure


def _twins(figure: Any, y: int, values: Sequence[float | None], kind: str) -> str:
    """Draw twins on one line and return its label."""
    found = [value for value in values if value is not None]
    marker = {"color": ORANGE, "symbol": "line-ns-open", "size": 15, "line": {"width": 2}}
    what = {"untrained": "fresh weights", "band": "another dealing of frequencies"}[kind]
    hover = f"{what}: %{{x:.3f}}<extra></extra>"
    figure.add_scatter(
        x=found, y=[y] * len(found), mode="markers", marker=marker, hovertemplate=hover
    )
    counted = f"{len(found)} of " if len(found) < len(values) else ""
    return f"{counted}{len(values)} {kind} twins"


def _span(rows: Sequence[Any], study: Any) -> list[float]:
    """An axis no shorter than -.1 to .5, so that rounding errors do not look like findings."""
    excesses = [one for one in (study.excess, study.band_excess) if one is not None]
    ones = [one for _, one, *_ in rows] + excesses
    found = [v for one in ones for v in (one.value, one.low, one.high) if known(v)]
    found += [value for value in (*study.twins, *study.band_twins) if known(value)]
    return [min(-0.1, *found, 0.0) - 0.03, max(0.5, *found, 0.0) + 0.03]


def _dot(figure: Any, y: int, one: Any, name: str, marker: dict[str, Any]) -> None:
    figure.add_scatter(
        x=values_of([one]),
        y=[y],
        mode="markers",
        marker=marker,
        error_x=error_bars([one], color=marker["color"]),
        hovertemplate=f"{name}: {number(one.value, 3)} {bounds(one, 3)}<extra></extra>",
    )
