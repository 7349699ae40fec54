"""Dose-response records as a figure, and as strips on the page of the feature that was steered."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.dashboards.atlas_html import known
from interp.dashboards.atlas_overview import picture_data
from interp.dashboards.encode import plain, write_data
from interp.dashboards.theme import ACCENT, CATEGORICAL, MUTED, apply_theme, escape
from interp.dashboards.thumbnails import LOSSLESS_EDGE, MAX_EDGE, QUALITY
from interp.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

BLUE, ORANGE, GREEN, *_ = CATEGORICAL
# Random directions: kind, words, line, band.
BANDS = (
    ("isotropic", "random, any direction", "rgba(230,159,0,.9)", "rgba(230,159,0,.16)"),
    (
        "matched",
        "random, covariance of clean rows",
        "rgba(204,121,167,.9)",
        "rgba(204,121,167,.16)",
    ),
)
# A WebP picture has at most 16383 pixels a side (RFC 9649).
_MOST_SIDE = 16383


def load_steering(item: Any) -> Any:
    """Return the record itself, or the one saved in a folder."""
    if not isinstance(item, str | Path):
        return item
    from interp.interventions.steering_record import DoseResponse

    return DoseResponse.load(item)


def place_steering(doses: Sequence[Any], features: Sequence[Any]) -> list[int]:
    """Return, for each record, the number of the features whose SAE it steers.

    Raises InputError for a direction of no SAE, and for an SAE or latent that is not on the page.
    """
    digests = [str(item.sae["digest"]) for item in features]
    found = []
    for dose in doses:
        if dose.feature is None:
            raise InputError(
                f"{dose.label} is no feature of an SAE, so it has no page; draw it by "
                "steering_figure()"
            )
        if dose.sae not in digests:
            raise InputError(
                f"{dose.label} steers an SAE {dose.sae!r}; the features given are of "
                f"{', '.join(digests) or 'none'}: pass the features of that SAE"
            )
        index = digests.index(dose.sae)
        count = len(features[index].density)
        if not 0 <= dose.feature < count:
            raise InputError(f"{dose.label}: the SAE has latents 0 to {count - 1}")
        found.append(index)
    return found


def write_steering(doses: Sequence[Any], places: Sequence[int], folder: Path) -> list[dict]:
    """Write data and pictures of each record; return where the page finds them: sae, latent, key.

    `folder/data/steering<i>.js` holds the numbers, `folder/steering/<i>.webp` the pictures: a row
    per strength, the unedited ones first, a column per seed.
    """
    found = []
    for index, (dose, sae) in enumerate(zip(doses, places, strict=True)):
        sheet = _write_sheet(dose, folder / "steering" / f"{index}.webp")
        record = dose.to_json() | {"sheet": sheet, "random_suffices": dose.random_suffices}
        record |= {"conclusion": dose.conclude()}
        write_data(folder / "data", f"steering{index}", plain(record))
        found.append({"sae": sae, "latent": dose.feature, "index": index, "label": dose.label})
    return found


def _write_sheet(dose: Any, path: Path) -> dict[str, int]:
    from PIL import Image

    pixels = np.concatenate([dose.plain[None], dose.images])
    rows, columns, h, w, _ = pixels.shape
    joined = pixels.transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, 3)
    image = Image.fromarray(np.ascontiguousarray(joined))
    edge = min(MAX_EDGE, _MOST_SIDE // max(rows, columns))
    scale = min(1.0, edge / max(h, w))
    if scale < 1:
        h, w = max(1, round(h * scale)), max(1, round(w * scale))
        image = image.resize((columns * w, rows * h), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    lossless = max(h, w) <= LOSSLESS_EDGE
    quality = 100 if lossless else QUALITY
    image.save(path, "WEBP", lossless=lossless, quality=quality, exif=b"")
    return {"rows": rows, "columns": columns, "height": h, "width": w}


def steering_figure(dose: Any) -> "go.Figure":
    """Return what steering did: a panel per attribute, and how far rows left their distribution.

    Blue: change along the attribute's own axis (solid, 95 % jackknife over seeds) and of any
    direction (dotted), in units of the distance between two seeds' images. Bands: random directions
    that move every row as far; their edge is the largest of as many draws as were scanned (of one:
    their mean).

    Args:
        dose: a `DoseResponse`, or the folder that it was saved to.
    """
    from plotly.subplots import make_subplots

    dose = load_steering(dose)
    titles = ["", *map(escape, dose.attributes)]
    titles += ["off distribution"] if dose.off_distribution else []
    panels, seeds = len(titles) - 1, len(dose.shown_seeds)
    strip = 70 * seeds + 40
    figure = make_subplots(
        2,
        panels,
        specs=[[{"colspan": panels}] + [None] * (panels - 1), [{} for _ in range(panels)]],
        row_heights=[strip, 260],
        subplot_titles=titles,
        horizontal_spacing=0.08,
        vertical_spacing=0.16,
    )
    _draw_strip(figure, dose)
    for column, name in enumerate(dose.attributes, start=1):
        _draw_attribute(figure, dose, name, column)
    if dose.off_distribution:
        _draw_distance(figure, dose, panels)
    figure.update_xaxes(title=f"strength ({escape(dose.mode)})", row=2)
    title = f"Steering {escape(dose.label)} at {escape(dose.point)}"
    apply_theme(figure, title=title, caption=_caption(dose), height=strip + 540)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.2, "yanchor": "top"})
    figure.update_layout(margin={"b": 205})
    # Below the legend.
    figure["layout"]["annotations"][-1].yshift = -150
    figure.layout.annotations[-1].yshift = -118
    return figure


def _draw_strip(figure: Any, dose: Any) -> None:
    """The pictures of the shown seeds: a row per seed, unedited first, then by strength."""
    sheets = np.concatenate([dose.plain[None], dose.images])
    for x, row in enumerate(sheets):
        for y, pixels in enumerate(row):
            figure.add_layout_image(
                source=picture_data(pixels),
                xref="x",
                yref="y",
                x=x,
                y=y,
                sizex=0.94,
                sizey=0.94,
                xanchor="center",
                yanchor="middle",
            )
    ticks = ["unedited", *(f"{s:g}" for s in dose.strengths)]
    seeds = [f"seed {seed}" for seed in dose.shown_seeds]
    place = {"row": 1, "col": 1, "showgrid": False}
    x = {"tickvals": list(range(len(ticks))), "ticktext": ticks}
    title = {"text": "strength", "standoff": 4}
    figure.update_xaxes(title=title, range=[-0.5, len(ticks) - 0.5], **x, **place)
    y = {"tickvals": list(range(len(seeds))), "ticktext": seeds}
    figure.update_yaxes(range=[len(seeds) - 0.5, -0.5], **y, **place)


def _caption(dose: Any) -> str:
    shown = f"the largest of {dose.n_scanned}" if dose.n_scanned > 1 else "their mean"
    drawn = f"{dose.n_random} random directions of each kind, {shown} shown"
    if not dose.n_random:
        drawn = "no random directions were drawn"
    elif not dose.random_suffices:
        drawn += " (fewer drawn than scanned: the bands are too low)"
    return (
        f"n = {dose.n_seeds} seeds, seed {escape(dose.settings.get('seed', 'not recorded'))}; "
        f"null: {drawn}<br>strength: {escape(dose.unit_words)}; "
        f"change 1: as different as the image of another seed"
    )


def _draw_attribute(figure: Any, dose: Any, name: str, column: int) -> None:
    place = {"row": 2, "col": column}
    _draw_bands(figure, dose, name, place)
    rows, first = dose.responses[name], column == 1
    reach = {
        "type": "data",
        "symmetric": False,
        "array": [one.along_high - one.along for one in rows],
        "arrayminus": [one.along - one.along_low for one in rows],
        "thickness": 1.5,
        "width": 3,
    }
    look = {"x": list(dose.strengths), "showlegend": first, **place}
    figure.add_scatter(
        y=[one.along for one in rows],
        error_y=reach,
        name="along the attribute's axis",
        mode="lines+markers",
        line={"color": ACCENT, "width": 2},
        hovertemplate="strength %{x:.3g}: %{y:.3f}<extra></extra>",
        **look,
    )
    figure.add_scatter(
        y=[one.size for one in rows],
        name="in any direction",
        mode="lines",
        line={"color": ACCENT, "width": 1.5, "dash": "dot"},
        hovertemplate="strength %{x:.3g}: %{y:.3f} in any direction<extra></extra>",
        **look,
    )
    title = "change (seed distances)" if first else ""
    figure.update_yaxes(title=title, zeroline=True, **place)


def _draw_bands(figure: Any, dose: Any, name: str, place: dict[str, int]) -> None:
    """The random directions: from minus to plus their largest change along the axis."""
    for kind, words, line, band in BANDS:
        rows = getattr(dose, kind).get(name, ())
        if not rows:
            continue
        edge, x = [one.along for one in rows], list(dose.strengths)
        look: dict[str, Any] = {"x": x, "mode": "lines", "line": {"color": line, "width": 1}}
        look |= {"legendgroup": kind, "hoverinfo": "skip", **place}
        figure.add_scatter(y=[-v for v in edge], showlegend=False, **look)
        fill = {"fill": "tonexty", "fillcolor": band, "name": words}
        figure.add_scatter(y=edge, showlegend=place["col"] == 1, **fill, **look)


def distance_ratios(rows: Sequence[Any]) -> dict[str, list[float | None]]:
    """Return each distance over its level for clean held-out rows: 1 is as far as those are."""
    found: dict[str, list[float | None]] = {}
    for name in ("mahalanobis", "neighbor"):
        pairs = [(getattr(one, name), getattr(one, f"{name}_clean")) for one in rows]
        found[name] = [a / b if known(a) and known(b) and b > 0 else None for a, b in pairs]
    return found


def _draw_distance(figure: Any, dose: Any, column: int) -> None:
    place = {"row": 2, "col": column}
    for (point, rows), color in zip(
        dose.off_distribution.items(), (GREEN, ORANGE, BLUE), strict=False
    ):
        for (name, values), dash in zip(
            distance_ratios(rows).items(), ("solid", "dash"), strict=True
        ):
            figure.add_scatter(
                x=list(dose.strengths),
                y=values,
                name=f"{name}, {escape(point)}",
                mode="lines+markers",
                line={"color": color, "dash": dash, "width": 2},
                hovertemplate=f"{name} at {escape(point)}: %{{y:.2f}} x clean<extra></extra>",
                **place,
            )
    figure.add_hline(y=1, line={"color": MUTED, "width": 1, "dash": "dot"}, **place)
    figure.update_yaxes(title="distance over clean rows'", **place)
