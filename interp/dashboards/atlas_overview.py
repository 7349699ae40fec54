"""One figure of a whole atlas: what each carrier makes of the pictures, and its donor shares."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.dashboards.atlas_figures import (
    GRAY,
    LEVEL_LINE,
    error_bars,
    made_from,
    pick,
    short,
    values_of,
)
from interp.dashboards.atlas_grid import ROLES, make_scale
from interp.dashboards.atlas_html import ALPHA
from interp.dashboards.theme import CATEGORICAL, apply_theme, escape
from interp.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

BLUE, ORANGE, GREEN, *_ = CATEGORICAL
# Role -> color and symbol; what decides nothing is gray and open.
LOOK = {
    "source": (BLUE, "circle"),
    "write": (GREEN, "square"),
    "descendant": ("#7a7f86", "diamond-open"),
    "reference": (GRAY, "x-thin-open"),
}
# Rows that can be read in one figure; the page shows all.
MOST_ROWS = 24
N_PAIRS = 4
_ROW_HEIGHT = 38
_EDGE = {"width": 2}


def atlas_figure(
    atlas: Any, arm: int = 0, *, n_pairs: int = N_PAIRS, most_rows: int = MOST_ROWS
) -> "go.Figure":
    """Return a figure of an atlas: pictures left, donor share of every attribute right.

    A row is a carrier: sources first, then writes, then descendants (gray, they decide nothing).
    The first two rows of pictures are donors and recipients; below, what the swap of the carrier
    made of the recipient. Orange: the same rows moved as far in random directions.

    Args:
        atlas: an `Atlas`.
        arm: number of the arm in `atlas.arms`.
        n_pairs: pairs of pictures shown, at most as many as the record kept.
        most_rows: carriers shown, in order; the caption says how many are left out.

    Raises:
        InputError: there is no such arm, or no carrier in it.
    """
    from plotly.subplots import make_subplots

    one = pick(atlas.arms, arm, "arm")
    order = list(ROLES)
    rows = [row for row in atlas.carriers if row.arm == one.name and row.role in order]
    rows.sort(key=lambda row: order.index(row.role))
    if not rows:
        raise InputError(f"no carrier was swapped in the arm {one.name!r}")
    shown = rows[:most_rows]
    names = [attribute.name for attribute in atlas.attributes]
    q = min(n_pairs, len(one.donors), len(one.recipients))
    wide = 0.06 * max(q, 1)
    rest = (1 - wide) / len(names)
    figure = make_subplots(
        1,
        len(names) + 1,
        column_widths=[wide] + [rest] * len(names),
        horizontal_spacing=0.025,
        shared_yaxes=True,
    )
    _place_pictures(figure, atlas, one, shown, q)
    for column, name in enumerate(names, start=2):
        _place_shares(figure, shown, name, column)
    _finish(figure, atlas, one, (shown, len(rows), q))
    return figure


def _place_pictures(figure: Any, atlas: Any, arm: Any, rows: Sequence[Any], q: int) -> None:
    lines = [(-2, arm.donors), (-1, arm.recipients), *((i, r.images) for i, r in enumerate(rows))]
    for y, tiles in lines:
        for x, index in enumerate(tiles[:q]):
            figure.add_layout_image(
                source=picture_data(atlas.images[index]),
                xref="x",
                yref="y",
                x=x,
                y=y,
                sizex=0.92,
                sizey=0.92,
                xanchor="center",
                yanchor="middle",
            )


def picture_data(pixels: np.ndarray) -> str:
    """Return a picture uint8 [h, w, 3] as a data URI, small ones enlarged without smoothing."""
    from PIL import Image

    out = io.BytesIO()
    picture = Image.fromarray(pixels)
    # A figure scales pictures smoothly; pixels of small ones have to be large beforehand.
    scale = max(1, 64 // max(picture.size))
    size = (picture.width * scale, picture.height * scale)
    picture.resize(size, Image.Resampling.NEAREST).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def _place_shares(figure: Any, rows: Sequence[Any], name: str, column: int) -> None:
    place = {"row": 1, "col": column}
    random = [None if row.random is None else row.random.get(name) for row in rows]
    levels = [None if cell is None else cell.alpha for cell in random]
    hover = "random directions, as far: %{x:.3f}<extra></extra>"
    marker = {"symbol": "line-ns-open", "size": 14, "color": ORANGE, "line": {"width": 2}}
    figure.add_scatter(
        x=values_of(levels),
        y=list(range(len(rows))),
        mode="markers",
        marker=marker,
        error_x=error_bars(levels, color=ORANGE),
        hovertemplate=hover,
        **place,
    )
    for role, (color, symbol) in LOOK.items():
        found = [(i, row) for i, row in enumerate(rows) if row.role == role and name in row.effects]
        alphas = [row.effects[name].alpha for _, row in found]
        figure.add_scatter(
            x=values_of(alphas),
            y=[i for i, _ in found],
            mode="markers",
            marker={"symbol": symbol, "size": 10, "color": color, "line": _EDGE | {"color": color}},
            error_x=error_bars(alphas, color=color),
            text=[escape(row.name) for _, row in found],
            hovertemplate=f"%{{text}}: {ALPHA} %{{x:.3f}}<extra></extra>",
            **place,
        )
    # Lines come last: Plotly draws none into a panel that is still empty.
    for level in (0, 1):
        figure.add_vline(x=level, line=LEVEL_LINE, layer="below", **place)
    figure.update_xaxes(title=f"donor share of {escape(name)}", range=_range(rows), **place)


def _range(rows: Sequence[Any]) -> list[float]:
    """One axis for all attributes, with room for every interval as far as the page shows them."""
    scale = make_scale(rows, ("alpha",))
    return [scale.low - 0.04, scale.high + 0.04]


def _finish(figure: Any, atlas: Any, arm: Any, shown: tuple[Sequence[Any], int, int]) -> None:
    rows, total, q = shown
    verdict = atlas.verdict
    said = (
        "no verdict"
        if verdict is None
        else f"compact: {verdict.compact.answer}, specialized: {verdict.specialized.answer}"
    )
    left_out = f"; {total - len(rows)} further carriers on the page" if total > len(rows) else ""
    caption = made_from(
        atlas,
        f"{escape(arm.name)}: {escape(arm.what)}{left_out}<br>bars: 95 % bootstrap over pairs; "
        "dotted: 0 recipient, 1 donor; orange: equal push in random directions<br>blue: sources, "
        "green: writes, gray: descendants and levels, which decide nothing",
    )
    height = 190 + _ROW_HEIGHT * (len(rows) + 2)
    title = f"{escape(atlas.model.spec)}: {escape(said)}"
    apply_theme(figure, title=title, caption=caption, height=height)
    figure.update_layout(margin={"l": 150, "r": 20, "t": 56, "b": 118})
    figure.update_yaxes(
        tickvals=list(range(-2, len(rows))),
        ticktext=["A donor", "B recipient", *(short(row.name, 22) for row in rows)],
        range=[len(rows) - 0.5, -2.5],
    )
    figure.update_yaxes(title={"text": "carrier swapped", "standoff": 12}, row=1, col=1)
    figure.update_xaxes(
        title=f"{q} pairs",
        range=[-0.5, max(q, 1) - 0.5],
        showticklabels=False,
        showgrid=False,
        row=1,
        col=1,
    )
