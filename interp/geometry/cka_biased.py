"""Biased linear CKA (the RV coefficient), its exact permutation moments, and both CKAs at once.

With columns centered, K = X X', L = Y Y',

    CKA = ||X'Y||^2 / (||X'X|| ||Y'Y||) = sum K L / (||K|| ||L||)

(Kornblith et al. 2019, eq. 2; Robert and Escoufier 1976). It is biased upwards: independent
Gaussian features of n rows and d columns have CKA d / (n + d), which goes to 1 for wide features.

Over all n! pairings of the rows the moments are exact (Kazi-Aoual et al. 1995, from the moments of
sum K_ij L_p(i)p(j)): with t = tr K, t2 = ||K||^2, s2 = sum K_ii^2 and u, u2, v2 the same of L,

    mean = t u / (n - 1)
    var  = 2 ((n-1) t2 - t^2) ((n-1) u2 - u^2) / ((n-1)^2 (n+1) (n-2))
         + (n (n+1) s2 - (n-1) (t^2 + 2 t2)) (n (n+1) v2 - (n-1) (u^2 + 2 u2))
           / ((n+1) n (n-1) (n-2) (n-3)),

each divided by ||K|| ||L||. So the mean is sqrt(PR_X PR_Y) / (n - 1), PR the participation ratio.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.cka import debias, debiased_values
from interp.geometry.cka_folds import without_folds
from interp.geometry.cka_sums import (
    CKALayer,
    cosine,
    energies_of,
    norms_of,
    prepare_sums,
    squares,
    squares_permuted,
    total,
)
from interp.geometry.features import center, same_rows
from interp.geometry.measure import Measure

# A kept part with a smaller share of the squares is constant.
CONSTANT = 1e-24


def biased_cka(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Biased linear CKA, written out: the cosine of both centered Gram matrices.

    x, y: features of the same n >= 4 images, any scale. Returns a value in [0, 1]; 1 for equal
    geometries; for unrelated ones sqrt(PR_X PR_Y) / (n - 1), not 0. Cost n^2 (d + e), memory n^2.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Kornblith et al. 2019, eq. 2.
    """
    same_rows(x, y)
    k, el = (rows @ rows.T for rows in (center(x, "x"), center(y, "y")))
    return float((k * el).sum() / (k.norm() * el.norm()))


def biased_values(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer], route: str = "auto"
) -> Float[Tensor, "a b"]:
    """Biased CKA of every pair; route as in `cka_sums.squares`."""
    return cosine(squares(xs, ys, route), xs, ys)


class BothCKA(NamedTuple):
    """Linear CKA of every pair of layers."""

    biased: Float[Tensor, "a b"]
    debiased: Float[Tensor, "a b"]


def both_cka(
    xs: Sequence[Float[Tensor, "n _"]], ys: Sequence[Float[Tensor, "n _"]], route: str = "auto"
) -> BothCKA:
    """Biased and debiased linear CKA of every pair of layers from one evaluation of ||X'Y||^2.

    xs, ys: features of the same n >= 4 images, of any dtype, in memory or mapped from a file:
    beyond 256 MB (in float64) no copy of a layer is made, and the workspace is a few tiles or one
    d x e product. route: "feature" or "gram", or "auto", the cheaper (`cost` tells beforehand).
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Kornblith et al. 2019, eq. 2; Song et al. 2012, eq. 5.
    """
    first, second = (
        [debias(prepare_sums(x, f"{name}[{i}]"), f"{name}[{i}]") for i, x in enumerate(part)]
        for name, part in (("xs", xs), ("ys", ys))
    )
    z = squares(first, second, route)
    raw = ([p._replace(energy=total(p)) for p in part] for part in (first, second))
    return BothCKA(cosine(z, *raw), debiased_values(z, first, second))


def biased_permuted(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """CKA of every pair after the rows of the second list are reordered: y[orders[b]].

    Relabels stored Gram matrices as `cka_permuted` does; error 1e-6 against `biased_values`.
    """
    norms_x, norms_y = norms_of(xs), norms_of(ys)
    parts = zip(squares_permuted(xs, ys, orders), torch.as_tensor(orders), strict=True)
    return torch.stack([cosine(z + norms_x @ norms_y[:, order].T, xs, ys) for z, order in parts])


def biased_deleted(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """CKA of every pair with fold f left out and the columns centered again, for each f.

    Cost of all folds together: one Gram-route evaluation.
    """
    norms_x, norms_y = norms_of(xs), norms_of(ys)
    out = []
    for kept in without_folds(xs, ys, folds):
        own_x, own_y = norms_x[:, kept.rows], norms_y[:, kept.rows]
        a, b = kept.sums_x + own_x, kept.sums_y + own_y
        hxy = kept.xy + own_x @ own_y.T - _centering(a @ b.T, a.sum(1)[:, None] * b.sum(1), kept.m)
        hxx, hyy = (
            z + own.square().sum(1) - _centering(sums.square().sum(1), sums.sum(1).square(), kept.m)
            for z, own, sums in ((kept.xx, own_x, a), (kept.yy, own_y, b))
        )
        if bool((hxx <= CONSTANT).any()) or bool((hyy <= CONSTANT).any()):
            raise InputError("a representation is constant without one fold: use fewer folds")
        out.append(hxy / (hxx[:, None] * hyy[None, :]).sqrt())
    return torch.stack(out)


def _centering(rows: Tensor, total: Tensor, m: int) -> Tensor:
    """What centering both Grams takes from sum K L: of row sums, and of their sum."""
    return 2 / m * rows - total / m**2


def gram_moments(
    xs: Sequence[Any], ys: Sequence[Any]
) -> tuple[Float[Tensor, "a b"], Float[Tensor, "a b"]]:
    """Exact mean and sd over all n! pairings of the cosine of two centered Gram matrices.

    xs, ys: layers with `norms`, the diagonal of the centered Gram, and `energy`, the sum of its
    squares. Formula in the module docstring; checked over all permutations of n = 6.
    """
    n = same_rows(xs[0].norms, ys[0].norms)
    (t, t2, s2), (u, u2, v2) = _traces(xs), _traces(ys)
    mean = t[:, None] * u / (n - 1)
    spread_x, spread_y = (n - 1) * t2 - t**2, (n - 1) * u2 - u**2
    first = 2 * spread_x[:, None] * spread_y / ((n - 1) ** 2 * (n + 1) * (n - 2))
    rest_x = n * (n + 1) * s2 - (n - 1) * (t**2 + 2 * t2)
    rest_y = n * (n + 1) * v2 - (n - 1) * (u**2 + 2 * u2)
    second = rest_x[:, None] * rest_y / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    variance = (first + second).clamp(min=0)
    return cosine(mean, xs, ys), cosine(variance.sqrt(), xs, ys)


def _traces(layers: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
    norms = norms_of(layers)
    return norms.sum(1), energies_of(layers), norms.square().sum(1)


MEASURES: dict[str, Measure] = {
    "cka_biased": Measure(
        function=biased_cka,
        prepare=prepare_sums,
        values=biased_values,
        permuted=biased_permuted,
        deleted=biased_deleted,
        moments=gram_moments,
        definition="cosine of the centered linear Gram matrices (biased CKA, RV coefficient)",
        source="Kornblith et al. 2019, eq. 2",
        cost="n D E or n^2 (D + E + 2 a b) / 2, the cheaper; a permutation n^2 a b",
        bias="upwards: d / (n + d) for independent Gaussian features; 1 for d >> n",
        null="sqrt(PR_X PR_Y) / (n - 1) exactly, and the sd of Kazi-Aoual et al. 1995",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
    ),
}
