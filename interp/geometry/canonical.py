"""Canonical correlations: how much of two column spaces coincides, whatever the coordinates.

The canonical correlations rho_1 >= rho_2 ... of centered X and Y are the singular values of
U_x' U_y for orthonormal bases U of their column spaces; there are r = min(r_x, r_y) of them, r_x
and r_y the ranks.

    cca    = 1 / r sum_i rho_i                      (Raghu et al. 2017)
    cca_r2 = 1 / r sum_i rho_i^2 = tr(P_X P_Y) / r  (R^2_CCA of Kornblith et al. 2019, table 1)

Both are invariant under every invertible linear map and pay for it: n rows leave n - 1 directions,
so that with r_x >= n - 1 every value is 1. Under a uniformly random pairing E cca_r2 =
max(r_x, r_y) / (n - 1) exactly.

The divisor is the number of correlations that exist. One that is in use divides by the smaller
number of columns even where n is smaller still: 5/8 for two spaces that both fill R^n.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.geometry.canonical_basis import Basis, correlations, decompose, spectral
from interp.geometry.canonical_traces import Traces, traces
from interp.geometry.features import same_rows
from interp.geometry.measure import Measure


def cca(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Mean canonical correlation.

    x, y: features of the same n >= 4 images. Returns a value in [0, 1]; 1 where the smaller of the
    two column spaces lies in the other, as it must with n - 1 <= d. Cost n d^2 + d^3.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Raghu et al. 2017.
    """
    same_rows(x, y)
    return mean_correlation(decompose(x, "x"), decompose(y, "y"))


def mean_correlation(p: Basis, q: Basis) -> float:
    """Mean of the canonical correlations of two bases."""
    return float(correlations(p, q).mean())


def cca_r2(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Mean squared canonical correlation.

    x, y: features of the same n >= 4 images. Returns a value in [0, 1]; max(d, e) / (n - 1) for
    unrelated features. Cost n d^2 + d^3.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Kornblith et al. 2019, table 1 (there with the number of columns for the rank).
    """
    same_rows(x, y)
    return float(correlations(decompose(x, "x"), decompose(y, "y")).square().mean())


def ones(basis: Basis) -> Float[Tensor, " r"]:
    """Every direction alike: the projection on the column space."""
    return torch.ones_like(basis.s)


def _per_correlation(total: Tensor, xs: Sequence[Basis], ys: Sequence[Basis]) -> Tensor:
    ranks = [[min(p.rank, q.rank) for q in ys] for p in xs]
    return total / torch.tensor(ranks, dtype=torch.float64)


LINEAR = frozenset({"orthogonal", "scale", "translation", "linear", "permutation"})

MEASURES: dict[str, Measure] = {
    "cca": spectral(
        cca,
        mean_correlation,
        spectrum=False,
        definition="mean canonical correlation, over the smaller of the two ranks",
        source="Raghu et al. 2017",
        cost="n d^2 once per layer; a pair or a permutation n d e + min(d, e)^3",
        bias="upwards, to 1 at n - 1 <= d",
        null="not known; at most sqrt(max(d, e) / (n - 1)), by that of cca_r2",
        invariances=LINEAR,
    ),
    "cca_r2": traces(
        cca_r2,
        Traces(ones, ones, _per_correlation),
        exact=True,
        spectrum=False,
        definition="mean squared canonical correlation: tr(P_X P_Y) over the smaller rank",
        source="Kornblith et al. 2019, table 1 (R^2_CCA)",
        cost="n d^2 once per layer; a pair n d e; a permutation n d e or n^2 / 2, the cheaper",
        bias="upwards by chance, to 1 at n - 1 <= d",
        null="max(d, e) / (n - 1) exactly, d and e the ranks",
        invariances=LINEAR,
    ),
}
