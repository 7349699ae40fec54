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


def max_t_by_layer(
    observed: Float[np.ndarray, "a b"],
    permuted: Float[np.ndarray, "p a b"],
    mean: Float[np.ndarray, "a b"] | None = None,
    sd: Float[np.ndarray, "a b"] | None = None,
) -> Float[np.ndarray, " a"]:
    """Step-down max-T over the layers of the first model: is a layer like any of the second's?

    T_i = max_j z_ij, z as in `max_t`; layers are taken from the largest T down, each compared with
    the maximum over its own cells and those of all weaker layers. One p-value per layer, adjusted
    for the search over all a x b cells, and never above the smallest of `max_t` in its row. Pass
    transposed arrays for the layers of the second model.
    Raises InputError as `max_t`.
    Source: Westfall and Young 1993, algorithm 4.1, with T_i as the statistic of a hypothesis.
    """
    if len(permuted) < 1:
        raise InputError("max-T needs at least one permutation")
    both = np.concatenate([observed[None], permuted])
    middle = both.mean(0) if mean is None else mean
    scale = both.std(0) if sd is None else sd
    if bool((scale <= 0).any()):
        still = int((scale <= 0).sum())
        raise InputError(f"{still} of {scale.size} cells do not vary under permutation")
    top = ((both - middle) / scale).max(2)
    # Standardized above: what a search over more cells adds to a layer's maximum stays in it.
    ones = np.ones(top.shape[1])
    return max_t(top[0], top[1:], 0 * ones, ones)


def holm(p: Sequence[float]) -> Float[np.ndarray, " m"]:
    """Holm's step-down adjusted p-values: valid under any dependence. Source: Holm 1979."""
    raw = _checked(p)
    order = np.argsort(raw, kind="stable")
    scaled = (len(raw) - np.arange(len(raw))) * raw[order]
    out = np.empty(len(raw))
    out[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return out


def benjamini_hochberg(p: Sequence[float]) -> Float[np.ndarray, " m"]:
    """Adjusted p-values that bound the expected share of false ones among those at most q.

    min over ranks j >= i of m p_(j) / j. Valid for independent or positively dependent tests. It
    marks exploratory cells only: a mark at q = 0.05 lets one in twenty marks be wrong, and a cell
    in a verdict needs `max_t` and `holm`.
    Source: Benjamini and Hochberg 1995, sec. 3; dependence: Benjamini and Yekutieli 2001, thm 1.2.
    """
    return _step_up(p, 1.0)


def benjamini_yekutieli(p: Sequence[float]) -> Float[np.ndarray, " m"]:
    """`benjamini_hochberg` under any dependence: larger by the factor sum over i <= m of 1 / i.

    It too marks exploratory cells only. Source: Benjamini and Yekutieli 2001, thm 1.3.
    """
    return _step_up(p, float((1 / np.arange(1, len(p) + 1)).sum()))


def _step_up(p: Sequence[float], factor: float) -> Float[np.ndarray, " m"]:
    raw = _checked(p)
    order = np.argsort(-raw, kind="stable")
    ranks = len(raw) - np.arange(len(raw))
    out = np.empty(len(raw))
    out[order] = np.minimum(1, np.minimum.accumulate(factor * len(raw) * raw[order] / ranks))
    return out


def _checked(p: Sequence[float]) -> Float[np.ndarray, " m"]:
    raw = np.asarray(p, dtype=np.float64)
    bad = int((~((raw >= 0) & (raw <= 1))).sum())
    if bad:
        raise InputError(f"{bad} of {raw.size} p-values are not in [0, 1]; leave out cells without")
    return raw


def needed_permutations(n_tests: int, alpha: float = 0.05) -> int:
    """Fewest permutations K at which Holm over n_tests can reject: n_tests / (1 + K) <= alpha."""
    return max(MIN_PERMUTATIONS, math.ceil(n_tests / alpha - 1 - 1e-9))


def check_permutations(
    n_permutations: int, n_tests: int, alpha: float = 0.05, possible: float = math.inf
) -> None:
    """Refuse a number of permutations at which nothing could be rejected.

    possible: reorderings that there are, of `count_permutations`: drawing more often than that adds
    nothing, so p cannot fall below 1 / possible.
    Raises InputError that names the number needed.
    """
    needed = needed_permutations(n_tests, alpha)
    if n_permutations < needed:
        raise InputError(
            f"{n_permutations} permutations cannot give p <= {alpha} after Holm over {n_tests} "
            f"families (and a printed p needs {MIN_PERMUTATIONS}); use n_permutations={needed}, or "
            "fewer model pairs or measures"
        )
    least = n_tests / alpha * (1 - 1e-9)
    if possible < least:
        raise InputError(
            f"the images can be reordered in {possible:.0f} ways within their strata and clusters, "
            f"and p <= {alpha} after Holm over {n_tests} families needs {math.ceil(least)}; use "
            "more images, coarser strata or finer clusters"
        )
