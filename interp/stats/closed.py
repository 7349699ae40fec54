"""Closed forms of nulls: what unrelated features give under a uniformly random pairing of rows.

Exact for any features, over all n! pairings; permutations within strata or of clusters have other
moments. They standardize cells and they test the code. p-values come from permutations: the tails
of these statistics are far from normal.
"""

import math
from typing import NamedTuple

from interp.errors import InputError


class Moments(NamedTuple):
    """Mean and standard deviation of a statistic under its null."""

    mean: float
    sd: float


def u_centered_null(n: int) -> Moments:
    """Cosine of two U-centered n x n matrices: mean 0, sd sqrt(2 / (n (n - 3))).

    That is debiased CKA with any kernel, and the U-statistic of squared distance correlation: zero
    diagonals and zero row sums fix the first two moments, whatever the features are.
    Raises InputError for n < 4.
    Source: Szekely and Rizzo 2014, sec. 3, for the inner product; the moments follow from it.
    """
    if n < 4:
        raise InputError(f"n = {n} rows: U-centering needs n >= 4")
    return Moments(0.0, math.sqrt(2 / (n * (n - 3))))


def expected_cka(n: int, pr_x: float, pr_y: float) -> float:
    """Biased linear CKA of unrelated features: sqrt(PR_x PR_y) / (n - 1).

    pr_x, pr_y: participation ratios (sum lambda)^2 / sum lambda^2 of the covariance eigenvalues of
    the sample, between 1 and min(n - 1, d).
    Raises InputError for a participation ratio outside of [1, n - 1].
    Source: Kazi-Aoual et al. 1995 (first moment of the RV coefficient).
    """
    for pr in (pr_x, pr_y):
        if not 1 - 1e-9 <= pr <= (n - 1) * (1 + 1e-9):
            raise InputError(f"participation ratio {pr} of n = {n} rows is not in [1, {n - 1}]")
    return math.sqrt(pr_x * pr_y) / (n - 1)


def expected_overlap(n: int, k: int) -> float:
    """Mutual k-NN of unrelated features: k / (n - 1). Raises InputError unless 1 <= k < n."""
    if not 1 <= k < n:
        raise InputError(f"k = {k} neighbors of n = {n} rows; 1 <= k < n is needed")
    return k / (n - 1)


def expected_r2(n: int, rank_x: int) -> float:
    """In-sample R^2 of unrelated targets on features of this rank: rank / (n - 1).

    rank_x: of the centered features, min(n - 1, d) in general position; at n - 1 every target fits.
    Raises InputError for a rank outside of [1, n - 1].
    """
    if not 1 <= rank_x <= n - 1:
        raise InputError(f"rank {rank_x} of n = {n} centered rows is not in [1, {n - 1}]")
    return rank_x / (n - 1)


def expected_r2_cca(n: int, rank_x: int, rank_y: int) -> float:
    """Mean squared canonical correlation of unrelated features: max(rank_x, rank_y) / (n - 1).

    The sum over canonical correlations, tr(P_X P_Y), has the mean rank_x rank_y / (n - 1); the mean
    is over min(rank_x, rank_y) of them.
    Raises InputError for a rank outside of [1, n - 1].
    """
    return max(expected_r2(n, rank_x), expected_r2(n, rank_y))
