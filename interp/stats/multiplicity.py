"""Many tests at once: max-T within a family, Holm over families, the permutations they need."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.stats.permuting import TIE

# Fewer permutations than this resolve a p-value too coarsely to be printed.
MIN_PERMUTATIONS = 200


def max_t(
    observed: Float[np.ndarray, " m"],
    permuted: Float[np.ndarray, "p m"],
    mean: Float[np.ndarray, " m"] | None = None,
    sd: Float[np.ndarray, " m"] | None = None,
) -> Float[np.ndarray, " m"]:
    """Step-down max-T adjusted p-values of a family of cells, one-sided (larger is stronger).

    Each cell is standardized by its own null mean and sd: the exact ones where given, else those of
    its K permuted values and the observed one together, which leaves the K + 1 columns exchangeable
    and the test exact. Cells are taken from the largest z down; the p-value of a cell compares it
    with the maximum over itself and all weaker cells, p = (1 + b) / (1 + K), made monotone.
    Raises InputError when a cell's null does not vary or K < 1.
    Source: Westfall and Young 1993, algorithm 4.1.
    """
    if len(permuted) < 1:
        raise InputError("max-T needs at least one permutation")
    both = np.concatenate([observed[None], permuted])
    middle = both.mean(0) if mean is None else mean
    scale = both.std(0) if sd is None else sd
    if bool((scale <= 0).any()):
        still = int((scale <= 0).sum())
        raise InputError(f"{still} of {len(scale)} cells do not vary under permutation")
    z, z_null = (observed - middle) / scale, (permuted - middle) / scale
    strongest_first = np.argsort(-z, kind="stable")
    weaker = np.maximum.accumulate(z_null[:, strongest_first[::-1]], axis=1)[:, ::-1]
    ordered = z[strongest_first]
    b = (weaker >= ordered - TIE * np.abs(ordered)).sum(0)
    out = np.empty(len(z))
    out[strongest_first] = np.maximum.accumulate((1 + b) / (1 + len(permuted)))
    return out


def holm(p: Sequence[float]) -> Float[np.ndarray, " m"]:
    """Holm's step-down adjusted p-values: valid under any dependence. Source: Holm 1979."""
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    scaled = (len(raw) - np.arange(len(raw))) * raw[order]
    out = np.empty(len(raw))
    out[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return out


def needed_permutations(n_tests: int, alpha: float = 0.05) -> int:
    """Fewest permutations K at which Holm over n_tests can reject: n_tests / (1 + K) <= alpha."""
    return max(MIN_PERMUTATIONS, math.ceil(n_tests / alpha - 1 - 1e-9))


def check_permutations(n_permutations: int, n_tests: int, alpha: float = 0.05) -> None:
    """Refuse a number of permutations at which nothing could be rejected.

    Raises InputError that names the number needed.
    """
    needed = needed_permutations(n_tests, alpha)
    if n_permutations < needed:
        raise InputError(
            f"{n_permutations} permutations cannot give p <= {alpha} after Holm over {n_tests} "
            f"families (and a printed p needs {MIN_PERMUTATIONS}); use n_permutations={needed}, or "
            "fewer model pairs or measures"
        )
