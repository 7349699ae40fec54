"""Debiased linear CKA: the cosine of two U-centered Gram matrices.

With columns centered, K = X X', r_i = K_ii, t = tr K, the unbiased HSIC of Song et al. (2012,
eq. 5) is, up to the factor 1 / (n (n - 3)) that cancels in the ratio,

    h(X, Y) = ||X'Y||^2 - n / (n - 2) sum_i r_i s_i + t u / ((n - 1)(n - 2)),

and CKA = h(X, Y) / sqrt(h(X, X) h(Y, Y)) (Kornblith et al. 2019, sec. 3, with the estimator of
Nguyen et al. 2021, eq. 3). h is an inner product of U-centered Gram matrices (Szekely and Rizzo
2014, sec. 3), so CKA lies in [-1, 1] and h(X, X) >= 0.

Under a uniformly random pairing of the rows its mean is exactly 0 and its standard deviation
exactly sqrt(2 / (n (n - 3))), whatever X and Y are: U-centered matrices have zero diagonal and
zero row sums, and those two facts fix the first two moments. Permutations within strata, of whole
clusters or of blocks of positions have other moments.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.cka_folds import without_folds
from interp.geometry.cka_sums import (
    FRAGILE,
    CKALayer,
    cosine,
    exactly,
    norms_of,
    prepare_sums,
    squares,
    squares_permuted,
    total,
)
from interp.geometry.features import center, same_rows
from interp.geometry.measure import Measure

# h(X, X) is a share of ||X'X||^2 that rounding alone leaves below this.
DEGENERATE = 1e-11


def debiased_cka(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Debiased linear CKA, written out: U-center both Grams and take their cosine.

    x, y: features of the same n >= 4 images, any scale. Returns a value in [-1, 1]; 1 for equal
    geometries, expectation 0 for unrelated ones. Cost n^2 (d + e), memory n^2: the readable twin of
    `prepare_cka` and `cka_values`.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Song et al. 2012 (eq. 5), Szekely and Rizzo 2014 (eq. 2.4).
    """
    same_rows(x, y)
    k, el = (_u_centered(center(a, name)) for a, name in ((x, "x"), (y, "y")))
    return float((k * el).sum() / (k.norm() * el.norm()))


def _u_centered(x: Tensor) -> Tensor:
    n = x.shape[0]
    gram = x @ x.T
    scale = gram.norm()
    gram.fill_diagonal_(0)
    rows = gram.sum(1)
    out = gram - (rows[:, None] + rows[None, :]) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    out = out.fill_diagonal_(0)
    if bool(out.square().sum() <= DEGENERATE * scale.square()):
        raise InputError(_DEGENERATE_MESSAGE)
    return out


_DEGENERATE_MESSAGE = (
    "debiased CKA is undefined: after U-centering nothing is left of the Gram matrix, as when all "
    "rows but one are equal; leave this point out"
)


def prepare_cka(x: Float[Tensor, "n d"], name: str = "x") -> CKALayer:
    """Center, scale and take the self-terms once per layer. Cost n d min(n, d) / 2."""
    return debias(prepare_sums(x, name), name)


def debias(layer: CKALayer, name: str = "x") -> CKALayer:
    """The layer with the energy h(X, X). Raises InputError where nothing is left of it."""
    layer = _debiased(layer)
    if layer.energy < FRAGILE * total(layer):
        layer = _debiased(exactly(layer))
    if layer.energy <= DEGENERATE * total(layer):
        raise InputError(f"{name}: {_DEGENERATE_MESSAGE}")
    return layer


def _debiased(layer: CKALayer) -> CKALayer:
    cross = float(layer.norms @ layer.norms)
    return layer._replace(energy=_combine(total(layer), cross, 1.0, 1.0, len(layer.norms)))


def _combine(z, cross, t, u, n):
    """h from ||X'Y||^2, sum r s, tr K and tr L (module docstring)."""
    return z - n / (n - 2) * cross + t * u / ((n - 1) * (n - 2))


