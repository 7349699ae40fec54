"""Plotly figures for notebooks: one latent, one comparison. Functions of data, in one theme."""

from typing import TYPE_CHECKING, Any

import numpy as np

from interp.dashboards.schema import calls_record, check_features, has_maps
from interp.dashboards.theme import ACCENT, CATEGORICAL, OVERLAY, apply_theme, escape
from interp.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Pictures of a latent's figure: one row, more would be slow in Plotly.
N_PICTURES = 6


def feature_figure(features: Any, latent: int, store: Any = None) -> "go.Figure":
    """Return a figure of one latent: top pictures with maps, histogram, calls, categories.

    Args:
        features: result of `describe`.
        latent: 0 .. m - 1.
        store: the activation store the features were described on; without it, no pictures.

    Raises:
        InputError: no such latent, or a store other than the one described.
    """
    from plotly.subplots import make_subplots

    check_features(features)
    m = len(features.density)
    if not 0 <= latent < m:
        raise InputError(f"latent {latent} does not exist; this SAE has latents 0 to {m - 1}")
    if store is not None and store.hash != features.store["hash"]:
        raise InputError(
            f"the features were described on store {features.store['hash']}, not {store.hash}"
        )
    examples = _top(features, latent) if store is not None else []
    layout: list[list[Any]] = [[{"colspan": 2}, None, {"colspan": 2}, None, {"colspan": 2}, None]]
    if examples:
        layout.insert(0, [{} for _ in range(N_PICTURES)])
    figure = make_subplots(len(layout), 6, specs=layout, vertical_spacing=0.14)
    if examples:
        _add_pictures(figure, features, latent, examples, store)
    _add_charts(figure, features, latent, len(layout))
    caption = (
        f"n = {int(features.n_rows):,} rows of {int(features.n_generations):,} generations; "
        f"density {float(features.density[latent]):.3g}; SAE {escape(features.sae['digest'])}, "
        f"seed {features.seed}; no null: a description, not a test"
    )
    title = f"Latent {latent} at {escape(features.point.name)}"
    return apply_theme(figure, title=title, caption=caption, height=560 if examples else 360)


def _top(features: Any, latent: int) -> list[int]:
    rows, kinds = (
        np.asarray(features.example_row[latent]),
        np.asarray(features.example_kind[latent]),
    )
    return np.flatnonzero((rows >= 0) & (kinds == 0))[:N_PICTURES].tolist()


def _add_pictures(figure: Any, features: Any, latent: int, examples: list[int], store: Any) -> None:
    import plotly.graph_objects as go

    generations = np.asarray(features.example_generation)[latent, examples]
    pictures = np.asarray(store.images(generations))
    h, w = pictures.shape[1:3]
    largest = float(features.maximum[latent]) or 1.0
    for column, (example, picture) in enumerate(zip(examples, pictures, strict=True), start=1):
        figure.add_trace(go.Image(z=picture, hoverinfo="skip"), row=1, col=column)
        if has_maps(features):
            figure.add_trace(
                _overlay(np.asarray(features.maps[latent, example], float), (h, w), largest),
                row=1,
                col=column,
            )
        value = float(features.example_value[latent, example])
        figure.update_xaxes(
            title={"text": f"{value:.3g}", "font": {"size": 11}},
            showticklabels=False,
            range=[-0.5, w - 0.5],
            constrain="domain",
            row=1,
            col=column,
        )
        figure.update_yaxes(showticklabels=False, range=[h - 0.5, -0.5], row=1, col=column)


def _overlay(values: np.ndarray, size: tuple[int, int], largest: float) -> Any:
    """A heat map whose cells cover the picture: cell (i, j) of a grid is h / rows pixels high."""
    import plotly.graph_objects as go

    rows, columns = values.shape
    return go.Heatmap(
        z=values,
        x0=size[1] / columns / 2 - 0.5,
        dx=size[1] / columns,
        y0=size[0] / rows / 2 - 0.5,
        dy=size[0] / rows,
        zmin=0,
        zmax=largest,
        colorscale=[list(stop) for stop in OVERLAY],
        zsmooth="best" if rows > 1 and columns > 1 else False,
        showscale=False,
        hovertemplate="activation %{z:.3g}<extra></extra>",
    )


