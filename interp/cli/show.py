"""Printing: aligned tables and plain JSON values."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of equal length as aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip())


def plain(value: Any) -> Any:
    """Return JSON values of a record; None for what is not finite."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    # JSON has no NaN and no infinity.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_evaluation(record: Mapping[str, Any]) -> None:
    """Print the record of an SAE's quality: what it is, its calls, and what stands beside it."""
    what = record.get("point") or record["variant"]
    seen = {True: "; rows of trained images among them", None: "; its training rows are unknown"}
    print(
        f"{what}: {record['n_rows']} rows of {record['n_generations']} images or seeds"
        + seen.get(record["trained_rows"], ", none of which trained it")
    )
    matched = record.get("matched")
    whole = [("L0", record["l0"]), ("dead", record["dead"]), ("FVU", record.get("fvu"))]
    whole += [("FVU of a linear map", record.get("linear")), ("found by a second seed", matched)]
    print(", ".join(f"{name} {_short(value)}" for name, value in whole if value is not None))
    if len(record.get("per_call", ())) > 1:
        head = ("call", "t", "log-SNR", "rows", "FVU", "L0")
        keys = ("call", "t", "log_snr", "n_rows", "fvu", "l0")
        _print_rows(head, ([one[key] for key in keys] for one in record["per_call"]))
    if record.get("sites"):
        head, keys = ("site", "FVU", "private"), ("name", "fvu", "private")
        _print_rows(head, ([one[key] for key in keys] for one in record["sites"]))
    beside = [*record.get("baselines", ()), *record.get("controls", ())]
    if beside:
        head = ("code", "k", "FVU", "label AUC", "fitted on")
        _print_rows(head, map(_code_row, beside))
        if record.get("fvu") is not None and record.get("baselines"):
            print(
                "FVU of these codes, the sae among them: on one random sample of at most 2048 of "
                f"the rows; the FVU above the table is over all {record['n_rows']}"
            )
    found = record.get("substitutions") or {"sae": record.get("substitution")}
    for name, one in found.items():
        if one is not None:
            print(f"put into the running model, {name}: damage {_short(one['damage'])}")


def _code_row(one: Mapping[str, Any]) -> list[Any]:
    labels = one["labels"] or {}
    return [one["name"], one["k"], one["fvu"], labels.get("per_category"), one["fitted_on"]]


def _print_rows(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    print()
    print_table([head, *([_short(value) for value in row] for row in rows)])


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
