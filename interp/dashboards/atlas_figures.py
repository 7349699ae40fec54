"""Figures of an atlas as functions of its record: steps, directions, kinds of module."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from interp.dashboards.atlas_html import ALPHA, interval, known, number
from interp.dashboards.theme import CATEGORICAL, MUTED, apply_theme, escape
from interp.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

BLUE, ORANGE, GREEN, PINK, SKY, _ = CATEGORICAL
GRAY = "#b9b5ac"
# What the swap of every direction, or of none, would read.
LEVEL_LINE = {"color": MUTED, "width": 1, "dash": "dot"}
# Blue below 0, white at 0, red above: told apart with every kind of color vision.
DIVERGING = [[0, "#123f6b"], [0.25, "#7fb0d3"], [0.5, "#f7f6f3"], [0.75, "#e59d62"], [1, "#7c3606"]]
# A swap that keeps this much counts as the full one (rule.json, "keep").
KEEP = 0.95
_NAME = 24
# A label of one line would leave a phone no room for the chart.
_LINE, _LINES = 16, 3
# Where a name is broken rather, and where else.
_BREAKS = (".:/- ", "_")
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"}


def short(name: Any, length: int = _NAME) -> str:
    """Return a name as a label: its end is what tells layers apart."""
    text = str(name)
    return escape(text if len(text) <= length else f"…{text[1 - length :]}")


def wrapped(name: Any) -> str:
    """Return a name as a label of up to three short lines, broken where its parts end."""
    lines: list[str] = []
    for part in str(name).replace(" .. ", " ..\n").split("\n"):
        while len(part) > _LINE and len(lines) < _LINES - 1:
            ends = [max(part.rfind(mark, 0, _LINE) for mark in marks) + 1 for marks in _BREAKS]
            at = next((end for end in ends if end > _LINE // 3), _LINE)
            lines.append(part[:at])
            part = part[at:]
        lines.append(part)
    kept = lines if len(lines) <= _LINES else ["…", *lines[1 - _LINES :]]
    return "<br>".join(short(line.strip(), _LINE) for line in kept)


def check_attribute(atlas: Any, attribute: str) -> None:
    """Raise InputError unless the atlas has this attribute."""
    names = [one.name for one in atlas.attributes]
    if attribute not in names:
        raise InputError(f"no attribute {attribute!r} in this atlas; there are {', '.join(names)}")


def pick(items: Sequence[Any], which: int, what: str) -> Any:
    """Return one entry; raise InputError where it does not exist."""
    if not 0 <= which < len(items):
        raise InputError(f"no {what} {which}: this atlas has {len(items)}")
    return items[which]


def error_bars(values: Sequence[Any], **more: Any) -> dict[str, Any]:
    """Return Plotly's error bars of intervals; 0 where a bound is not known."""

    def reach(one: Any, end: str) -> float:
        bound = None if one is None else getattr(one, end)
        if one is None or not known(bound) or not known(one.value):
            return 0.0
        return abs(bound - one.value)

    bars = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 3}
    bars |= {"array": [reach(one, "high") for one in values]}
    return bars | {"arrayminus": [reach(one, "low") for one in values]} | more


def values_of(items: Sequence[Any]) -> list[float | None]:
    """Return the values of intervals, None where there is none."""
    return [one.value if one is not None and known(one.value) else None for one in items]


def made_from(atlas: Any, null: str) -> str:
    """Return the part of a caption that every figure has: n, seeds and null."""
    seeds = ", ".join(f"{name} {first}" for name, first in atlas.seeds.items())
    return f"n = {atlas.n_pairs} pairs; first seeds: {escape(seeds) or 'not recorded'}; {null}"


