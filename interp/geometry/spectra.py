"""The spectrum of one representation: how many directions its variance takes up.

With lambda_1 >= lambda_2 >= ... the eigenvalues of the covariance of the centered rows and sigma
the singular values of the rows,

    participation ratio   (sum lambda)^2 / sum lambda^2
    effective rank        exp(-sum p log p), p = sigma / sum sigma, rows centered
    RankMe                the same of the rows as they are, p + 1e-7 for p
    alpha                 lambda_i ~ i^-alpha, fitted to log lambda over log i.

All of them see the sample's spectrum, which is not that of the population: with n rows of iid noise
in d columns the participation ratio is n d / (n + d), not d.
"""

import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import as_rows, center

# An eigenproblem of this size takes minutes and 3 GB in float64.
MAX_EIGEN = 20_000
# Floats in one slab of Gram rows: 32 MB in float64.
SLAB = 1 << 22
# Added to each p: Garrido et al. 2023, sec. 3.
RANKME_EPSILON = 1e-7
# First and last rank of the fit: Stringer et al. 2019, fig. 2.
ALPHA_FIRST, ALPHA_LAST = 11, 500
# Ranks below which a slope says nothing.
ALPHA_LEAST = 5
# Eigenvalues below this share of the largest are rounding and count as 0.
ZERO = 1e-12


def eigenvalues(x: Float[Tensor | np.ndarray, "n d"], name: str = "x") -> Float[Tensor, " r"]:
    """Eigenvalues of the covariance of the rows as shares of the total variance, descending.

    r = min(n - 1, d) of them; they sum to 1. Cost n d min(n, d) + min(n, d)^3.
    Raises InputError as `center`, and for min(n, d) > 20,000.
    """
    rows = center(x, name)
    return _squared_singular(rows, name)[: min(rows.shape[0] - 1, rows.shape[1])]


def _squared_singular(rows: Tensor, name: str) -> Float[Tensor, " r"]:
    n, d = rows.shape
    if min(n, d) > MAX_EIGEN:
        raise InputError(
            f"{name} has n = {n} rows and d = {d} columns: the spectrum needs eigenvalues of a "
            f"matrix of width {min(n, d)} > {MAX_EIGEN}; take a subsample, or participation_ratio"
        )
    gram = rows.T @ rows if d <= n else rows @ rows.T
    values = torch.linalg.eigvalsh(gram).flip(0)
    return torch.where(values > ZERO * values[0], values, 0.0)


def participation_ratio(x: Float[Tensor | np.ndarray, "n d"]) -> float:
    """(sum lambda)^2 / sum lambda^2 of the covariance: 1 for a line, r for r equal directions.

    Needs no eigenvalues: (tr C)^2 / ||C||^2. Returns a value in [1, min(n - 1, d)]. Biased down:
    about n r / (n + r) for a true ratio r of Gaussian rows. Cost n d min(n, d), no n x n array.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Gao et al. 2017; the bias, e.g., Chun et al. 2025.
    """
    # Rows of Frobenius norm 1: the trace is 1.
    return 1 / _energy(center(x))


