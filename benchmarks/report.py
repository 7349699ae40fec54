"""Results as Markdown: all figures, or the sections that a document has markers for.

A section `name` stands between the lines `<!-- name -->` and `<!-- /name -->`: `benchmarks`, the
figures that have a target; `peers`, the comparison with other libraries; `quality`, every
variant on every planted dictionary; `geometry`, measures of representations beside other libraries.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"

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


def table(
    records: Sequence[dict[str, Any]],
    missing: Sequence[tuple[str, str, str]] = (),
    *,
    targets_only: bool = False,
) -> str:
    """Write results as one table, with where they were measured below.

    Args:
        records: result files as `benchmarks.run` writes them.
        missing: rows for what is not measured, see `unmeasured`.
        targets_only: leave out figures without a target.

    Returns:
        Markdown: case, figure, measured value, target; then one line for each machine and commit.
    """
    lines = ["| case | figure | measured | target |", "|---|---|---|---|"]
    for record in records:
        for figure in figures(record["result"]):
            if targets_only and not figure.limit:
                continue
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


def sections(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Name of every section that the results have data for, and its Markdown."""
    from benchmarks.geometry_report import tables as geometry
    from benchmarks.peers.report import tables as peers
    from benchmarks.variants_report import tables as variants

    shown = {"benchmarks": table(records, unmeasured(records), targets_only=True)}
    for name, write in {"peers": peers, "quality": variants, "geometry": geometry}.items():
        found = [write(record) for record in records if record["case"] == name]
        if found:
            shown[name] = "\n\n".join(found)
    return shown


def replace(document: str, name: str, new: str) -> str:
    """Put a section between its markers.

    Args:
        document: Markdown with the lines `<!-- name -->` and `<!-- /name -->`.
        name: of the section.
        new: what goes between them.

    Returns:
        The document with everything between the markers replaced.

    Raises:
        ValueError: the markers are not there once each, in this order.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if document.count(begin) != 1 or document.count(end) != 1:
        raise ValueError(f"the document needs the lines {begin} and {end}, once each")
    head, _, rest = document.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ValueError(f"{end} stands before {begin}")
    return f"{head}{begin}\n{new}\n{end}{tail}"


def main(arguments: list[str] | None = None) -> int:
    """Print all figures, or write the sections of a document."""
    parser = argparse.ArgumentParser("python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--readme", type=Path, help="document with markers of sections")
    options = parser.parse_args(arguments)
    records = load(options.results)
    if options.readme is None:
        print(table(records, unmeasured(records)))
        return 0
    document = options.readme.read_text()
    for name, new in sections(records).items():
        if name == "benchmarks" or f"<!-- {name} -->" in document:
            document = replace(document, name, new)
    options.readme.write_text(document)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
