"""The planted cases as Markdown: `python -m benchmarks.variants_report [RESULT.json]`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS

MISSING = "-"


def quality_table(result: dict[str, Any], mode: str = "steps") -> str:
    """One line for each autoencoder: atoms found / MCC on every case; FVU, dead and speed on small.

    Args:
        result: of the case `quality`.
        mode: "steps", the same number of steps for all, or "time", the CPU time of our TopK.

    Returns:
        Markdown.
    """
    cases = {
        name: rows
        for name, rows in result["measured"].items()
        if any(mode in one for one in rows.values())
    }
    head = ["", *cases, "FVU, small", "dead, small", "CPU ms/step, small"]
    lines = [_line(head), "|---|" + "---:|" * (len(head) - 1)]
    for row in result["rows"]:
        scores = [cases[name].get(row["label"], {}) for name in cases]
        cells = [_cell(one.get(mode, {})) for one in scores]
        small = cases.get("small", {}).get(row["label"], {}).get(mode, {})
        if "fvu" in small:
            cells += [f"{small['fvu']:.3f}", f"{100 * small['dead']:.1f} %"]
            cells.append(f"{1000 * small['seconds_cpu'] / small['steps']:.1f}")
        else:
            cells += [MISSING] * 3
        lines.append(_line([row["label"], *cells]))
    return "\n".join(lines)


def detail_table(result: dict[str, Any], case: str) -> str:
    """Every metric of one case at equal steps.

    Args:
        result: of the case `quality`.
        case: a planted case.

    Returns:
        Markdown.
    """
    names = {
        "recovered": "atoms found",
        "mcc": "MCC",
        "f1": "F1",
        "uniqueness": "uniqueness",
        "fvu": "FVU",
        "l0": "L0",
        "dead": "dead",
        "shrinkage": "shrinkage",
        "relative_bias": "bias",
    }
    lines = [_line([case, *names.values()]), "|---|" + "---:|" * len(names)]
    for row in result["rows"]:
        one = result["measured"][case].get(row["label"], {})
        if "steps" not in one:
            cells = [one.get("error", MISSING)] + [""] * (len(names) - 1)
        else:
            cells = [f"{one['steps'][key]:.3f}" for key in names]
        lines.append(_line([row["label"], *cells]))
    return "\n".join(lines)


def tables(record: dict[str, Any]) -> str:
    """Both tables of a result file, with what they mean, where they are from, and the notes."""
    result, where = record["result"], record["environment"]
    planted = [f"- {name}: {one['says']}" for name, one in result["cases"].items()]
    notes = [f"- {row['label']}: {row['note']}" for row in result["rows"] if row["note"]]
    failed = {
        f"- {label}: {row['error']}"
        for rows in result["measured"].values()
        for label, row in rows.items()
        if "error" in row
    }
    versions = sorted(
        {
            f"{name} {version}"
            for library in result["libraries"]
            for name, version in library.get("versions", {}).items()
            if name != "torch"
        }
    )
    parts = [
        "Share of planted atoms found (|cosine| above .9) / MCC on held-out rows, the same batches "
        "and number of steps for all:",
        quality_table(result),
        "The same after the CPU time that `interp, topk` needed for those steps:",
        quality_table(result, "time"),
        "\n".join(planted),
        "\n".join([*notes, *sorted(failed)]),
        f"Measured on {where['cpu']}, one thread, load {where['load']} at the start, torch "
        f"{where['versions']['torch']}, {', '.join(versions) or 'no other library'}, commit "
        f"{where['commit']}, {where['date'][:10]}: `python -m benchmarks.run quality`.",
    ]
    return "\n\n".join(part for part in parts if part)


def _cell(score: dict[str, Any]) -> str:
    if "mcc" not in score:
        return MISSING
    return f"{score['recovered']:.3f} / {score['mcc']:.3f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of a result file, or those of all metrics on the named cases."""
    parser = argparse.ArgumentParser("python -m benchmarks.variants_report", description=__doc__)
    parser.add_argument("result", nargs="?", type=Path, default=RESULTS / "quality-cpu.json")
    parser.add_argument("--case", action="append", default=[], help="all metrics of this case")
    options = parser.parse_args(arguments)
    record = json.loads(options.result.read_text())
    shown = [detail_table(record["result"], name) for name in options.case]
    print("\n\n".join(shown) if shown else tables(record))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
