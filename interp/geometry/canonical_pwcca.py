"""Projection-weighted CCA: canonical correlations weighted by how much of x each one carries.

    pwcca(x -> y) = sum_i a_i rho_i / sum_i a_i,    a_i = sum_j |<h_i, x_j>|,

h_i the canonical variates of X (unit vectors in R^n), x_j its centered columns, i over the
min(r_x, r_y) directions that have a partner (Morcos et al. 2018). The weights see the
single units of x: any invertible map of y leaves the value, but a rotation of x changes it, and
x -> y is not y -> x. Where canonical correlations tie, h and with it the value depend on the basis
of the tied directions; random features do not tie below 1.

The same name stands for other numbers in use. pwcca_narrow takes the weights from the narrower of
the two, whichever side that is on. Not here, because they are slips: weights that are normalized
over directions of x without a partner (then x in y has no value 1); weights from variates or
columns that are not centered (not translation-invariant); the activations of x in the branch that
weights by y, which fails where the widths differ; sums over samples of |x a_i| for weight vectors
a_i, which depend on how long a_i is, or on a QR that is not that of the variates.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.geometry.canonical import LINEAR
from interp.geometry.canonical_basis import Basis, decompose, spectral
from interp.geometry.features import same_rows
from interp.geometry.measure import Measure


def pwcca(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Projection-weighted canonical correlation of x with y, weighted by the columns of x.

    x, y: features of the same n >= 4 images. Returns a value in [0, 1]; swap the arguments for the
    other direction. Cost n d^2 + d^3.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Morcos et al. 2018.
    """
    same_rows(x, y)
    return _weighted(decompose(x, "x"), decompose(y, "y"))


def pwcca_narrow(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """The same weighted by the columns of the narrower of the two; of x at equal widths.

    x, y: as for `pwcca`. Returns a value in [0, 1]. Raises InputError as `pwcca`.
    Source: the released code of Morcos et al. 2018, with centered variates.
    """
    same_rows(x, y)
    return _weighted_by_narrower(decompose(x, "x"), decompose(y, "y"))


def _weighted(p: Basis, q: Basis) -> float:
    rotation, rho, _ = torch.linalg.svd(p.u.T @ q.u, full_matrices=False)
    # <h_i, x_j> with h = U rotation and x = U diag(s) R.
    weights = (rotation.T @ (p.s[:, None] * p.right)).abs().sum(1)
    return float(weights @ rho.clamp(max=1) / weights.sum())


def _weighted_by_narrower(p: Basis, q: Basis) -> float:
    return _weighted(p, q) if p.right.shape[1] <= q.right.shape[1] else _weighted(q, p)


UNITS = frozenset({"scale", "translation", "permutation"})
COST = "n d^2 once per layer; a pair or a permutation n d e + d^3"

MEASURES: dict[str, Measure] = {
    "pwcca": spectral(
        pwcca,
        _weighted,
        definition="canonical correlations, weighted by sum_j |<h_i, x_j>| over the columns of x",
        source="Morcos et al. 2018",
        cost=COST,
        bias="upwards, to 1 at n - 1 <= d",
        null="not known",
        invariances=UNITS,
        invariances_y=LINEAR,
        symmetric=False,
    ),
    "pwcca_narrow": spectral(
        pwcca_narrow,
        _weighted_by_narrower,
        definition="the same, weighted by the columns of the narrower of the two",
        source="released code of Morcos et al. 2018, with centered variates",
        cost=COST,
        bias="upwards, to 1 at n - 1 <= d",
        null="not known",
        invariances=UNITS,
        symmetric=False,
    ),
}
