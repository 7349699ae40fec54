"""Are the latents of a sparse autoencoder better causal handles than simpler directions?

Run from the repository root; finished parts are kept and continued:

    python -m analyses.handles.run --out runs/handles
    python -m analyses.handles.run --report      # the figure and tables of the committed results
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from analyses.handles.causal import (
    make_bases,
    make_starts,
    make_yard,
    score_handles,
    swap_subspaces,
)
from analyses.handles.codes import (
    fit_pca,
    fvu_curves,
    image_scores,
    k_at,
    label_scores,
    largest,
    train_codes,
)
from analyses.handles.report import TABLES, draw, put
from analyses.handles.rows import Config, PointRows, gather, read_config
from interp.sae import load_sae

HERE = Path(__file__).parent
STAGES = ("codes", "causal", "weaker")
# Of the tests: two networks, tiny numbers.
QUICK: dict[str, Any] = {
    "points": {"gan": ["w"], "vae-global": ["code"]},
    "expansion": 2,
    "k": [4, 8],
    "n_train": 64,
    "n_judge": 160,
    "rows_per_latent": 4,
    "steps": 10,
    "batch_size": 128,
    "permutations": 10,
}
QUICK_CAUSAL: dict[str, Any] = {
    "n_directions": 3,
    "n_choose": 10,
    "n_score": 10,
    "n_reference": 12,
    "n_clean": 12,
    "ranks": [1, 8],
    "n_pairs": 10,
}


def study_codes(config: Config, name: str, out: Path) -> None:
    """FVU curves and label scores of every point of a network, and the SAEs that are handles."""
    wanted = [p for p in config.points[name] if not part(out, "codes", name, p).exists()]
    if not wanted:
        return
    began = time.process_time()
    _, rows = gather(name, None, config, out)
    labeled = any(one.judged.category.any() for one in rows.values())
    twins = gather(name, config.twin_seed, config, out)[1] if labeled else {}
    shared = (time.process_time() - began) / len(wanted)
    for point in wanted:
        start = time.process_time()
        found = study_point(config, name, point, rows[point], twins.get(point), out)
        found["cpu_seconds"] = round(shared + time.process_time() - start, 1)
        write(part(out, "codes", name, point), found)
        say(f"codes of {name} {point}: {found['cpu_seconds']} CPU seconds")


def study_point(
    config: Config, name: str, point: str, rows: PointRows, twin: PointRows | None, out: Path
) -> dict[str, Any]:
    """One point: curves, k at an FVU of .2, labels."""
    ks = [k for k in config.k if k <= rows.n_latents]
    folder = out / "saes" / name / point
    saes = train_codes(rows, ks, config, folder)
    curves = fvu_curves(rows, saes, config)
    labels = None
    if twin is not None:
        handle = saes[config.k_handle]
        other = train_codes(twin, [config.k_handle], config, folder / "twin")[config.k_handle]
        mean, axes = fit_pca(rows.train)
        k = config.k_handle
        scores = {
            "sae": image_scores(lambda x: handle.encode(x).dense(), rows.judged),
            "pca": image_scores(lambda x: largest((x - mean) @ axes.T, k), rows.judged),
            "twin": image_scores(lambda x: other.encode(x).dense(), twin.judged),
        }
        labels = label_scores(scores, rows.judged, config)
    return {
        "model": name,
        "point": point,
        "d": int(rows.train.shape[1]),
        "n_latents": rows.n_latents,
        "rows": len(rows.train),
        "rows_per_latent": rows.rows_per_latent,
        "fvu": curves,
        "k_at_fvu_0.2": {code: k_at(curve) for code, curve in curves.items()},
        "labels": labels,
    }


def study_causal(config: Config, name: str, out: Path, stage: str = "causal") -> None:
    """Pushes and swaps at every point of a network, with the SAEs of `study_codes`.

    The stage "weaker" repeats the pushes alone at the smaller strength.
    """
    wanted = [p for p in config.points[name] if not part(out, stage, name, p).exists()]
    if not wanted:
        return
    c = config.causal
    model, rows = gather(name, None, config, out)
    starts, images = make_starts(model, name, config, out)
    for point in wanted:
        start = time.process_time()
        folder = out / "saes" / name / point / f"k{config.k_handle}" / "sae"
        bases = make_bases(model, point, rows[point], load_sae(folder), config)
        yard = make_yard(starts, point, name, rows[point], config)
        if stage == "weaker":
            yard = yard._replace(length=yard.length * c.weaker / c.strength)
        found: dict[str, Any] = {"model": name, "point": point, "push": yard.length}
        found["handles"] = score_handles(starts, point, bases, yard, config)
        if stage == "causal":
            found["subspaces"] = swap_subspaces(starts, images, point, bases, yard, config)
        found["cpu_seconds"] = round(time.process_time() - start, 1)
        write(part(out, stage, name, point), found)
        say(f"{stage} of {name} {point}: {found['cpu_seconds']} CPU seconds")


def part(out: Path, stage: str, name: str, point: str) -> Path:
    """File of a finished part."""
    return out / "parts" / f"{stage}-{name}-{point}.json"


def gather_parts(config: Config, values: dict[str, Any], out: Path) -> dict[str, Any]:
    """The results of all finished parts, in the order of the config."""
    found: dict[str, Any] = {"config": values, **{stage: [] for stage in STAGES}}
    for name, points in config.points.items():
        for point in points:
            for stage in STAGES:
                path = part(out, stage, name, point)
                if path.exists():
                    found[stage].append(json.loads(path.read_text()))
    seconds = sum(one["cpu_seconds"] for stage in STAGES for one in found[stage])
    return {**found, "cpu_seconds": round(seconds)}


def report(results: dict[str, Any], document: Path, out: Path) -> None:
    """Tables into the document, the figure beside the parts."""
    for marker, make in TABLES.items():
        put(document, marker, make(results))
    out.mkdir(parents=True, exist_ok=True)
    options = {"include_plotlyjs": True, "config": {"displayModeBar": False}}
    draw(results).write_html(out / "figure.html", **options)


def write(path: Path, value: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(rounded(value), indent=1) + "\n")
    temporary.replace(path)


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.4g}")
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m analyses.handles.run", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/handles"))
    parser.add_argument("--quick", action="store_true", help="tiny numbers, two networks: a test")
    parser.add_argument("--models", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--stages", nargs="*", default=list(STAGES))
    parser.add_argument("--report", action="store_true", help="only the figure and the tables")
    options = parser.parse_args(arguments)
    values = json.loads((HERE / "config.json").read_text())
    if options.quick:
        values = {**values, **QUICK, "causal": {**values["causal"], **QUICK_CAUSAL}}
    if not options.report:
        run(read_config(values), values, options)
        if options.quick:
            return
    report(json.loads((HERE / "results.json").read_text()), HERE / "README.md", options.out)


def run(config: Config, values: dict[str, Any], options: argparse.Namespace) -> None:
    """Every stage of every network; the results to their file (a test's: beside the parts)."""
    torch.set_num_threads(1)
    for name in options.models or config.points:
        if "codes" in options.stages:
            study_codes(config, name, options.out)
        for stage in ("causal", "weaker"):
            if stage in options.stages:
                study_causal(config, name, options.out, stage)
    found = gather_parts(config, values, options.out)
    write((options.out if options.quick else HERE) / "results.json", found)


if __name__ == "__main__":
    main()
