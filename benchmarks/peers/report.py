"""The comparison as Markdown: `python -m benchmarks.peers.report [RESULT.json]`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.table import OURS
from benchmarks.report import RESULTS

SPEED = ("1 thread, CPU ms", "against ours", "2 threads, wall ms", "against ours", "peak MB")
CLOCKS = (("1", "ms_cpu"), ("2", "ms_wall"))
QUALITY = ("FVU", "MCC", "atoms found", "dead", "CPU ms/step", "steps", "FVU", "MCC", "atoms found")


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds per step; a library that could not run says why.

    Args:
        rows: `speed` of the case's result.
    """
    lines = _head("library", SPEED)
    ours = next((row for row in rows if row["label"] == OURS and "threads" in row), None)
    for row in rows:
        if "error" in row:
            lines.append(_line(row["label"], [row["error"]] + [""] * (len(SPEED) - 1)))
            continue
        cells = []
        for threads, clock in CLOCKS:
            time = row["threads"][threads][clock]["median"]
            base = ours["threads"][threads][clock]["median"] if ours else None
            cells += [_number(time), f"{time / base:.2f}x" if base else ""]
        lines.append(_line(row["label"], [*cells, f"{row['peak_megabytes']:.0f}"]))
    return "\n".join(lines)


def quality_table(rows: Sequence[dict[str, Any]]) -> str:
    """Quality at equal steps, then at equal CPU time.

    Args:
        rows: `quality` of the case's result.
    """
    lines = _head("library", QUALITY)
    for row in rows:
        if "error" in row:
            lines.append(_line(row["label"], [row["error"]] + [""] * (len(QUALITY) - 1)))
            continue
        steps, time = row["steps"], row["time"]
        cells = [f"{steps[key]:.3f}" for key in ("fvu", "mcc", "recovered", "dead")]
        cells.append(_number(1000 * steps["seconds_cpu"] / steps["steps"]))
        if "error" in time:
            cells += [time["error"], "", "", ""]
        else:
            cells += [str(time["steps"])]
            cells += [f"{time[key]:.3f}" for key in ("fvu", "mcc", "recovered")]
        lines.append(_line(row["label"], cells))
    return "\n".join(lines)


def tables(record: dict[str, Any]) -> str:
    """Both tables of a result file, with what they mean, where they are from, and the notes."""
    result, where = record["result"], record["environment"]
    sizes = result["sizes"]
    shape = f"d {sizes['d']}, m {sizes['m']}, k {sizes['k']}, {sizes['n']} rows per step"
    notes = [f"- {row['label']}: {row['note']}" for row in result["quality"] if row["note"]]
    notes += [
        f"- {row['label']}: {note}" for row in result["speed"] for note in row.get("notes", [])
    ]
    versions = sorted(
        {
            f"{name} {version}"
            for library in result["libraries"]
            for name, version in library.get("versions", {}).items()
            if name != "torch"
        }
    )
    middle = f"medians of {sizes['rounds']} interleaved rounds of {sizes['timed']} steps"
    parts = [
        f"One training step, float32 ({shape}; {middle}):",
        speed_table(result["speed"]),
        f"A planted dictionary after {sizes['quality_steps']} steps, and (from `steps` on) after "
        "the CPU time that ours needed for them:",
        quality_table(result["quality"]),
        "\n".join(notes),
        f"Measured on {where['cpu']}, load {where['load']} at the start, torch "
        f"{where['versions']['torch']}, {', '.join(versions) or 'no other library'}, commit "
        f"{where['commit']}, {where['date'][:10]}: `python -m benchmarks.run peers`.",
    ]
    return "\n\n".join(part for part in parts if part)


def _head(first: str, columns: Sequence[str]) -> list[str]:
    return [_line(first, columns), "|---|" + "---:|" * len(columns)]


def _line(first: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([first, *(cell.replace('|', '/') for cell in cells)])} |"


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of a result file."""
    parser = argparse.ArgumentParser("python -m benchmarks.peers.report", description=__doc__)
    parser.add_argument("result", nargs="?", type=Path, default=RESULTS / "peers-cpu.json")
    options = parser.parse_args(arguments)
    print(tables(json.loads(options.result.read_text())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
