"""SVCCA: canonical correlations of the leading principal components, and what peers call SVCCA.

    svcca = mean canonical correlation of X_m and Y_m',

m the fewest components with 99 % of the variance of X, m' of Y (Raghu et al. 2017). The same name
stands for other numbers, each of which has its own here:

- svcca_singular: components are kept while the running sum of singular values, not of their
  squares, stays below 99 %. Keeps many more.
- svcca_rank10: the first 10 components, however much they hold.
- svcca_standardized10: columns are scaled to unit variance first, then as above; this is the exact
  value of what a randomized range finder with 10 directions only approximates, from below and
  differently at each call. Not invariant under rotations.

Not here, because it is a slip: comparing the cumulative share of a spectrum that was normalized to
sum 1 with 0.99 times the sum before normalizing, which keeps the first component alone as soon as
that sum exceeds 1.01.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from interp.geometry.canonical import mean_correlation
from interp.geometry.canonical_basis import Basis, decompose, decompose_standardized, spectral
from interp.geometry.features import same_rows
from interp.geometry.measure import Measure

# Raghu et al. 2017.
VARIANCE = 0.99
# Huh et al. 2024, released code (`cca_dim`).
DIMENSIONS = 10
# Shares that differ by rounding alone count as equal: the threshold is met.
ROUNDING = 1e-12


def svcca(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"], *, variance: float = VARIANCE) -> float:
    """Mean canonical correlation of the components that hold a share of the variance.

    x, y: features of the same n >= 4 images. variance: share of the total variance, in (0, 1].
    Returns a value in [0, 1]. Cost n d^2 + d^3.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Raghu et al. 2017.
    """
    same_rows(x, y)
    return _correlate(decompose(x, "x"), decompose(y, "y"), lambda s: by_variance(s, variance))


def svcca_singular(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """SVCCA that keeps components while the sum of singular values stays below 99 % (anatome).

    x, y: as for `svcca`. Returns a value in [0, 1]. Raises InputError as `svcca`.
    """
    same_rows(x, y)
    return _correlate(decompose(x, "x"), decompose(y, "y"), by_singular_values)


def svcca_rank10(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Mean canonical correlation of the first 10 principal components of each.

    x, y: as for `svcca`; of fewer than 10 directions all count. Raises InputError as `svcca`.
    """
    same_rows(x, y)
    return _correlate(decompose(x, "x"), decompose(y, "y"), by_rank)


def svcca_standardized10(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """The same after every column is scaled to unit variance (Huh et al. 2024, released code).

    x, y: as for `svcca`; constant columns drop out. Raises InputError as `svcca`.
    """
    same_rows(x, y)
    return _correlate(decompose_standardized(x, "x"), decompose_standardized(y, "y"), by_rank)


def by_variance(s: Float[Tensor, " r"], variance: float = VARIANCE) -> int:
    """Fewest leading components with that share of sum s^2."""
    share = s.square().cumsum(0) / s.square().sum()
    return min(len(s), 1 + int((share < variance - ROUNDING).sum()))


def by_singular_values(s: Float[Tensor, " r"], threshold: float = VARIANCE) -> int:
    """Leading components whose cumulative share of sum s is below a threshold; at least 1."""
    return max(1, int((s.cumsum(0) / s.sum() < threshold - ROUNDING).sum()))


def by_rank(s: Float[Tensor, " r"]) -> int:
    """The first 10 components, or all where there are fewer."""
    return min(len(s), DIMENSIONS)


def _correlate(p: Basis, q: Basis, keep: Callable[[Tensor], int]) -> float:
    first, second = (
        one._replace(u=one.u[:, : keep(one.s)], s=one.s[: keep(one.s)]) for one in (p, q)
    )
    return mean_correlation(first, second)


def _scored(keep: Callable[[Tensor], int]) -> Callable[[Basis, Basis], float]:
    return lambda p, q: _correlate(p, q, keep)


ROTATIONS = frozenset({"orthogonal", "scale", "translation", "permutation"})
COST = "n d^2 once per layer; a pair or a permutation n m m' + min(m, m')^3 for m components"
BIAS = "upwards; less than cca where few components hold the variance"

MEASURES: dict[str, Measure] = {
    "svcca": spectral(
        svcca,
        _scored(by_variance),
        definition="mean canonical correlation of the fewest components with 99 % of the variance",
        source="Raghu et al. 2017",
        cost=COST,
        bias=BIAS,
        null="not known; at most sqrt(max(m, m') / (n - 1))",
        invariances=ROTATIONS,
    ),
    "svcca_singular": spectral(
        svcca_singular,
        _scored(by_singular_values),
        definition="the same of components below 99 % of the sum of singular values, not squares",
        source="anatome, `svcca_distance`",
        cost=COST,
        bias=BIAS,
        null="not known; at most sqrt(max(m, m') / (n - 1))",
        invariances=ROTATIONS,
    ),
    "svcca_rank10": spectral(
        svcca_rank10,
        _scored(by_rank),
        definition="mean canonical correlation of the first 10 principal components",
        source="fixed rank as in Huh et al. 2024, released code, without standardizing",
        cost=COST,
        bias="upwards; at a fixed rank less so as n grows",
        null="not known; at most sqrt(10 / (n - 1))",
        invariances=ROTATIONS,
    ),
    "svcca_standardized10": spectral(
        svcca_standardized10,
        _scored(by_rank),
        standardized=True,
        definition="the same of columns scaled to unit variance, by an exact SVD",
        source="Huh et al. 2024, released code, there with a randomized SVD",
        cost=COST,
        bias="upwards; at a fixed rank less so as n grows",
        null="not known; at most sqrt(10 / (n - 1))",
        invariances=ROTATIONS - {"orthogonal"},
    ),
}