def _add_charts(figure: Any, features: Any, latent: int, row: int) -> None:
    import plotly.graph_objects as go

    edges = np.asarray(features.edges, float)
    centers, widths = 10 ** ((edges[1:] + edges[:-1]) / 2), np.diff(10**edges)
    counts = np.asarray(features.histogram[latent])
    bars = {"marker": {"color": ACCENT}}
    figure.add_trace(go.Bar(x=centers, y=counts, width=widths, **bars), row=row, col=1)
    figure.update_xaxes(type="log", title="activation (SAE units, log scale)", row=row, col=1)
    figure.update_yaxes(type="log", title="rows per bin", row=row, col=1)
    snr = calls_record(features)["log_snr"]
    known = all(value is not None for value in snr)
    x = snr if known else list(range(len(snr)))
    profile = np.asarray(features.profile_calls[latent], float)
    line = {"color": ACCENT, "width": 2}
    figure.add_trace(go.Scatter(x=x, y=profile, mode="lines+markers", line=line), row=row, col=3)
    figure.update_xaxes(title="log-SNR (nats)" if known else "call (index)", row=row, col=3)
    figure.update_yaxes(title="mean activation", rangemode="tozero", row=row, col=3)
    if not features.categories:
        return
    values = np.asarray(features.category_profile[latent], float)
    order = np.argsort(-values, kind="stable")[:8][::-1]
    names = [escape(features.categories[i])[:24] for i in order]
    figure.add_trace(go.Bar(x=values[order], y=names, orientation="h", **bars), row=row, col=5)
    figure.update_xaxes(title="mean activation by category", row=row, col=5)


