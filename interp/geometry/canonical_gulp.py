"""GULP: how differently two representations serve ridge regression, uniformly over targets.

With features scaled to mean squared norm 1 (tr S = 1 for the covariance S) and hat matrices
A = X (X'X + n l I)^-1 X' and B of Y,

    GULP_l^2 = ||A - B||^2 = tr A^2 + tr B^2 - 2 tr(A B)

(Boix-Adsera et al. 2022), the expected squared difference of the two ridge predictions of a target
of independent standard normal entries. It is a distance: 0 for equal geometries, smaller is more
alike. At l = 0 A and B are the projections on the column spaces and GULP_0^2 = r_x + r_y -
2 sum rho^2, invariant under every invertible linear map; as l grows it becomes a distance of
covariances. Some code returns the square.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.geometry.canonical_basis import Basis, decompose
from interp.geometry.canonical_traces import Traces, traces
from interp.geometry.features import same_rows
from interp.geometry.measure import Measure

# Of the total variance: directions that hold more than 1 % of it count, smaller ones fade. Between
# the two limits, which are CCA and covariances; the paper sweeps it.
RIDGE = 1e-2
# Squared distances below this share of tr A^2 + tr B^2 have lost digits to cancellation.
NEAR = 1e-6


def gulp(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"], *, ridge: float = RIDGE) -> float:
    """GULP distance.

    x, y: features of the same n >= 4 images, any scale. ridge: l >= 0, in units of the total
    variance. Returns a value in [0, sqrt(r_x + r_y)]; 0 for equal geometries. Cost n d^2 + n d e.
    Raises InputError for NaN, n < 4, a constant representation, ridge < 0.
    Source: Boix-Adsera et al. 2022, closed form of the distance.
    """
    same_rows(x, y)
    if not ridge >= 0:
        raise InputError(f"ridge = {ridge}; it is a share of the total variance, at least 0")
    return _distance(decompose(x, "x"), decompose(y, "y"), ridge)


def shrinkage(basis: Basis, ridge: float = RIDGE) -> Float[Tensor, " r"]:
    """Eigenvalues s^2 / (s^2 + l) of the hat matrix."""
    return basis.s.square() / (basis.s.square() + ridge)


def _distance(p: Basis, q: Basis, ridge: float) -> float:
    """||A - B|| of one pair.

    B = P B P + P B (1 - P) + ... for the projection P on the columns of X: the residual of U_y
    outside them enters squared, so that equal geometries come out as 0 and not as the root of a
    rounding error.
    """
    a, b = shrinkage(p, ridge), shrinkage(q, ridge)
    c = p.u.T @ q.u
    outside = q.u - p.u @ c
    gram = outside.T @ outside
    scaled = c * b
    inner = (torch.diag(a) - scaled @ c.T).square().sum()
    mixed = (scaled @ gram * scaled).sum()
    outer = (b[:, None] * gram.square() * b).sum()
    return float((inner + 2 * mixed + outer).clamp(min=0).sqrt())


def _root(basis: Basis) -> Float[Tensor, " r"]:
    return shrinkage(basis).sqrt()


def _from_traces(cross: Tensor, xs: Sequence[Basis], ys: Sequence[Basis]) -> Tensor:
    own_x, own_y = (
        torch.stack([shrinkage(one).square().sum() for one in part]) for part in (xs, ys)
    )
    own = own_x[:, None] + own_y[None, :]
    squared = own - 2 * cross
    if cross.ndim == 2:
        for i, j in (squared < NEAR * own).nonzero().tolist():
            squared[i, j] = _distance(xs[i], ys[j], RIDGE) ** 2
    return squared.clamp(min=0).sqrt()


MEASURES: dict[str, Measure] = {
    "gulp": traces(
        gulp,
        Traces(_root, _root, _from_traces),
        definition="Frobenius distance of the ridge hat matrices, ridge 0.01 of the total variance",
        source="Boix-Adsera et al. 2022",
        cost="n d^2 once per layer; a pair n d e; a permutation n d e or n^2 / 2, the cheaper",
        bias="depends on the ridge and on n; compare at equal n",
        null="not known",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
        distance=True,
        equal=0.0,
    ),
}
