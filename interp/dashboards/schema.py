"""What the dashboard expects of a features record, checked before anything is written."""

from typing import Any

import numpy as np

from interp.errors import InputError

_PER_LATENT = (
    "density",
    "mean_active",
    "maximum",
    "dead",
    "histogram",
    "profile_calls",
    "category_profile",
    "neighbors",
    "neighbor_cosine",
    "coactive",
    "coactive_score",
    "umap",
)
_PER_EXAMPLE = (
    "example_row",
    "example_kind",
    "example_bin",
    "example_value",
    "example_generation",
    "example_call",
)


def check_features(features: Any) -> None:
    """Raise InputError, with the numbers, unless every array of `features` has m latents."""
    density = np.asarray(features.density)
    m = len(density)
    label = f"features of {features.point.name}"
    if m == 0:
        raise InputError(f"{label} hold no latent; nothing to show")
    for name in _PER_LATENT + _PER_EXAMPLE:
        value = getattr(features, name, None)
        if value is None and name in ("umap", "category_profile", "coactive", "coactive_score"):
            continue
        if value is None:
            raise InputError(f"{label} lack the field {name!r}; rerun describe()")
        if len(value) != m:
            raise InputError(f"{label}: {name} has {len(value)} rows, density has {m}")
    _check_examples(features, label)
    _check_pair(features, label, "histogram", "edges", 1)
    _check_pair(features, label, "category_profile", "categories", 0)
    if not np.isfinite(density).all():
        raise InputError(f"{label}: density holds NaN or infinity; rerun describe()")


def _check_examples(features: Any, label: str) -> None:
    shape = np.asarray(features.example_row).shape
    for name in _PER_EXAMPLE:
        got = np.asarray(getattr(features, name)).shape
        if got != shape:
            raise InputError(f"{label}: {name} has shape {got}, example_row has {shape}")
    if has_maps(features) and features.maps.shape[:2] != shape:
        raise InputError(f"{label}: maps have shape {features.maps.shape}, examples {shape}")


def _check_pair(features: Any, label: str, table: str, names: str, extra: int) -> None:
    rows = getattr(features, table, None)
    if rows is None:
        return
    width, count = np.asarray(rows).shape[1], len(getattr(features, names))
    if count != width + extra:
        raise InputError(
            f"{label}: {table} has {width} columns but {names} has {count} entries; "
            f"expected {width + extra}"
        )


def has_maps(features: Any) -> bool:
    """Whether the examples have spatial maps (vector points such as a GAN's w have none)."""
    maps = getattr(features, "maps", None)
    return maps is not None and maps.ndim == 4 and maps.shape[2] * maps.shape[3] > 1


def calls_record(features: Any) -> dict[str, list]:
    """Return the calls' t and log-SNR as two lists, from a list of records or a dict of arrays."""
    calls = getattr(features, "calls", None)
    n_calls = np.asarray(features.profile_calls).shape[1]
    if calls is None:
        return {"t": [None] * n_calls, "log_snr": [None] * n_calls}
    if isinstance(calls, dict):
        return {
            key: _floats(calls.get(key), n_calls, features.point.name) for key in ("t", "log_snr")
        }
    record = {key: [_field(call, key) for call in calls] for key in ("t", "log_snr")}
    return {key: _floats(value, n_calls, features.point.name) for key, value in record.items()}


def _field(call: Any, key: str) -> Any:
    return call.get(key) if isinstance(call, dict) else getattr(call, key, None)


def _floats(values: Any, count: int, name: str) -> list[float | None]:
    if values is None:
        return [None] * count
    if len(values) != count:
        raise InputError(
            f"features of {name}: {len(values)} calls but profile_calls has {count} columns"
        )
    numbers = [float("nan") if value is None else float(value) for value in values]
    return [number if np.isfinite(number) else None for number in numbers]
