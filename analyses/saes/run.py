"""How well does an SAE of one size explain every block of every model in the box?

Run from the repository root; captures and trainings are kept and continued:

    python -m analyses.saes.run --out runs/saes
    python -m analyses.saes.run --report        # the committed results as tables, without measuring

Every SAE is a TopK of one size, trained on one recipe's rows and judged on images (or seeds) that
it has not seen, beside k-sparse PCA, a random dictionary, and an SAE of the same block of an
untrained twin.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import interp
from interp.zoo import MODELS, card

HERE = Path(__file__).parent
ENTRIES = ("z", "w", "code")
# A code of 8 numbers is not sparse where a row has hardly more.
NARROWEST = 24
# Denoisers: shown images at several noise levels.
NOISY = ("ddpm", "ldm", "dit")
PCA, RANDOM = "k-sparse PCA", "random dictionary"


@dataclass(frozen=True)
class Config:
    n_latents: int
    k: int
    steps: int
    n_train: int  # images, or samples of a GAN
    n_judge: int
    positions: int  # random ones per map
    log_snr: tuple[float, ...]
    twin_seed: int
    seed: int


def points_of(model: Any, mode: str) -> list[str]:
    """Every block output of the main stream, and what a generation starts from."""
    names = model.select(["all"], mode)
    points = model.points
    blocks = [n for n in names if points[n].kind == "resid" and "skip" not in n]
    wide = [n for n in names if points[n].width >= NARROWEST]
    return [n for n in wide if n in blocks or n in ENTRIES]


def recipes(name: str, model: Any, config: Config) -> tuple[str, list[Any]]:
    """Mode of capture, and what trains and what judges."""
    if "encode" not in model.capabilities:
        seeds = ((config.n_train, 1_000_000), (config.n_judge, 2_000_000))
        return "generate", [interp.Generation(n=n, seed=s, batch_size=64) for n, s in seeds]
    levels = config.log_snr if name in NOISY else ()
    parts = (("train", config.n_train), ("heldout", config.n_judge))
    # Texts differ in length: one at a time.
    text = {"condition": "caption", "batch_size": 1} if name == "text" else {}
    return "encode", [
        interp.Encoding(f"glyphs/{part}", limit=n, seed=config.seed, log_snr=levels, **text)
        for part, n in parts
    ]


def measure(name: str, twin: int | None, config: Config, out: Path) -> Iterator[dict[str, Any]]:
    """Rows of the table of one model, or of an untrained twin of it: one per block and call."""
    model = interp.load(f"zoo:{name}", untrained=twin is not None, seed=twin or 0)
    mode, (train, judge) = recipes(name, model, config)
    points = points_of(model, mode)
    # A text's rows are the means over its tokens.
    positions = "mean" if name == "text" else config.positions
    rows = interp.Rows(positions=positions, seed=config.seed)
    stores = [
        interp.capture(model, points, recipe, out=out / "stores", rows=rows, progress=False)
        for recipe in (train, judge)
    ]
    label = name if twin is None else f"{name}-twin"
    for point in points:
        settings = interp.TrainConfig(
            n_latents=config.n_latents, k=config.k, steps=config.steps, seed=config.seed,
            held_out=0.0, checkpoint_every=0,
        )  # fmt: skip
        folder = out / "saes" / label / point
        sae = interp.train(stores[0], settings, point=point, out=folder, progress=False).sae
        found = interp.evaluate(sae, stores[1], point, seed=config.seed)
        beside = {one.name: one.fvu for one in found.baselines}
        for call in found.per_call:
            yield {
                "model": name,
                "point": point,
                "d": sae.d_in,
                "log_snr": call.log_snr,
                "t": call.t,
                "rows": call.n_rows,
                "fvu": number(call.fvu),
                "l0": number(call.l0),
                "dead": number(found.dead),
                "fvu_all": number(found.fvu),
                "severity": number(found.severity),
                "pca": number(beside.get(PCA)),
                "random": number(beside.get(RANDOM)),
            }


def number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(f"{value:.4g}")


def run(config: Config, out: Path, models: Sequence[str]) -> list[dict[str, Any]]:
    table = []
    for name in models:
        start = time.perf_counter()
        trained = list(measure(name, None, config, out))
        twins = {
            (row["point"], row["log_snr"]): row
            for row in measure(name, config.twin_seed, config, out)
        }
        for row in trained:
            other = twins.get((row["point"], row["log_snr"]))
            row["twin"] = None if other is None else other["fvu"]
        table += trained
        say(f"{name}: {len(trained)} rows in {time.perf_counter() - start:.0f} s")
    return table


def summary(table: Sequence[dict[str, Any]]) -> str:
    """One line per model: what its blocks have in common."""
    lines = [
        "| model | blocks | FVU, median [least, most] | of k-sparse PCA | of a random dictionary "
        "| of the untrained twin | L0 | dead |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(row["model"] for row in table):
        rows = [row for row in table if row["model"] == name]
        fvu = [row["fvu"] for row in rows if row["fvu"] is not None]
        cells = [
            f"`{name}`{' (UNDERTRAINED)' if undertrained(name) else ''}",
            str(len({row["point"] for row in rows})),
            f"{statistics.median(fvu):.2f} [{min(fvu):.2f}, {max(fvu):.2f}]",
            *(middle(rows, key) for key in ("pca", "random", "twin")),
            middle(rows, "l0", 1),
            f"{100 * statistics.median(row['dead'] for row in rows):.0f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def undertrained(name: str) -> bool:
    verdict = card(name).verdict
    return verdict is not None and verdict.undertrained


def middle(rows: Sequence[dict[str, Any]], key: str, digits: int = 2) -> str:
    values = [row[key] for row in rows if row[key] is not None]
    return f"{statistics.median(values):.{digits}f}" if values else "-"


def full(table: Sequence[dict[str, Any]]) -> str:
    """Every block and call."""
    lines = [
        "| model | point | d | log-SNR | FVU | k-sparse PCA | random dictionary | untrained twin "
        "| L0 | dead |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in table:
        # -0.0 + 0 is 0.
        level = "" if row["log_snr"] is None else f"{round(row['log_snr'], 1) + 0:g}"
        numbers = [row[key] for key in ("fvu", "pca", "random", "twin")]
        cells = ["-" if value is None else f"{value:.3f}" for value in numbers]
        cells += [f"{row['l0']:.1f}", f"{100 * row['dead']:.0f} %"]
        head = [f"`{row['model']}`", f"`{row['point']}`", str(row["d"]), level]
        lines.append(f"| {' | '.join(head + cells)} |")
    return "\n".join(lines)


def figure(table: Sequence[dict[str, Any]]) -> Any:
    """FVU of every block, in order of execution, one panel per model; twins and PCA beside."""
    from plotly.subplots import make_subplots

    names = list(dict.fromkeys(row["model"] for row in table))
    columns = 3
    panels = make_subplots(
        rows=math.ceil(len(names) / columns), cols=columns, subplot_titles=names,
        shared_yaxes=True, vertical_spacing=0.08, horizontal_spacing=0.03,
    )  # fmt: skip
    colors = {"fvu": "#0072B2", "pca": "#E69F00", "twin": "#999999"}
    labels = {"fvu": "SAE", "pca": "k-sparse PCA", "twin": "SAE of the untrained twin"}
    for place, name in enumerate(names):
        rows = [row for row in table if row["model"] == name]
        order = {point: i for i, point in enumerate(dict.fromkeys(r["point"] for r in rows))}
        for key, color in colors.items():
            panels.add_scatter(
                x=[order[row["point"]] for row in rows], y=[row[key] for row in rows],
                mode="markers", name=labels[key], marker={"color": color, "size": 6},
                legendgroup=key, showlegend=not place, text=[row["point"] for row in rows],
                row=place // columns + 1, col=place % columns + 1,
            )  # fmt: skip
    panels.update_yaxes(range=[0, 1.05])
    panels.update_yaxes(title_text="FVU", col=1)
    panels.update_xaxes(title_text="block, in order of execution", showticklabels=False)
    panels.update_layout(template="simple_white", height=260 * math.ceil(len(names) / columns))
    return panels


def put(document: Path, marker: str, text: str) -> None:
    """Replace what stands between `<!-- marker -->` and `<!-- /marker -->`."""
    old = document.read_text()
    head, begin, rest = old.partition(f"<!-- {marker} -->")
    _, end, tail = rest.partition(f"<!-- /{marker} -->")
    if not (begin and end):
        raise SystemExit(f"{document} has no lines <!-- {marker} --> and <!-- /{marker} -->")
    document.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser("python -m analyses.saes.run", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/saes"))
    parser.add_argument("--models", nargs="*", default=list(MODELS), metavar="NAME")
    parser.add_argument("--report", action="store_true", help="only rewrite the documents' tables")
    options = parser.parse_args()
    values = json.loads((HERE / "config.json").read_text())
    config = Config(**{**values, "log_snr": tuple(values["log_snr"])})
    results = HERE / "results.json"
    if not options.report:
        table = run(config, options.out, options.models)
        results.write_text(json.dumps({"config": values, "table": table}, indent=1) + "\n")
        figure(table).write_html(options.out / "figure.html", include_plotlyjs=True)
    table = json.loads(results.read_text())["table"]
    put(HERE / "README.md", "table", full(table))
    put(HERE.parents[1] / "README.md", "saes", summary(table))


if __name__ == "__main__":
    main()
