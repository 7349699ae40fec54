"""What the demo prints and writes of its results."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def plain(value: Any) -> Any:
    """JSON values of a record, floats to 9 digits."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def strongest(alignment: Any) -> list[dict[str, Any]]:
    """The cell of the largest z of each model pair and measure, as flat rows."""
    names = [layer.name for layer in alignment.layers]
    rows = []
    for family in alignment.families:
        cell = alignment.cell(*family.best, family.measure)
        row = {"a": names[cell.i], "b": names[cell.j], **plain(cell.comparison)}
        row["p_holm"] = plain(family.p_holm)
        for key in ("twin_value", "difference", "difference_low", "difference_high"):
            row[key] = plain(getattr(cell, key))
        rows.append(row)
    return rows


def closing(
    results: Sequence[Any], alignments: Sequence[Any], names: Sequence[str]
) -> Iterator[str]:
    """Lines of the closing table: SAEs, the best pair of layers per pair of models, warnings."""
    yield f"\n{'SAE on':<42}{'FVU':>7}{'L0':>7}{'dead %':>8}{'damage':>8}"
    for result in results:
        name = f"{result.target.model} {result.target.point}"
        e = result.evaluation
        yield (
            f"{name:<42}{e.fvu:7.3f}{e.l0:7.1f}{100 * e.dead:8.1f}{result.substitution.damage:8.3f}"
        )
    title = "largest z over the null, per pair of models (debiased CKA)"
    yield f"\n{title:<70}{'value':>7}{'null':>7}{'p Holm':>8}{'twins':>7}{'minus twins':>13}"
    rows = (row for alignment in alignments for row in strongest(alignment))
    yield from (_line(row) for row in rows if row["measure"] == "cka")
    yield from _undertrained(names)


def _line(row: dict[str, Any]) -> str:
    p = "-" if row["p_holm"] is None else f"{row['p_holm']:.4f}"
    line = f"{row['a']} ~ {row['b']}".ljust(70)
    line += f"{row['value']:7.3f}{row['null_mean']:7.3f}{p:>8}"
    if row["twin_value"] is None:
        return line + "      -"
    interval = f"[{row['difference_low']:+.2f}, {row['difference_high']:+.2f}]"
    return line + f"{row['twin_value']:7.3f}  {row['difference']:+.2f} {interval}"


def _undertrained(names: Sequence[str]) -> Iterator[str]:
    from interp.zoo import card

    warnings = [card(name).warning for name in names]
    yield from (f"\n{line}" for line in warnings if line)
