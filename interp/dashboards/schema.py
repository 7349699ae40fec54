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
    "example_half",
    "example_y",
    "example_x",
)


def check_features(features: Any) -> None:
    """Raise InputError, with the numbers, unless every array of `features` has m latents."""
    density = np.asarray(features.density)
    m = len(density)
    label = f"features of {features.point.name}"
    if m == 0:
        raise InputError(f"{label} hold no latent; nothing to show")
    for name in _PER_LATENT + _PER_EXAMPLE:
        rows = len(getattr(features, name))
        if rows != m:
            raise InputError(f"{label}: {name} has {rows} rows, density has {m}")
    _check_examples(features, label)
    _check_pair(features, label, "histogram", "edges", 1)
    _check_pair(features, label, "category_profile", "categories", 0)
    calls_record(features)
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
    width, count = np.asarray(getattr(features, table)).shape[1], len(getattr(features, names))
    if count != width + extra:
        raise InputError(
            f"{label}: {table} has {width} columns but {names} has {count} entries; "
            f"expected {width + extra}"
        )


def has_maps(features: Any) -> bool:
    """Whether the examples have maps over the picture: vectors and token lists have none."""
    maps = np.asarray(features.maps)
    return len(features.grid) >= 2 and maps.ndim == 4 and maps.shape[2] * maps.shape[3] > 1


def calls_record(features: Any) -> dict[str, list[float | None]]:
    """Return t and log-SNR of the calls as two lists; None where a model has no such thing."""
    calls, n_calls = features.calls, np.asarray(features.profile_calls).shape[1]
    if len(calls) != n_calls:
        raise InputError(
            f"features of {features.point.name}: {len(calls)} calls but profile_calls has "
            f"{n_calls} columns"
        )
    return {key: [_finite(call.get(key)) for call in calls] for key in ("t", "log_snr")}


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
