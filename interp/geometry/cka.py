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
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import center, same_rows
from interp.geometry.measure import Measure

# Permutations keep U-centered Grams in memory up to this size, then take the feature route.
MAX_GRAM_BYTES = 1 << 30
# Floats in one slab of Gram rows: 32 MB in float64.
SLAB = 1 << 22
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


class CKALayer(NamedTuple):
    """One representation with the sums that every pair reuses."""

    x: Tensor  # [n, d] centered, Frobenius norm 1, float64
    norms: Tensor  # [n] squared row norms; they sum to 1
    energy: float  # h(X, X)
    squares: float  # sum of K_ij^2 over i != j


def prepare_cka(x: Float[Tensor, "n d"], name: str = "x") -> CKALayer:
    """Center, scale and take the self-terms once per layer. Cost n d min(n, d)."""
    rows = center(x, name)
    norms = rows.square().sum(1)
    n, d = rows.shape
    small = rows.T @ rows if d <= n else rows @ rows.T
    z = small.square().sum()
    energy = float(_combine(z, norms @ norms, 1.0, 1.0, n))
    if energy <= DEGENERATE * float(z):
        raise InputError(f"{name}: {_DEGENERATE_MESSAGE}")
    return CKALayer(rows, norms, energy, float(z - norms @ norms))


def _combine(z, cross, t, u, n):
    """h from ||X'Y||^2, sum r s, tr K and tr L (module docstring)."""
    return z - n / (n - 2) * cross + t * u / ((n - 1) * (n - 2))


def cka_values(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer], route: str = "auto"
) -> Float[Tensor, "a b"]:
    """CKA of every pair of a first and a second list of layers.

    route: "feature" (||X'Y||^2, cost n D E for total widths D and E), "gram" (sum K L, cost
    n^2 (D + E + a b), in slabs of rows: never an n x n array), "auto" takes the cheaper.
    """
    n = same_rows(xs[0].x, ys[0].x)
    wide_x, wide_y = sum(p.x.shape[1] for p in xs), sum(q.x.shape[1] for q in ys)
    if route == "auto":
        gram = n * (wide_x + wide_y + len(xs) * len(ys))
        route = "feature" if wide_x * wide_y <= gram else "gram"
    z = (_squares_by_feature if route == "feature" else _squares_by_gram)(xs, ys)
    return _normalize(_combine(z, _norms(xs) @ _norms(ys).T, 1.0, 1.0, n), xs, ys)


def _norms(layers: Sequence[CKALayer]) -> Tensor:
    return torch.stack([p.norms for p in layers])


def _normalize(h: Tensor, xs: Sequence[CKALayer], ys: Sequence[CKALayer]) -> Tensor:
    ex = torch.tensor([p.energy for p in xs], dtype=torch.float64)
    ey = torch.tensor([q.energy for q in ys], dtype=torch.float64)
    return h / (ex[:, None] * ey[None, :]).sqrt()


def _segments(layers: Sequence[CKALayer]) -> Tensor:
    widths = torch.tensor([p.x.shape[1] for p in layers])
    return torch.repeat_interleave(torch.arange(len(layers)), widths)


def _squares_by_feature(xs: Sequence[CKALayer], ys: Sequence[CKALayer]) -> Tensor:
    stacked = torch.cat([q.x for q in ys], 1)
    owner = _segments(ys)
    out = torch.zeros(len(xs), len(ys), dtype=torch.float64)
    for i, p in enumerate(xs):
        out[i].index_add_(0, owner, (p.x.T @ stacked).square().sum(0))
    return out


