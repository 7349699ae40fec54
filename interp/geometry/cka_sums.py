"""What every linear CKA is made of: ||X'Y||^2 of all pairs, by the cheaper of two routes.

    ||X'Y||_F^2 = sum_ij K_ij L_ij,    K = X X', L = Y Y'

feature   X'Y of every pair: n D E multiply-adds for total widths D and E
gram      tiles of K and L above the diagonal: n^2 (D + E + 2 a b) / 2 of them, no n x n array

Products are float32 where that saves time, over at most `CHUNK` terms; their squares and all other
sums are float64. The error of a CKA is below 1e-6 (tests/geometry/test_cka_family.py: Gaussian,
heavy-tailed, near rank 1 on one axis, binary, wide features); what would lose more, one column that
holds most of the squares or a debiased norm that is a small remainder, takes float64.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.geometry.features import CONSTANT, as_rows, center, same_rows
from interp.geometry.shapes import small_problems

# Terms of one float32 sum.
CHUNK = 2048
# A column with a larger share of the squares is multiplied in float64: equal terms round alike (two
# clusters on one axis: relative error 5e-6), which no other column would average out.
PEAK = 1 / 64
# Side of a tile of Gram matrices: wide enough for GEMM speed, 1/8 more than half a matrix at 2048.
TILE = 256
# Multiply-adds below which float64 takes less than a tenth of a second.
SMALL = 1 << 30
# With a smaller share of ||X'X||^2 left after debiasing, float32 would not give six digits.
FRAGILE = 0.05
# A float64 copy of a representation is kept up to this size; of a larger one, the given rows.
MAX_COPY_BYTES = 1 << 28
# Gram matrices of permutations are kept up to this size, in parts; beyond, products are repeated.
MAX_GRAM_BYTES = 1 << 30
# Rows of a Gram matrix that are gathered at a time.
GATHER = 32


class CKALayer(NamedTuple):
    """One representation with the sums that every pair reuses."""

    x: Tensor  # [n, d] centered, Frobenius norm 1, float64; or as given, with mean and scale
    norms: Tensor  # [n] squared row norms; they sum to 1
    squares: float  # sum of K_ij^2 over i != j
    energy: float  # h(X, X): ||X'X||^2, debiased or not
    mean: Tensor | None = None  # [d]
    scale: float = 1.0
    peaked: bool = False  # whether one column holds more than PEAK of the squares


def take(layer: CKALayer, rows: Any, dtype: torch.dtype = torch.float64) -> Float[Tensor, "r d"]:
    """Centered rows of norm 1 in all."""
    part = layer.x[rows]
    if layer.mean is not None:
        part = (part.double() - layer.mean) * layer.scale
    return part.to(dtype)


def prepare_sums(x: Float[Tensor, "n d"], name: str = "x") -> CKALayer:
    """Center, scale and square once per layer; `energy` is ||X'X||^2. Cost n d min(n, d) / 2.

    Raises InputError as `center`.
    """
    layer = _open(x, name)
    n, d = layer.x.shape
    # Peaks are no matter where sums run over the columns.
    wide = n * d * min(n, d) <= SMALL or (layer.peaked and d <= n)
    return _with_squares(layer, torch.float64 if wide else torch.float32)


def total(layer: CKALayer) -> float:
    """||X'X||^2."""
    return layer.squares + float(layer.norms @ layer.norms)


def exactly(layer: CKALayer) -> CKALayer:
    """The same with sums of float64 products."""
    return _with_squares(layer, torch.float64)


def _with_squares(layer: CKALayer, dtype: torch.dtype) -> CKALayer:
    z = _own_squares(layer, dtype)
    return layer._replace(squares=z - float(layer.norms @ layer.norms), energy=z)


def _open(x: Any, name: str) -> CKALayer:
    shape = getattr(x, "shape", ())
    if len(shape) != 2 or 8 * shape[0] * shape[1] <= MAX_COPY_BYTES:
        rows = center(x, name)
        parts = rows.square()
        return CKALayer(rows, parts.sum(1), 0.0, 0.0, peaked=float(parts.sum(0).max()) > PEAK)
    as_rows(x[:4], name)
    x = torch.as_tensor(x).detach()
    norms, mean = (torch.zeros(m, dtype=torch.float64) for m in x.shape)
    for rows in _slices(len(x), CHUNK):
        mean += x[rows].double().sum(0) / len(x)
    columns = torch.zeros_like(mean)
    for rows in _slices(len(x), CHUNK):
        part = (x[rows].double() - mean).square()
        norms[rows] = part.sum(1)
        columns += part.sum(0)
    whole = float(norms.sum())
    # The messages of the small case: nobody waits for a constant or unbounded representation.
    if not math.isfinite(whole) or whole <= CONSTANT**2 * len(x) * float(mean.square().sum()):
        center(x, name)
    peaked = float(columns.max()) > PEAK * whole
    return CKALayer(x, norms / whole, 0.0, 0.0, mean, whole**-0.5, peaked)


