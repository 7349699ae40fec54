"""What every measure does first: check a feature matrix, center it, scale it to unit norm."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError

# The debiased estimators divide by n (n - 3).
MIN_ROWS = 4
# Below this share of the raw norm, the centered part is rounding of a constant (float64 has 2e-16).
CONSTANT = 1e-13
# Below this one the mean is taken twice.
ROUNDED = 1e-6
# Largest values between these can be squared and summed without overflow or loss.
SAFE = (1e-100, 1e100)


def as_rows(x: Any, name: str = "x") -> Float[Tensor, "n d"]:
    """Check a feature matrix and return it in float64.

    x: [n, d] tensor or array of numbers, n >= 4, d >= 1, finite.
    Raises InputError for another shape, a non-numeric dtype, NaN or infinite values, n < 4.
    """
    return _check(x, name)[0]


def _check(x: Any, name: str) -> tuple[Tensor, float]:
    """The rows and their largest absolute value."""
    if not isinstance(x, Tensor):
        array = np.asarray(x)
        if array.dtype.kind not in "fiub":
            raise InputError(f"{name} has dtype {array.dtype}; features must be real numbers")
        x = torch.from_numpy(np.ascontiguousarray(array))
    if x.is_complex():
        raise InputError(f"{name} has dtype {x.dtype}; features must be real numbers")
    if x.ndim != 2 or x.shape[1] < 1:
        raise InputError(
            f"{name} has shape {tuple(x.shape)}; features are [n rows, d >= 1 columns]"
        )
    if x.shape[0] < MIN_ROWS:
        raise InputError(f"{name} has n = {x.shape[0]} rows; the measures need n >= {MIN_ROWS}")
    x = x.detach().to(torch.float64)
    # One pass without a copy: the largest value is NaN or infinite where any is.
    peak = float(torch.linalg.vector_norm(x, torch.inf))
    if not math.isfinite(peak):
        finite = x.isfinite()
        bad = int((~finite).sum())
        row = int((~finite).any(1).nonzero()[0])
        raise InputError(
            f"{name} has {bad} NaN or infinite values of {x.numel()}, the first in row {row}; "
            "drop those rows in every representation, or capture in a wider dtype"
        )
    return x, peak


def center(x: Any, name: str = "x") -> Float[Tensor, "n d"]:
    """Columns centered, the whole scaled to Frobenius norm 1, in float64.

    Both steps leave an orthogonal-, scale- and translation-invariant measure as it is; they make
    its sums of order 1, so that no input scale loses digits.
    Raises InputError as `as_rows`, and for a representation that is the same in every row.
    """
    x, peak = _check(x, name)
    if not SAFE[0] < peak < SAFE[1] and peak > 0:
        x = x / peak
    mean = x.mean(0)
    x = x - mean
    norm = torch.linalg.vector_norm(x)
    raw = torch.hypot(norm, math.sqrt(len(x)) * torch.linalg.vector_norm(mean))
    if bool(norm <= ROUNDED * raw):
        # The mean of large numbers has errors of their size.
        x = x - x.mean(0)
        norm = torch.linalg.vector_norm(x)
    if bool(norm <= CONSTANT * raw) or not peak > 0:
        raise InputError(
            f"{name} is constant: all {x.shape[0]} rows are equal, so it has no geometry; "
            "leave this point out (a dead layer, or a point that does not depend on the image)"
        )
    return x.div_(norm)


def same_rows(x: Tensor, y: Tensor) -> int:
    """The common number of rows; InputError when the two differ."""
    if x.shape[0] != y.shape[0]:
        raise InputError(
            f"x has {x.shape[0]} rows and y has {y.shape[0]}; row i of both must be the same image"
        )
    return x.shape[0]