def step_map_figure(atlas: Any, attribute: str, which: int = 0) -> "go.Figure":
    """Return the donor share of one attribute by step window (across) and layer (down).

    which: number of the map in `atlas.maps`. Raises InputError for one that does not exist.
    """
    import plotly.graph_objects as go

    check_attribute(atlas, attribute)
    one = pick(atlas.maps, which, "map of steps")
    alpha = one.alpha.get(attribute, ())
    z = [[row[j].value for row in alpha] for j in range(len(one.layers))]
    heat = go.Heatmap(
        z=z,
        x=list(range(len(one.windows))),
        y=list(range(len(one.layers))),
        text=[[number(value) for value in line] for line in z],
        texttemplate="%{text}",
        customdata=_map_hover(one, attribute),
        hovertemplate="%{customdata}<extra></extra>",
        colorscale="Cividis",
        zmin=0,
        zmax=1,
        colorbar={"title": {"text": ALPHA}, "thickness": 10, "outlinewidth": 0},
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    caption = made_from(atlas, "bounds (hover): 95 % bootstrap over pairs; 0 recipient, 1 donor")
    height = 165 + 34 * len(one.layers)
    title = f"{escape(attribute)}: donor share by step and layer"
    apply_theme(figure, title=title, caption=caption, height=max(230, height))
    figure.update_xaxes(
        title="steps (log-SNR in nats)",
        tickvals=list(range(len(one.windows))),
        ticktext=[_window(*parts) for parts in zip(one.windows, one.noise, strict=True)],
        tickangle=0,
        tickfont={"size": 10},
        showgrid=False,
    )
    layer_axis(figure.update_yaxes, [wrapped(name) for name in one.layers])
    return figure


def _map_hover(one: Any, attribute: str) -> list[list[str]]:
    alpha, damage = one.alpha.get(attribute, ()), one.damage.get(attribute)
    return [
        [
            f"{escape(layer)}, {escape(window)}<br><b>{ALPHA} {interval(alpha[w][j])}</b>"
            f"<br>damage {interval(damage[w][j]) if damage else 'not measured'}"
            for w, window in enumerate(one.windows[: len(alpha)])
        ]
        for j, layer in enumerate(one.layers)
    ]


def _window(name: str, noise: tuple[float | None, float | None]) -> str:
    if not all(map(known, noise)):
        return short(name, 16)
    return f"{short(name, 16)}<br>{number(noise[0], 1)}<br>to {number(noise[1], 1)}"


def layer_axis(update: Any, labels: Sequence[str], title: str = "layer") -> None:
    """Name the layers on an axis, first at the top."""
    update(
        title={"text": title, "standoff": 12},
        tickvals=list(range(len(labels))),
        ticktext=list(labels),
        autorange="reversed",
        showgrid=False,
    )


def compactness_figure(atlas: Any, which: int = 0) -> "go.Figure":
    """Return how much of the full swap d directions keep, in both bases, and d_img beside them.

    which: number of the source in `atlas.compactness`. Raises InputError for none such.
    """
    import plotly.graph_objects as go

    one = pick(atlas.compactness, which, "source")
    if not one.pca.kept and not one.jacobian.kept:
        raise InputError(f"{one.source}: no directions were counted, so none are drawn")
    curves = (
        ("PCA basis", one.pca, BLUE, "circle", "solid"),
        ("Jacobian basis", one.jacobian, ORANGE, "diamond", "solid"),
        ("images (d_img)", atlas.image_curve, "#55595e", "square", "dash"),
    )
    figure = go.Figure()
    for name, curve, color, symbol, dash in curves:
        if curve is None or not curve.kept:
            continue
        x, y = zip(*((d, value) for d, value in curve.kept if d > 0), strict=True)
        found = "not reached" if curve.d_star is None else curve.d_star
        figure.add_scatter(
            x=x,
            y=y,
            name=f"{name}: {'d* ' if curve is not atlas.image_curve else ''}{found}",
            mode="lines+markers",
            line={"color": color, "width": 2, "dash": dash},
            marker={"symbol": symbol, "size": 8},
            hovertemplate=f"{name}<br>%{{x}} directions keep %{{y:.3f}}<extra></extra>",
        )
        if curve.d_star is not None:
            figure.add_vline(x=curve.d_star, line={"color": color, "width": 1, "dash": "dot"})
    figure.add_hline(y=KEEP, line=LEVEL_LINE)
    caption = made_from(
        atlas, f"PCA of {one.n_fit} other samples, {one.n_gradients} gradients; level: {KEEP} kept"
    )
    title = f"How few directions of {escape(one.source)} do"
    apply_theme(figure, title=title, caption=caption, height=340)
    figure.update_layout(showlegend=True, legend=LEGEND)
    figure.update_xaxes(type="log", title="directions swapped (count, log scale)", dtick="D2")
    kept = [v for _, curve, *_ in curves if curve for _, v in curve.kept if known(v)]
    span = [min(0.0, *kept, 0.0) - 0.03, max(1.0, *kept, 1.0) + 0.05]
    figure.update_yaxes(title="donor share kept, least attribute", range=span)
    return figure


def kinds_figure(atlas: Any, attribute: str) -> "go.Figure":
    """Return, by kind of module, the donor share of its swap and the damage of its mean ablation.

    Raises InputError for an attribute that the atlas does not have.
    """
    import plotly.graph_objects as go

    check_attribute(atlas, attribute)
    y = list(range(len(atlas.kinds)))
    swapped = [_part(kind.swapped, attribute, "alpha") for kind in atlas.kinds]
    ablated = [_part(kind.ablated, attribute, "damage") for kind in atlas.kinds]
    figure = go.Figure()
    for name, found, color, symbol, up in (
        (f"swapped: donor share {ALPHA}", swapped, BLUE, "circle", 0.12),
        ("mean-ablated: damage", ablated, ORANGE, "diamond", -0.12),
    ):
        figure.add_scatter(
            x=values_of(found),
            # Side by side, since both may be 1.
            y=[i - up for i in y],
            name=name,
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 11},
            error_x=error_bars(found, color=color),
            hovertemplate=f"{name}: %{{x:.3f}}<extra></extra>",
        )
    for level in (0, 1):
        figure.add_vline(x=level, line=LEVEL_LINE)
    caption = made_from(atlas, "bars: 95 % bootstrap over pairs; null: no edit, both exactly 0")
    title = f"{escape(attribute)}: kinds of module"
    apply_theme(figure, title=title, caption=caption, height=200 + 40 * len(y))
    figure.update_layout(showlegend=True, legend=LEGEND)
    figure.update_xaxes(title="share (0 none, 1 all)", range=_room([*swapped, *ablated]))
    figure.update_yaxes(
        title={"text": "kind of module", "standoff": 12},
        tickvals=y,
        ticktext=[wrapped(kind.name) for kind in atlas.kinds],
        range=[len(y) - 0.5, -0.5],
    )
    return figure


def _room(ones: Sequence[Any]) -> list[float]:
    """From 0 to 1 and as far as the intervals reach, with room for marks at the ends."""
    found = [v for one in ones if one for v in (one.value, one.low, one.high) if known(v)]
    return [min(0.0, *found, 0.0) - 0.06, max(1.0, *found, 1.0) + 0.06]


def _part(cells: Any, attribute: str, name: str) -> Any:
    cell = cells.get(attribute)
    return None if cell is None else getattr(cell, name)