def _energy(rows: Tensor) -> float:
    """||X'X||^2 in slabs of the smaller of X'X and X X'."""
    n, d = rows.shape
    thin = rows if n < d else rows.T
    step = max(1, SLAB // min(n, d))
    return float(sum((part @ thin.T).square().sum() for part in thin.split(step)))


def participation_ratio_unbiased(x: Float[Tensor, "n d"]) -> float:
    """Participation ratio from unbiased estimates of (tr C)^2 and tr C^2.

    With T = sum_i |x_i|^2, R = sum_i |x_i|^4 and Z = ||X'X||^2 of the centered rows,

        tr C^2    ~ (Z - n R / (n - 2) + T^2 / ((n - 1)(n - 2))) / (n (n - 3))
        (tr C)^2  ~ ((T^2 (n^2 - 3n + 1) + 2 Z) / (n - 1) - n R) / (n (n - 2)(n - 3)).

    Both are unbiased for any distribution; their ratio is not, and where the second is small beside
    its own noise (n < d, flat spectra) it is wild: of n = 50 rows in d = 400 it has been -8153.
    Warns (UserWarning) for n < d. Raises InputError where an estimate is not positive.
    Source: Himeno and Yamada 2014.
    """
    rows = center(x)
    n, d = rows.shape
    if n < d:
        warnings.warn(
            f"unbiased participation ratio of n = {n} rows in d = {d} columns: unstable for n < d; "
            "report participation_ratio over n beside it",
            stacklevel=2,
        )
    trace, squares = _unbiased_moments(rows)
    biased = _energy(rows) / (n - 1) ** 2
    if squares <= ZERO * biased or trace <= 0:
        raise InputError(
            f"the unbiased estimate of tr C^2 is {squares / biased:.2g} times the biased one with "
            f"n = {n}, d = {d}: no ratio; take participation_ratio, or more rows"
        )
    return trace / squares


def _unbiased_moments(rows: Float[Tensor, "n d"]) -> tuple[float, float]:
    """(tr C)^2 and tr C^2, each without bias, of centered rows."""
    n = len(rows)
    norms = rows.square().sum(1)
    total, fourth, z = float(norms.sum()), float(norms @ norms), _energy(rows)
    squares = (z - n * fourth / (n - 2) + total**2 / ((n - 1) * (n - 2))) / (n * (n - 3))
    trace = (total**2 * (n * n - 3 * n + 1) + 2 * z) / (n - 1) - n * fourth
    return trace / (n * (n - 2) * (n - 3)), squares


def effective_rank(x: Float[Tensor | np.ndarray, "n d"]) -> float:
    """exp of the entropy of the singular values of the centered rows, as shares of their sum.

    exp(-sum p log p), p = sigma / sum sigma. Returns a value in [1, min(n - 1, d)]; sigma = (2, 1)
    gives 1.889882. Falls short of the population's unless n is much larger than d. Cost n d min(n,
    d) + min(n, d)^3.
    Raises InputError for NaN, n < 4, a constant representation, min(n, d) > 20,000.
    Source: Roy and Vetterli 2007, def. 1 (of any matrix; here of the centered rows).
    """
    return _entropy_rank(eigenvalues(x).sqrt())


def _entropy_rank(sigma: Tensor, epsilon: float = 0.0) -> float:
    p = sigma / sigma.sum() + epsilon
    return float(torch.exp(-torch.special.xlogy(p, p).sum()))


def rankme(x: Float[Tensor | np.ndarray, "n d"]) -> float:
    """RankMe: effective rank of the rows as they are, not centered.

    exp(-sum_k p_k log p_k), p_k = sigma_k / sum sigma + 1e-7, k up to min(n, d). A mean far from
    the origin is one large singular value and pulls it towards 1. Cost n d min(n, d).
    Raises InputError for NaN, n < 4, a constant representation, min(n, d) > 20,000.
    Source: Garrido et al. 2023, sec. 3 (there of 25,600 embeddings).
    """
    center(x)
    rows = as_rows(x)
    rows = rows / rows.abs().max()
    return _entropy_rank(_squared_singular(rows, "x").sqrt(), RANKME_EPSILON)


def alpha(
    x: Float[Tensor | np.ndarray, "n d"], first: int = ALPHA_FIRST, last: int = ALPHA_LAST
) -> float:
    """Exponent of a power law of the eigenspectrum: lambda_i ~ i^-alpha, first <= i <= last.

    Least squares of log lambda_i on log i with weights 1 / i, which gives each octave of ranks the
    same say. first, last: ranks from 1; `last` is cut to the eigenvalues above rounding. Biased up:
    the tail of a sample's spectrum falls faster than the population's, the more the nearer `last`
    is to min(n, d). Cost n d min(n, d).
    Raises InputError where fewer than 5 ranks are left, and as `effective_rank`.
    Source: Stringer et al. 2019, fig. 2 and released code (there of a cross-validated spectrum,
    which needs repeated presentations).
    """
    values = eigenvalues(x)
    nonzero = int((values > 0).sum())
    end = min(last, nonzero)
    if first < 1 or end - first + 1 < ALPHA_LEAST:
        raise InputError(
            f"alpha needs {ALPHA_LEAST} eigenvalues from rank {first} to {last}, but the spectrum "
            f"has {nonzero} of n = {len(x)} rows; pass a smaller `first` (>= 1) and report it"
        )
    ranks = torch.arange(first, end + 1, dtype=torch.float64)
    weights = 1 / ranks
    u, v = ranks.log(), values[first - 1 : end].log()
    u = u - (weights * u).sum() / weights.sum()
    return -float((weights * u * v).sum() / (weights * u * u).sum())
