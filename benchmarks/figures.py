"""Plotly figures from result files, as HTML pages on request; nothing of them is committed.

python -m benchmarks.figures train --results benchmarks/results --out figures
python -m benchmarks.figures                   # every figure that the results have data for
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.dense import Shape
from benchmarks.report import load
from benchmarks.run import RESULTS

# Okabe and Ito's colors, told apart by every eye.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
PARTS = ("encode", "decode", "backward and Adam")


def train_figure(record: dict[str, Any]) -> Any:
    """Stacked time of our step beside the dense step, with the line of the floor, per shape.

    Args:
        record: a result file of the case `train`.

    Returns:
        go.Figure: one group of bars for each shape and number of threads.
    """
    import plotly.graph_objects as go

    rows = record["result"]["measured"]
    labels = [_label(one) for one in rows]
    figure = go.Figure()
    stacked = {part: [_time(one, part) for one in rows] for part in PARTS}
    ours = [_time(one, "ours") for one in rows]
    stacked["other"] = [
        max(0.0, total - sum(parts)) for total, *parts in zip(ours, *stacked.values(), strict=True)
    ]
    for color, (part, values) in zip(COLORS, stacked.items(), strict=False):
        figure.add_bar(x=[labels, ["ours"] * len(rows)], y=values, name=part, marker_color=color)
    dense = [_time(one, "dense") for one in rows]
    figure.add_bar(
        x=[labels, ["dense"] * len(rows)], y=dense, name="dense step", marker_color="#999999"
    )
    figure.add_scatter(
        x=[labels, ["ours"] * len(rows)],
        y=[one["floor"] for one in rows],
        name="floor: product + selection",
        mode="markers",
        marker={"symbol": "line-ew", "size": 48, "line": {"width": 3, "color": "black"}},
    )
    figure.update_layout(barmode="stack", yaxis_title="median time of a full step (ms)")
    return _captioned(figure, "A training step and its floor", record)


def _label(one: dict[str, Any]) -> str:
    shape, clock = Shape(**one["shape"]), "CPU" if one["clock"] == "cpu" else "wall"
    return f"{shape}<br>{clock} time, {one['threads']} thread(s), {one['rounds']} rounds"


def _time(one: dict[str, Any], name: str) -> float:
    return one["times"][name][one["clock"]]["median"]


def losses_figure(record: dict[str, Any]) -> Any:
    """Loss of ours and of the dense step over the same batches, the first shape.

    Args:
        record: a result file of the case `train`.

    Returns:
        go.Figure.
    """
    import plotly.graph_objects as go

    one = record["result"]["measured"][0]
    figure = go.Figure()
    for color, (name, dash) in zip(COLORS, {"dense": "solid", "ours": "dot"}.items(), strict=False):
        line = {"color": color, "dash": dash, "width": 3}
        figure.add_scatter(y=one["losses"][name], name=name, line=line, mode="lines")
    figure.update_layout(
        xaxis_title="step", yaxis_title="unexplained share of the variance of the batch"
    )
    return _captioned(figure, f"Loss of both steps {Shape(**one['shape'])}", record)


def kernels_figure(record: dict[str, Any]) -> Any:
    """Speed-up of the sparse step and of every op over m / k.

    Args:
        record: a result file of the case `kernels`.

    Returns:
        go.Figure: a line for each op, dictionary size, batch size and dtype.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    rows = record["result"]["measured"]
    clock = "cpu" if record["environment"]["device"] == "cpu" else "wall"
    names = sorted({label.split(",")[0] for label in rows[0]["times"]})
    groups = sorted({_group(one) for one in rows})
    for number, name in enumerate(names):
        for m, n, dtype in groups:
            part = [one for one in rows if _group(one) == (m, n, dtype)]
            figure.add_scatter(
                x=[m / one["shape"]["k"] for one in part],
                y=[_speed_up(one["times"], name, clock) for one in part],
                name=f"{name}, m {m}, n {n}, {dtype}",
                mode="lines+markers",
                line={"color": COLORS[number % len(COLORS)]},
                visible=True if name == "step" else "legendonly",
            )
    figure.add_hline(y=1, line_dash="dash", line_color="black")
    figure.update_layout(
        xaxis={"title": "latents per active latent, m / k", "type": "log"},
        yaxis={"title": "time of dense / time of sparse", "type": "log"},
    )
    return _captioned(figure, "Sparse against dense", record)


def _group(one: dict[str, Any]) -> tuple[int, int, str]:
    return one["shape"]["m"], one["shape"]["n"], one["dtype"]