def _squares_by_gram(xs: Sequence[CKALayer], ys: Sequence[CKALayer]) -> Tensor:
    n = xs[0].x.shape[0]
    step = max(1, SLAB // (n * (len(xs) + len(ys))))
    out = torch.zeros(len(xs), len(ys), dtype=torch.float64)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        out += _slab(xs, rows).flatten(1) @ _slab(ys, rows).flatten(1).T
    return out


def _slab(layers: Sequence[CKALayer], rows) -> Tensor:
    """Gram rows of every layer: [layers, rows, n]."""
    return torch.stack([p.x[rows] @ p.x.T for p in layers])


def cka_permuted(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer], orders: Int[np.ndarray, "k n"]
) -> Float[Tensor, "k a b"]:
    """CKA of every pair after the rows of the second list are reordered: y[orders[b]].

    Relabels stored U-centered Grams (float32, n (n - 1) / 2 numbers per layer) where they fit
    MAX_GRAM_BYTES, else recomputes ||X'Y||^2; error 1e-6 against `cka_values`.
    """
    n = same_rows(xs[0].x, ys[0].x)
    if len(xs) < len(ys):
        inverse = np.argsort(orders, axis=1)
        return cka_permuted(ys, xs, inverse).transpose(1, 2)
    size = 4 * (n * (n - 1) // 2 * (len(xs) + len(ys)) + n * n * len(ys))
    wide_x, wide_y = sum(p.x.shape[1] for p in xs), sum(q.x.shape[1] for q in ys)
    if size > MAX_GRAM_BYTES or wide_x * wide_y < n * len(xs) * len(ys) / 4:
        return _permuted_by_feature(xs, ys, orders)
    return _permuted_by_gram(xs, ys, orders)


def _permuted_by_feature(xs, ys, orders) -> Tensor:
    n = xs[0].x.shape[0]
    norms_x, norms_y = _norms(xs), _norms(ys)
    out = []
    for order in torch.as_tensor(orders):
        z = _squares_by_feature(xs, [q._replace(x=q.x[order]) for q in ys])
        out.append(_combine(z, norms_x @ norms_y[:, order].T, 1.0, 1.0, n))
    return torch.stack([_normalize(h, xs, ys) for h in out])


def _permuted_by_gram(xs, ys, orders) -> Tensor:
    n = xs[0].x.shape[0]
    rows, cols = np.triu_indices(n, 1)
    fixed = torch.stack([_unit_gram(p)[rows, cols] for p in xs])
    # [n * n, layers]: one gathered row serves all layers.
    moved = torch.stack([_unit_gram(q).flatten() for q in ys], 1).numpy()
    out = torch.empty(len(orders), len(xs), len(ys), dtype=torch.float64)
    for b, order in enumerate(orders):
        flat = order[rows] * n + order[cols]
        out[b] = fixed @ torch.from_numpy(np.take(moved, flat, axis=0))
    return 2 * out


def _unit_gram(layer: CKALayer) -> Tensor:
    """The U-centered Gram scaled to norm 1, float32, so that CKA is a plain inner product."""
    n = layer.x.shape[0]
    gram = layer.x @ layer.x.T
    gram += (layer.norms[:, None] + layer.norms[None, :]) / (n - 2) - 1 / ((n - 1) * (n - 2))
    gram /= math.sqrt(layer.energy)
    return gram.fill_diagonal_(0).float()


def cka_deleted(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """CKA of every pair with fold f left out, for each f: from slabs of the same Grams.

    Cost of all folds together: one Gram-route evaluation. h of the kept rows needs the sums of
    K L over rows in the fold, over pairs inside it, and the row sums of the kept part.
    """
    n = same_rows(xs[0].x, ys[0].x)
    count = int(folds.max()) + 1
    members = [torch.as_tensor(np.flatnonzero(folds == f)) for f in range(count)]
    left = [n - len(rows) for rows in members]
    if min(left) < 4:
        f = int(np.argmin(left))
        raise InputError(f"fold {f} leaves {left[f]} of {n} rows; debiased CKA needs 4: more folds")
    products = [_fold_products(xs, ys, rows) for rows in members]
    # Every row is in one fold.
    total = torch.stack([part.touching for part in products]).sum(0)
    squares = [torch.tensor([p.squares for p in part], dtype=torch.float64) for part in (xs, ys)]
    out = []
    for rows, part, m in zip(members, products, left, strict=True):
        a, b = _kept_sums(xs, rows), _kept_sums(ys, rows)
        hxx = _kept(squares[0] - part.own_x, a.square().sum(1), a.sum(1).square(), m)
        hyy = _kept(squares[1] - part.own_y, b.square().sum(1), b.sum(1).square(), m)
        traces = a.sum(1)[:, None] * b.sum(1)[None, :]
        hxy = _kept(total - 2 * part.touching + part.within, a @ b.T, traces, m)
        if bool((hxx <= DEGENERATE).any()) or bool((hyy <= DEGENERATE).any()):
            raise InputError("a representation is constant without one fold: use fewer folds")
        out.append(hxy / (hxx[:, None] * hyy[None, :]).sqrt())
    return torch.stack(out)


class _FoldProducts(NamedTuple):
    """Sums of products of off-diagonal Gram entries that leaving a fold out takes away."""

    touching: Tensor  # [a, b] over rows of the fold
    within: Tensor  # [a, b] over pairs inside it
    own_x: Tensor  # [a] squares with a row or a column in the fold
    own_y: Tensor  # [b]


def _fold_products(xs, ys, members: Tensor) -> _FoldProducts:
    n = xs[0].x.shape[0]
    touching = torch.zeros(len(xs), len(ys), dtype=torch.float64)
    within, own_x, own_y = touching.clone(), touching[:, 0].clone(), touching[0].clone()
    for rows in members.split(max(1, SLAB // (n * (len(xs) + len(ys))))):
        a, b = _off_diagonal(xs, rows), _off_diagonal(ys, rows)
        touching += a.flatten(1) @ b.flatten(1).T
        inner_a, inner_b = (part[:, :, members].flatten(1) for part in (a, b))
        within += inner_a @ inner_b.T
        own_x += 2 * a.flatten(1).square().sum(1) - inner_a.square().sum(1)
        own_y += 2 * b.flatten(1).square().sum(1) - inner_b.square().sum(1)
    return _FoldProducts(touching, within, own_x, own_y)


def _off_diagonal(layers: Sequence[CKALayer], rows: Tensor) -> Tensor:
    slab = _slab(layers, rows)
    slab[:, torch.arange(len(rows)), rows] = 0
    return slab


def _kept_sums(layers: Sequence[CKALayer], members: Tensor) -> Float[Tensor, "layers kept"]:
    """Off-diagonal Gram row sums over the kept columns, for the kept rows.

    The rows of a centered Gram sum to zero: what is left is -K_ii - (sum over the fold).
    """
    kept = torch.ones(layers[0].x.shape[0], dtype=torch.bool)
    kept[members] = False
    return torch.stack([-p.norms[kept] - p.x[kept] @ p.x[members].sum(0) for p in layers])


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
        cost="n D E or n^2 (D + E + a b), the cheaper; a permutation n^2 a b",
        bias="numerator unbiased, the ratio slightly not; 0 in expectation for unrelated features",
        null="0 exactly, sd sqrt(2 / (n (n - 3)))",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
    ),
}