def _slices(n: int, step: int) -> Iterator[slice]:
    return (slice(start, min(n, start + step)) for start in range(0, n, step))


def _own_squares(layer: CKALayer, dtype: torch.dtype) -> float:
    """||X'X||^2 = ||X X'||^2 from blocks on and above the diagonal of the smaller."""
    n, d = layer.x.shape
    if d > n:
        part = [layer]
        return float(gram_squares(part, part, lambda p, rows, cols: _tile(p, rows, cols, dtype)))
    blocks = list(_slices(d, TILE))
    inner = [torch.zeros((), dtype=torch.float64) for _ in blocks]
    for rows in _slices(n, CHUNK):
        part = take(layer, rows, dtype)
        for i, block in enumerate(blocks):
            inner[i] = inner[i] + _product(part[:, block], part[:, block.start :])
    total = 0.0
    for stripe in inner:
        above, own = stripe.flatten(), stripe[:, : len(stripe)].flatten()
        total += 2 * float(above @ above) - float(own @ own)
    return total


def _product(a: Float[Tensor, "r d"], b: Float[Tensor, "r e"]) -> Float[Tensor, "d e"]:
    """A'B in float64 from products in the dtype of both."""
    if a.dtype == torch.float64:
        return a.T @ b
    parts = ((a[rows].T @ b[rows]).double() for rows in _slices(len(a), CHUNK))
    return sum(parts, torch.zeros((), dtype=torch.float64))


def squares(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer], route: str = "auto"
) -> Float[Tensor, "a b"]:
    """||X'Y||^2 of every pair.

    route: "feature", "gram" (module docstring), or "auto", the one of fewer multiply-adds.
    """
    n = same_rows(xs[0].x, ys[0].x)
    work = route_costs(n, [p.x.shape[1] for p in xs], [q.x.shape[1] for q in ys])
    route = min(work, key=lambda name: work[name]) if route == "auto" else route
    fragile = any(p.energy < FRAGILE * total(p) for p in (*xs, *ys))
    dtype = torch.float64 if fragile or work[route] <= SMALL else torch.float32
    if route == "gram":
        return gram_squares(xs, ys, lambda p, rows, cols: _tile(p, rows, cols, dtype))
    return _squares_by_feature(xs, ys, dtype)


def route_costs(n: int, widths_x: Sequence[int], widths_y: Sequence[int]) -> dict[str, float]:
    """Multiply-adds of both routes for all pairs of layers of these widths."""
    wide_x, wide_y = sum(widths_x), sum(widths_y)
    # Products of tiles are float64, half as fast.
    pairs = 2 * len(widths_x) * len(widths_y)
    return {"feature": n * wide_x * wide_y, "gram": n * n * (wide_x + wide_y + pairs) / 2}


def _squares_by_feature(xs, ys, dtype: torch.dtype) -> Tensor:
    out = torch.zeros(len(xs), len(ys), dtype=torch.float64)
    for (i, p), (j, q) in product(enumerate(xs), enumerate(ys)):
        kind = torch.float64 if p.peaked and q.peaked else dtype
        both = ((take(p, part, kind), take(q, part, kind)) for part in _slices(len(p.norms), CHUNK))
        inner = sum((_product(*part) for part in both), torch.zeros((), dtype=torch.float64))
        out[i, j] = inner.square().sum()
    return out


def _tile(layer: CKALayer, rows: slice, cols: slice, dtype: torch.dtype) -> Tensor:
    return _product(take(layer, rows, dtype).T, take(layer, cols, dtype).T)


def gram_squares(
    xs: Sequence[Any], ys: Sequence[Any], tile: Callable[[Any, slice, slice], Tensor]
) -> Float[Tensor, "a b"]:
    """sum_ij K_ij L_ij of every pair of symmetric matrices, of which tile gives [rows, cols]."""
    blocks = list(_slices(xs[0].x.shape[0], TILE))
    out = torch.zeros(len(xs), len(ys), dtype=torch.float64)
    for i, rows in enumerate(blocks):
        for cols in blocks[i:]:
            k, el = (
                torch.stack([tile(p, rows, cols).flatten() for p in part]) for part in (xs, ys)
            )
            out += (1 + (cols is not rows)) * (k @ el.T)
    return out


