"""The case `geometry` as Markdown: `python -m benchmarks.geometry_report [RESULT.json]`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS

MISSING = "-"
# Measure of the table -> key of our time for a whole grid.
OURS = ("cka", "cka_biased", "cka_minibatch", "mutual_knn")


def pair_table(result: dict[str, Any]) -> str:
    """Milliseconds per pair of layers: ours, as published, and every library, over ours.

    Args:
        result: of the case `geometry`.
    """
    ms, pairs = result["grid"]["ms"], result["sizes"]["layers"] ** 2
    libraries = list(dict.fromkeys(row["library"] for row in _timed(result)))
    lines = _head(["measure", "interp", "as published", *libraries])
    for name in OURS:
        ours = ms[name] / pairs
        times = [ms.get(f"published {name}")]
        for library in libraries:
            found = (r for r in _timed(result) if (r["library"], r["measure"]) == (library, name))
            times.append(next(found, {}).get("ms"))
        lines.append(_line([f"`{name}`", _ms(ours), *(_cell(time, ours) for time in times)]))
    return "\n".join(lines)


def _timed(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in result["peers"] if "error" not in row and row["measure"] in OURS]


def permutation_table(result: dict[str, Any]) -> str:
    """Seconds of all permutations of all pairs with max-T, beside recomputing every one.

    Args:
        result: of the case `geometry`.
    """
    lines = _head(["measure", "interp", "interp, recomputed", "as published, recomputed"])
    for row in result["permutations"]:
        ours = row["seconds"]
        others = (row["ours_again_seconds"], row["published_seconds"])
        cells = [f"{other:,.0f} s ({other / ours:,.0f}x)" for other in others]
        lines.append(_line([f"`{row['measure']}`", f"{ours:.1f} s", *cells]))
    return "\n".join(lines)


def tables(record: dict[str, Any]) -> str:
    """Both tables of a result file, many rows, what failed, and where it was measured.

    Args:
        record: a result file as `benchmarks.run` writes it.
    """
    result, where = record["result"], record["environment"]
    sizes, ratios, large = result["sizes"], result["grid"]["ratios"], result["large"]
    shape = f"{sizes['layers']} x {sizes['layers']} layers, n {sizes['n']}, d {sizes['d']}"
    versions = sorted(
        f"{name} {version}"
        for library in result["libraries"]
        for name, version in library.get("versions", {}).items()
        if name not in ("torch", "numpy", "matplotlib", "tqdm", "scikit-learn")
    )
    wrong = [row for row in result["peers"] if "error" in row]
    failed = [f"{row['library']}, {row['measure']}: {row['error']}" for row in wrong]
    route = result["grid"]["floor"].partition(", ")[2]
    parts = [
        f"Milliseconds per pair of layers ({shape}; medians of interleaved rounds, over ours in "
        "parentheses; a library runs in an environment of its own, on "
        f'{sizes["peer_layers"]} x {sizes["peer_layers"]} layers; "as published" is our own '
        "writing of what released code does):",
        pair_table(result),
        f"Both CKAs of the whole grid take {ratios['both']['median']:.2f} x the bare products "
        f"(single precision) of the cheaper route ({route}), mutual k-NN "
        f"{ratios['mutual_knn']['median']:.2f} x its similarity products and `torch.topk`.",
        f"{sizes['n_permutations']} permutations of all pairs with max-T (recomputed: what one "
        "evaluation took, times their number):",
        permutation_table(result),
        _large(sizes, large),
        "\n".join(f"- {line}" for line in failed),
        f"Measured on {where['cpu']}, {where['threads']} thread(s), load {where['load']} at the "
        f"start, torch {where['versions']['torch']}, {', '.join(versions) or 'no other library'}, "
        f"commit {where['commit']}, {where['date'][:10]}: `python -m benchmarks.run geometry`.",
    ]
    return "\n\n".join(part for part in parts if part)


def _large(sizes: dict[str, Any], large: dict[str, Any]) -> str:
    some, whole = sizes["large_layers"], large["whole"]
    peak = large["workspace_megabytes"]
    memory = "" if peak is None else f", with {peak:,.0f} MB beyond the features"
    hours = {name: one["seconds"] / 3600 for name, one in whole.items()}
    return (
        f"n {sizes['large_n']:,}, d {sizes['large_d']}: both CKAs of {some} x {some} layers took "
        f"{large['seconds']:.1f} s ({large['subset']['seconds']:.1f} s predicted from the measured "
        f"{large['rate'] / 1e9:.0f} GFLOP/s){memory}. Of 40 x 40 layers `cost` predicts "
        f"{hours['cka']:.1f} h for both CKAs and {hours['mutual_knn']:.1f} h for mutual k-NN."
    )


def _cell(time: float | None, ours: float) -> str:
    return MISSING if time is None else f"{_ms(time)} ({time / ours:,.1f}x)"


def _ms(time: float) -> str:
    return f"{time:.1f}" if time < 100 else f"{time:,.0f}"


def _head(columns: Sequence[str]) -> list[str]:
    return [_line(columns), "|---|" + "---:|" * (len(columns) - 1)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of a result file."""
    parser = argparse.ArgumentParser("python -m benchmarks.geometry_report", description=__doc__)
    parser.add_argument("result", nargs="?", type=Path, default=RESULTS / "geometry-cpu.json")
    options = parser.parse_args(arguments)
    print(tables(json.loads(options.result.read_text())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
