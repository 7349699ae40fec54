"""Results as a Markdown table, the one that the README shows."""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"


UNMEASURED = "not yet measured on a GPU"
# What a GPU must show: in the table as unmeasured until a result of the case `gpu` is there.
GPU_TARGETS = (
    ("floor / ours, full step (d 1280, m 65536, k 32, n 8192), bfloat16", ">= 0.6 x"),
    ("fastest peer / ours, the same step", ">= 2 x"),
    ("gradients, then Adam / fused_bwd_adam, the same step", ">= 1.3 x"),
)


class Figure(NamedTuple):
    """One measured number, with its unit and its target, such as "<= 1.3"."""

    name: str
    value: float
    unit: str = ""
    limit: str = ""

    def met(self) -> bool | None:
        """Whether the value is within its limit; None where there is none."""
        found = re.fullmatch(r"(<=|>=|<|>)\s*([\d.eE+-]+).*", self.limit)
        if found is None:
            return None
        bound = float(found[2])
        inside = self.value < bound if found[1][0] == "<" else self.value > bound
        return inside or ("=" in found[1] and self.value == bound)


def figures(result: dict[str, Any]) -> list[Figure]:
    """The figures of one result.

    Args:
        result: what a case's `run` returned.

    Returns:
        Its `figures`; where it has none, every number in it under its path.
    """
    if "figures" in result:
        keys = Figure._fields
        return [Figure(**{k: one[k] for k in keys if k in one}) for one in result["figures"]]
    return [Figure(path, value) for path, value in _numbers(result)]


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def _cell(figure: Figure) -> str:
    number = f"{figure.value:.3g}" if abs(figure.value) < 1000 else f"{figure.value:,.0f}"
    return f"{number} {figure.unit}".strip()


def unmeasured(records: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Name, text and target of the figures that only a GPU can give and none of these has."""
    if any(one["case"] == "gpu" and one["environment"]["device"] != "cpu" for one in records):
        return []
    return [(name, UNMEASURED, limit) for name, limit in GPU_TARGETS]


def table(records: Sequence[dict[str, Any]], missing: Sequence[tuple[str, str, str]] = ()) -> str:
    """Write results as one table, with where they were measured below.

    Args:
        records: result files as `benchmarks.run` writes them.
        missing: rows for what is not measured, see `unmeasured`.

    Returns:
        Markdown: case, figure, measured value, target; then one line for each machine and commit.
    """
    lines = ["| case | figure | measured | target |", "|---|---|---|---|"]
    for record in records:
        for figure in figures(record["result"]):
            missed = " (missed)" if figure.met() is False else ""
            target = f"{figure.limit} {figure.unit}".strip() if figure.limit else ""
            lines.append(
                f"| {record['case']} | {figure.name} | {_cell(figure)}{missed} | {target} |"
            )
    lines += [f"| gpu | {name} | {text} | {limit} |" for name, text, limit in missing]
    origins = dict.fromkeys(_origin(record["environment"]) for record in records)
    return "\n".join([*lines, "", *(f"Measured on {origin}." for origin in origins)])


def _origin(where: dict[str, Any]) -> str:
    device = where["cpu"] if where["device"] == "cpu" else f"{where['device']} with {where['cpu']}"
    return (
        f"{device}, {where['threads']} thread(s), torch {where['versions']['torch']}, "
        f"commit {where['commit']}, {where['date'][:10]}"
    )


def load(folder: Path) -> list[dict[str, Any]]:
    """Read every result file of a folder, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def replace(document: str, new: str) -> str:
    """Put a table between the markers of a document.

    Args:
        document: Markdown with the lines `<!-- benchmarks -->` and `<!-- /benchmarks -->`.
        new: what goes between them.

    Returns:
        The document with everything between its markers replaced.

    Raises:
        ValueError: the markers are not there once each, in this order.
    """
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise ValueError(f"the document needs the lines {BEGIN} and {END}, once each")
    head, _, rest = document.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise ValueError(f"{END} stands before {BEGIN}")
    return f"{head}{BEGIN}\n{new}\n{END}{tail}"


def main(arguments: list[str] | None = None) -> int:
    """Print the table, or write it into a document."""
    parser = argparse.ArgumentParser("python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--readme", type=Path, help=f"document with the lines {BEGIN} and {END}")
    options = parser.parse_args(arguments)
    records = load(options.results)
    new = table(records, unmeasured(records))
    if options.readme is None:
        print(new)
    else:
        options.readme.write_text(replace(options.readme.read_text(), new))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