def batches_figure(record: dict[str, Any]) -> Any:
    """Speed-up of the whole sparse step over m / k and the batch, in single precision.

    Args:
        record: a result file of the case `kernels`.

    Returns:
        go.Figure: a field of numbers, at the m that was measured with several batches.
    """
    import plotly.graph_objects as go

    rows = [one for one in record["result"]["measured"] if one["dtype"] == "float32"]
    clock = "cpu" if record["environment"]["device"] == "cpu" else "wall"
    m = min(one["shape"]["m"] for one in rows)
    found = {
        (one["shape"]["n"], m // one["shape"]["k"]): _speed_up(one["times"], "step", clock)
        for one in rows
        if one["shape"]["m"] == m
    }
    batches, ratios = (sorted({key[place] for key in found}) for place in (0, 1))
    z = [[found.get((n, ratio)) for ratio in ratios] for n in batches]
    labels = [["" if value is None else f"{value:.1f}" for value in row] for row in z]
    figure = go.Figure(
        go.Heatmap(
            x=[str(ratio) for ratio in ratios], y=[str(n) for n in batches], z=z, text=labels,
            texttemplate="%{text}", colorscale="Cividis", colorbar={"title": "dense / sparse"},
        )
    )  # fmt: skip
    figure.update_layout(
        xaxis_title="latents per active latent, m / k", yaxis_title="rows per batch, n"
    )
    return _captioned(figure, f"Speed-up of a step, m {m}", record)


def memory_figure(record: dict[str, Any]) -> Any:
    """Peak memory of a step over the number of latents, ours, dense, and what none can do without.

    Args:
        record: a result file of the case `memory`.

    Returns:
        go.Figure.
    """
    import plotly.graph_objects as go

    rows, sizes = record["result"]["measured"], record["result"]["sizes"]
    names = {
        "dense": "dense autograd step",
        "ours": "ours",
        "weights_and_moments": "weights and moments of Adam",
    }
    figure = go.Figure()
    for color, (key, name) in zip(COLORS, names.items(), strict=False):
        figure.add_scatter(
            x=[one["m"] for one in rows], y=[one[key] for one in rows], name=name,
            mode="lines+markers", line={"color": color},
        )  # fmt: skip
    figure.update_layout(
        xaxis={"title": "latents, m", "type": "log"},
        yaxis={"title": "peak beyond the start (MB)", "type": "log"},
    )
    return _captioned(
        figure, f"Memory of a step (d {sizes['d']}, k {sizes['k']}, n {sizes['n']})", record
    )


def _speed_up(times: dict[str, Any], name: str, clock: str) -> float:
    dense, eager = (times[f"{name}, {b}"][clock]["median"] for b in ("dense", "eager"))
    return dense / eager


def gpu_figure(record: dict[str, Any]) -> Any:
    """Full steps of every kind at every shape, with the floor of each.

    Args:
        record: a result file of `benchmarks.gpu`.

    Returns:
        go.Figure.
    """
    import plotly.graph_objects as go

    rows = record["result"].get("steps", [])
    labels = [f"{Shape(**one['shape'])}<br>{one['dtype']}" for one in rows]
    names = list(dict.fromkeys(name for one in rows for name in one["times"]))
    figure = go.Figure()
    for number, name in enumerate(names):
        values = [one["times"].get(name, {}).get("median") for one in rows]
        figure.add_bar(x=labels, y=values, name=name, marker_color=COLORS[number % len(COLORS)])
    floors = [one["floor"]["total"] for one in rows]
    marker = {"symbol": "line-ew", "size": 60, "line": {"width": 3, "color": "black"}}
    figure.add_scatter(x=labels, y=floors, name="floor", mode="markers", marker=marker)
    figure.update_layout(
        barmode="group", yaxis={"title": "median time of a full step (ms)", "type": "log"}
    )
    return _captioned(figure, "A training step and its floor", record)


def quality_figure(record: dict[str, Any]) -> Any:
    """Planted atoms found over CPU time, ours and other libraries; each point a run of its own.

    Args:
        record: a result file of the case `quality`.

    Returns:
        go.Figure.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    colors = COLORS * (1 + len(record["result"]["curves"]) // len(COLORS))
    for color, (name, runs) in zip(colors, record["result"]["curves"].items(), strict=False):
        figure.add_scatter(
            x=[one["seconds_cpu"] for one in runs],
            y=[100 * one["recovered"] for one in runs],
            text=[f"{one['steps']} steps" for one in runs],
            name=name, mode="lines+markers", line={"color": color},
        )  # fmt: skip
    figure.update_layout(
        xaxis={"title": "CPU seconds of the training run, one thread", "type": "log"},
        yaxis={"title": "planted atoms found, |cosine| above .9 (%)", "range": [0, 100]},
    )
    says = record["result"]["cases"]["small"]["says"]
    return _captioned(figure, f"Quality over time: {says}", record)


def _captioned(figure: Any, title: str, record: dict[str, Any]) -> Any:
    where = record["environment"]
    device = where["cpu"] if where["device"] == "cpu" else where["device"]
    caption = (
        f"{device}, torch {where['versions'].get('torch', '?')}, commit {where['commit']}, "
        f"{where['date'][:10]}"
    )
    figure.update_layout(
        title={"text": f"{title}<br><sup>{caption}</sup>"}, template="simple_white"
    )
    return figure


# File name -> case, and the figure of its record.
FIGURES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "train": ("train", train_figure),
    "losses": ("train", losses_figure),
    "kernels": ("kernels", kernels_figure),
    "batches": ("kernels", batches_figure),
    "memory": ("memory", memory_figure),
    "gpu": ("gpu", gpu_figure),
    "quality": ("quality", quality_figure),
}


def main(arguments: list[str] | None = None) -> int:
    """Write the named figures, or all that there are results for."""
    parser = argparse.ArgumentParser("python -m benchmarks.figures", description="See the module.")
    parser.add_argument("names", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of result files")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the pages")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(FIGURES))
    if unknown:
        parser.error(f"no figure {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    records = load(options.results)
    for name in options.names or FIGURES:
        case, draw = FIGURES[name]
        found = [record for record in records if record["case"] == case]
        if not found:
            print(f"{name}: no result of the case {case} in {options.results}")
        for record in found:
            device = record["environment"]["device"].lower().replace(" ", "-")
            path = options.out / f"{name}-{device}.html"
            path.write_text(page(draw(record)))
            print(path)
    return 0


def page(figure: Any) -> str:
    """A page that needs no network, without the button that would upload its data."""
    config = {"showSendToCloud": False, "displaylogo": False}
    return figure.to_html(include_plotlyjs=True, config=config)


if __name__ == "__main__":
    raise SystemExit(main())