def comparison_figure(alignment: Any, measure: str | None = None) -> "go.Figure":
    """Return the layer-by-layer matrix of an alignment as a heat map.

    Hovering shows each cell's value, null mean and sd, p, interval, and difference to the untrained
    twins.

    Args:
        alignment: result of `compare_layers`.
        measure: one of its measures; None for the first.

    Raises:
        InputError: the alignment has no such measure.
    """
    import plotly.graph_objects as go

    name = measure or str(alignment.measures[0])
    if name not in alignment.measures:
        raise InputError(f"no measure {name!r} here; there are {', '.join(alignment.measures)}")
    values, hover, top = _matrix(alignment, name)
    places = list(range(len(alignment.layers)))
    heat = go.Heatmap(
        z=values,
        x=places,
        y=places,
        text=hover,
        colorscale="Viridis",
        zmin=0,
        zmax=top,
        colorbar={"title": {"text": escape(name)}, "thickness": 12, "outlinewidth": 0},
        hovertemplate="%{text}<extra></extra>",
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    names = [escape(_layer_name(layer)) for layer in alignment.layers]
    size = {"tickfont": {"size": 9}, "tickvals": places, "ticktext": names, "showgrid": False}
    figure.update_xaxes(title="layer", tickangle=-90, **size)
    figure.update_yaxes(title="layer", autorange="reversed", **size)
    caption = (
        f"n = {alignment.n:,} images; {alignment.n_permutations} permutations "
        f"({escape(alignment.strata)}), seed {alignment.seed}; colors end at the largest value "
        f"between two models{_leaks(alignment.shared_leaks)}"
    )
    title = f"{escape(name)} between layers, {escape(alignment.sample_set)}"
    apply_theme(figure, title=title, caption=caption, height=max(480, 190 + 16 * len(places)))
    figure.update_layout(margin={"l": 190, "b": 250, "t": 64, "r": 24})
    figure.update_annotations(yshift=-210, xshift=-160)
    return figure


def _leaks(shared: Any) -> str:
    """What models in a figure share by their making, which may be why they are alike."""
    found = [f"{leak} ({', '.join(models)})" for leak, models in shared]
    return f"<br>known leaks: {escape('; '.join(found))}" if found else ""


def _matrix(alignment: Any, measure: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Values, hover texts, and the largest value between two models.

    Layers of one model resemble each other far more: on their scale all else would look alike.
    """
    layers = list(alignment.layers)
    shape = (len(layers), len(layers))
    values, hover, crossing = np.full(shape, np.nan), np.full(shape, "", object), []
    for cell in alignment.cells:
        if cell.comparison.measure != measure:
            continue
        ends = layers[cell.i], layers[cell.j]
        for i, j in ((cell.i, cell.j), (cell.j, cell.i)):
            values[i, j], hover[i, j] = cell.comparison.value, _cell_text(cell, ends)
        if ends[0].model != ends[1].model:
            crossing.append(cell.comparison.value)
    return values, hover, max(crossing, default=1.0)


def _layer_name(layer: Any) -> str:
    level = "" if layer.log_snr is None else f" @{layer.log_snr:.0f}"
    return f"{layer.model} {layer.point[-26:]}{level}"


def _cell_text(cell: Any, ends: tuple[Any, Any]) -> str:
    one = cell.comparison
    lines = [escape(_layer_name(end)) for end in ends] + [f"<b>{one.value:.3f}</b>"]
    if one.low is not None:
        lines[-1] += f" [{one.low:.3f}, {one.high:.3f}]"
    if one.null_mean is not None:
        lines.append(f"null {one.null_mean:.3f} ± {one.null_sd:.3f}, p {one.p:.3f}")
    if cell.difference is not None:
        bounds = "" if cell.difference_low is None else _bounds(cell)
        lines.append(f"minus untrained twins {cell.difference:+.3f}{bounds}")
    return "<br>".join(lines)


def _bounds(cell: Any) -> str:
    return f" [{cell.difference_low:.3f}, {cell.difference_high:.3f}]"


def layer_profile_figure(
    alignment: Any, model: str, layer: int, measure: str | None = None
) -> "go.Figure":
    """Return value against depth for the layers of one model, held against one fixed layer.

    Shows the jackknife interval, the level of the untrained twins and the null's mean ± 2 sd.

    Args:
        alignment: result of `compare_layers`.
        model: label of the model whose layers are walked through.
        layer: number of the fixed layer in `alignment.layers`, of another model.
        measure: one of the alignment's measures; None for the first.

    Raises:
        InputError: unknown model, layer or measure, or no cell between them.
    """
    import plotly.graph_objects as go

    name = measure or str(alignment.measures[0])
    cells = _cells_against(alignment, model, layer, name)
    figure = go.Figure()
    levels = list(dict.fromkeys(other.log_snr for other, _ in cells))
    for color, level in zip(CATEGORICAL * len(levels), levels, strict=False):
        part = sorted(
            (pair for pair in cells if pair[0].log_snr == level), key=lambda pair: pair[0].depth
        )
        _add_profile(figure, part, color, "trained" if level is None else f"log-SNR {level:g}")
    fixed = alignment.layers[layer]
    caption = (
        f"n = {alignment.n:,} images, {alignment.n_permutations} permutations, seed "
        f"{alignment.seed}; bars: 95 % jackknife; dotted: untrained twins; gray: null ± 2 sd"
    )
    ends = (model, fixed.model)
    both = [(leak, ends) for leak, users in alignment.shared_leaks if {*ends} <= {*users}]
    caption += _leaks(both)
    title = f"{escape(model)} against {escape(_layer_name(fixed))}"
    apply_theme(figure, title=title, caption=caption, height=440)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.08})
    figure.update_xaxes(title=f"depth in {escape(model)} (0 first block, 1 last)")
    figure.update_yaxes(title=escape(name))
    return figure


def _cells_against(alignment: Any, model: str, layer: int, measure: str) -> list[tuple[Any, Any]]:
    layers = alignment.layers
    if not 0 <= layer < len(layers):
        raise InputError(f"layer {layer} is out of range: there are {len(layers)}")
    found = []
    for cell in alignment.cells:
        if layer not in (cell.i, cell.j) or cell.comparison.measure != measure:
            continue
        other = layers[cell.j if cell.i == layer else cell.i]
        if other.model == model and other.depth is not None:
            found.append((other, cell))
    if not found:
        models = ", ".join(dict.fromkeys(one.model for one in layers))
        raise InputError(
            f"no cell of {measure!r} between {model!r} and layer {layer}; models: {models}; "
            f"measures: {', '.join(alignment.measures)}"
        )
    return found


def _add_profile(figure: Any, pairs: list[tuple[Any, Any]], color: str, name: str) -> None:
    x = [layer.depth for layer, _ in pairs]
    ones = [cell.comparison for _, cell in pairs]
    y = [one.value for one in ones]
    if all(one.null_mean is not None for one in ones):
        low = [one.null_mean - 2 * one.null_sd for one in ones]
        high = [one.null_mean + 2 * one.null_sd for one in ones]
        band = {"x": x, "mode": "lines", "line": {"width": 0}, "showlegend": False}
        figure.add_scatter(y=low, hoverinfo="skip", **band)
        gray = "rgba(128,128,128,0.2)"
        figure.add_scatter(y=high, fill="tonexty", fillcolor=gray, hoverinfo="skip", **band)
    bars = {"type": "data", "symmetric": False, "thickness": 1, "width": 2}
    bars["array"] = [0 if one.high is None else one.high - one.value for one in ones]
    bars["arrayminus"] = [0 if one.low is None else one.value - one.low for one in ones]
    look = {"color": color, "width": 2}
    figure.add_scatter(x=x, y=y, name=name, mode="lines+markers", line=look, error_y=bars)
    twins = [cell.twin_value for _, cell in pairs]
    if any(value is not None for value in twins):
        dotted = {"color": color, "width": 1.5, "dash": "dot"}
        label = f"untrained twins, {name}"
        figure.add_scatter(x=x, y=twins, name=label, mode="lines", line=dotted)