def gram_permuted(
    xs: Sequence[Any],
    ys: Sequence[Any],
    orders: Int[np.ndarray, "p n"],
    gram: Callable[[Any], Tensor],
) -> Float[Tensor, "p a b"] | None:
    """sum over i != j of K_ij L_p(i)p(j) of every pair, from the float32 [n, n] that `gram` gives.

    Only places are relabeled: nothing is computed again. Layers are taken in parts that fit
    MAX_GRAM_BYTES; None where not even one pair fits.
    """
    n = xs[0].x.shape[0]
    if 4 * n * n * (len(xs) + 2 * len(ys)) > 2 * MAX_GRAM_BYTES:
        return _in_parts(xs, ys, orders, gram)
    rows, cols = (torch.as_tensor(part) for part in np.triu_indices(n, 1))
    fixed = torch.stack([gram(p)[rows, cols] for p in xs])
    # [n, n, layers]: one gathered place serves all layers.
    moved = torch.stack([gram(q) for q in ys], 2).numpy()
    with small_problems() as run:
        return 2 * torch.stack(list(run(lambda order: _relabel(fixed, moved, order), orders)))


def _in_parts(xs, ys, orders, gram) -> Tensor | None:
    half = len(ys) // 2 or len(xs) // 2
    if not half:
        return None
    if len(ys) > 1:
        parts = [gram_permuted(xs, part, orders, gram) for part in (ys[:half], ys[half:])]
    else:
        parts = [gram_permuted(part, ys, orders, gram) for part in (xs[:half], xs[half:])]
    found = [part for part in parts if part is not None]
    return torch.cat(found, 2 if len(ys) > 1 else 1) if len(found) == 2 else None


def _relabel(fixed: Tensor, moved: np.ndarray, order: np.ndarray) -> Float[Tensor, "a b"]:
    n, layers = len(order), moved.shape[2]
    part = np.empty((GATHER * n, layers), dtype=np.float32)
    total, done = torch.zeros(len(fixed), layers, dtype=torch.float64), 0
    for start in range(0, n - 1, GATHER):
        end = 0
        for i in range(start, min(n - 1, start + GATHER)):
            ahead = order[i + 1 :]
            # The orders are checked: clipping only spares a second copy.
            np.take(moved[order[i]], ahead, 0, part[end : end + len(ahead)], mode="clip")
            end += len(ahead)
        total += fixed[:, done : done + end] @ torch.from_numpy(part[:end])
        done += end
    return total


def squares_permuted(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """sum over i != j of K_ij L_p(i)p(j), by relabeling Grams or, where cheaper, from features."""
    n = same_rows(xs[0].x, ys[0].x)
    wide_x, wide_y = sum(p.x.shape[1] for p in xs), sum(q.x.shape[1] for q in ys)
    if wide_x * wide_y >= n * len(xs) * len(ys) / 4:
        found = gram_permuted(xs, ys, orders, _gram)
        if found is not None:
            return found
    norms_x, norms_y = norms_of(xs), norms_of(ys)
    out = []
    for order in torch.as_tensor(orders):
        columns = [squares(xs, [q._replace(x=q.x[order], norms=q.norms[order])]) for q in ys]
        out.append(torch.cat(columns, 1) - norms_x @ norms_y[:, order].T)
    return torch.stack(out)


def _gram(layer: CKALayer) -> Tensor:
    rows = take(layer, slice(None))
    return (rows @ rows.T).float()


def norms_of(layers: Sequence[Any]) -> Float[Tensor, "layers n"]:
    """Squared row norms of all layers."""
    return torch.stack([p.norms for p in layers])


def energies_of(layers: Sequence[Any]) -> Float[Tensor, " layers"]:
    """h(X, X) of all layers."""
    return torch.tensor([p.energy for p in layers], dtype=torch.float64)


def cosine(h: Tensor, xs: Sequence[Any], ys: Sequence[Any]) -> Float[Tensor, "a b"]:
    """h(X, Y) over the root of h(X, X) h(Y, Y)."""
    return h / (energies_of(xs)[:, None] * energies_of(ys)[None, :]).sqrt()