def cka_values(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer], route: str = "auto"
) -> Float[Tensor, "a b"]:
    """CKA of every pair of a first and a second list of layers.

    route: "feature" or "gram", or "auto", the one of fewer operations (`cka_sums`).
    """
    return debiased_values(squares(xs, ys, route), xs, ys)


def debiased_values(
    z: Float[Tensor, "a b"], xs: Sequence[CKALayer], ys: Sequence[CKALayer]
) -> Float[Tensor, "a b"]:
    """CKA of every pair from ||X'Y||^2."""
    h = _combine(z, norms_of(xs) @ norms_of(ys).T, 1.0, 1.0, len(xs[0].norms))
    return cosine(h, xs, ys)


def cka_permuted(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """CKA of every pair after the rows of the second list are reordered: y[orders[b]].

    Relabels stored float32 Gram matrices in parts that fit `cka_sums.MAX_GRAM_BYTES`; of layers too
    large for that, computes ||X'Y||^2 again. Error 1e-6 against `cka_values`.
    """
    n = len(xs[0].norms)
    norms_x, norms_y = norms_of(xs), norms_of(ys)
    apart = squares_permuted(xs, ys, orders)
    out = []
    for z, order in zip(apart, torch.as_tensor(orders), strict=True):
        # The diagonal of the Grams, and n / (n - 2) of the same taken away.
        cross = norms_x @ norms_y[:, order].T
        out.append(cosine(_combine(z + cross, cross, 1.0, 1.0, n), xs, ys))
    return torch.stack(out)


def cka_deleted(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """CKA of every pair with fold f left out, for each f: from slabs of the same Grams.

    Cost of all folds together: one Gram-route evaluation. h of the kept rows needs the sums of
    K L over rows in the fold, over pairs inside it, and the row sums of the kept part.
    """
    out = []
    for kept in without_folds(xs, ys, folds):
        a, b, m = kept.sums_x, kept.sums_y, kept.m
        hxx = _kept(kept.xx, a.square().sum(1), a.sum(1).square(), m)
        hyy = _kept(kept.yy, b.square().sum(1), b.sum(1).square(), m)
        hxy = _kept(kept.xy, a @ b.T, a.sum(1)[:, None] * b.sum(1)[None, :], m)
        if bool((hxx <= DEGENERATE).any()) or bool((hyy <= DEGENERATE).any()):
            raise InputError("a representation is constant without one fold: use fewer folds")
        out.append(hxy / (hxx[:, None] * hyy[None, :]).sqrt())
    return torch.stack(out)


def _kept(z: Tensor, cross: Tensor, traces: Tensor, m: int) -> Tensor:
    """h over m rows from sums over off-diagonal entries: products, row sums, row sums summed."""
    return z - 2 / (m - 2) * cross + traces / ((m - 1) * (m - 2))


def cka_moments(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer]
) -> tuple[Float[Tensor, "a b"], Float[Tensor, "a b"]]:
    """Exact mean 0 and sd sqrt(2 / (n (n - 3))) over all n! pairings (module docstring)."""
    n = same_rows(xs[0].x, ys[0].x)
    mean = torch.zeros(len(xs), len(ys), dtype=torch.float64)
    return mean, torch.full_like(mean, math.sqrt(2 / (n * (n - 3))))


MEASURES: dict[str, Measure] = {
    "cka": Measure(
        function=debiased_cka,
        prepare=prepare_cka,
        values=cka_values,
        permuted=cka_permuted,
        deleted=cka_deleted,
        moments=cka_moments,
        definition="cosine of the U-centered linear Gram matrices (debiased linear CKA)",
        source="Kornblith et al. 2019, sec. 3; Song et al. 2012, eq. 5",
        cost="n D E or n^2 (D + E + 2 a b) / 2, the cheaper; a permutation n^2 a b",
        bias="numerator unbiased, the ratio slightly not; 0 in expectation for unrelated features",
        null="0 exactly, sd sqrt(2 / (n (n - 3)))",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
    ),
}
