"""CKA of Gaussian kernels, with both bandwidths that are in use, without an n x n array.

    K_ij = exp(-|x_i - x_j|^2 / (2 s)),   CKA = <H K H, H L H> / (||H K H|| ||H L H||),  H = 1 - 1/n

(Kornblith et al. 2019, sec. 3). s is a median of the squared distances, of which two are in use:

cka_rbf      over pairs of different rows, i != j
cka_rbf_all  over all n^2 pairs with the n zeros of the diagonal (the authors' released code); it is
             smaller, most of all in a small sample

Kernels are made in tiles as often as they are needed; the median is exact, from a histogram and the
values of its middle bin. Biased upwards as linear CKA is; its moments under a uniformly random
pairing are exact (`cka_biased.gram_moments`).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.cka_biased import gram_moments
from interp.geometry.cka_sums import TILE, cosine, gram_permuted, gram_squares, norms_of
from interp.geometry.features import as_rows, center, same_rows
from interp.geometry.measure import Measure

# n^2 d operations five times over: more rows take hours.
MAX_ROWS = 20_000
# A squared distance below this share of both squared norms is rounding: the rows are equal.
EQUAL = 1e-13
# Bins of the histogram: the upper half of a non-negative float32.
BINS = 1 << 15


def rbf_cka(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """CKA of Gaussian kernels, written out; bandwidth: median squared distance of different rows.

    x, y: features of the same n images, 4 <= n <= 20,000. Returns a value in [0, 1]; 1 for equal
    geometries. Cost n^2 (d + e), memory n^2: the readable twin of `prepare_rbf` and `rbf_values`.
    Raises InputError for NaN, another n, a constant representation, more than half of all pairs
    equal.
    Source: Kornblith et al. 2019, sec. 3.
    """
    same_rows(x, y)
    k, el = (_written_out(z, name, diagonal=False) for z, name in ((x, "x"), (y, "y")))
    return float((k * el).sum() / (k.norm() * el.norm()))


def rbf_cka_all(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """CKA of Gaussian kernels; bandwidth: median of all n^2 squared distances, diagonal included.

    Everything else as `rbf_cka`.
    Source: the released code of Kornblith et al. 2019.
    """
    same_rows(x, y)
    k, el = (_written_out(z, name, diagonal=True) for z, name in ((x, "x"), (y, "y")))
    return float((k * el).sum() / (k.norm() * el.norm()))


def _written_out(x: Tensor, name: str, *, diagonal: bool) -> Tensor:
    _check_rows(x, name)
    rows = center(x, name)
    squared = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    different = ~torch.eye(len(rows), dtype=torch.bool)
    bandwidth = float(np.median((squared if diagonal else squared[different]).numpy()))
    gram = (-squared / (2 * _positive(bandwidth, name))).exp()
    return gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()


def _check_rows(x, name: str) -> None:
    n = len(as_rows(x, name))
    if n > MAX_ROWS:
        raise InputError(
            f"{name} has n = {n} rows; RBF CKA takes at most {MAX_ROWS} (n^2 d operations several "
            "times over): take a random subset, or linear CKA"
        )


def _positive(bandwidth: float, name: str) -> float:
    if bandwidth <= 0:
        raise InputError(
            f"{name}: the median distance is 0, more than half of all pairs of rows are equal; "
            "there is no bandwidth, take linear CKA"
        )
    return bandwidth


class RBFLayer(NamedTuple):
    """One representation, its bandwidth, and what centers its kernel."""

    x: Tensor  # [n, d] centered, norm 1, float64
    lengths: Tensor  # [n] squared row norms
    bandwidth: float  # s
    means: Tensor  # [n] row means of the kernel
    norms: Tensor  # [n] diagonal of the centered kernel
    energy: float  # sum of its squares


def prepare_rbf(x: Float[Tensor, "n d"], name: str = "x") -> RBFLayer:
    """Bandwidth of different rows, kernel means, self-term. Cost 2 n^2 d; no n x n array."""
    return _prepare(x, name, diagonal=False)


def prepare_rbf_all(x: Float[Tensor, "n d"], name: str = "x") -> RBFLayer:
    """As `prepare_rbf`, with the median over all n^2 pairs."""
    return _prepare(x, name, diagonal=True)


def _prepare(x, name: str, *, diagonal: bool) -> RBFLayer:
    _check_rows(x, name)
    rows = center(x, name)
    n = len(rows)
    empty = torch.zeros(n, dtype=torch.float64)
    layer = RBFLayer(rows, rows.square().sum(1), 1.0, empty, empty, 0.0)
    layer = layer._replace(bandwidth=_positive(_median(layer, diagonal=diagonal), name))
    sums = torch.zeros(n, dtype=torch.float64)
    for first, second, _ in _tiles(n):
        part = _kernel(layer, first, second)
        sums[first] += part.sum(1)
        if first is not second:
            sums[second] += part.sum(0)
    means = sums / n
    layer = layer._replace(means=means, norms=1 - 2 * means + means.mean())
    return layer._replace(energy=float(gram_squares([layer], [layer], _centered)))


def _tiles(n: int) -> Iterator[tuple[slice, slice, bool]]:
    """Tiles on and above the diagonal, and whether they are on it."""
    blocks = [slice(start, min(n, start + TILE)) for start in range(0, n, TILE)]
    for i, rows in enumerate(blocks):
        for cols in blocks[i:]:
            yield rows, cols, cols is rows


def _squared(layer: RBFLayer, rows: slice, cols: slice) -> Tensor:
    both = layer.lengths[rows, None] + layer.lengths[cols]
    squared = both - 2 * (layer.x[rows] @ layer.x[cols].T)
    return torch.where(squared <= EQUAL * both, 0, squared)


def _kernel(layer: RBFLayer, rows: slice, cols: slice) -> Tensor:
    return (_squared(layer, rows, cols) / (-2 * layer.bandwidth)).exp_()


def _centered(layer: RBFLayer, rows: slice, cols: slice) -> Tensor:
    kernel = _kernel(layer, rows, cols)
    kernel -= layer.means[rows, None] + layer.means[cols]
    return kernel.add_(layer.means.mean())


def _pairs(layer: RBFLayer) -> Iterator[Tensor]:
    """Squared distances of all i < j, in parts."""
    for rows, cols, on_diagonal in _tiles(len(layer.x)):
        squared = _squared(layer, rows, cols)
        if on_diagonal:
            above = torch.ones_like(squared, dtype=torch.bool).triu(1)
            yield squared[above]
        else:
            yield squared.flatten()


def _bins(squared: Tensor) -> Tensor:
    # Non-negative float32 sort like their bits.
    return squared.float().view(torch.int32) >> 16


def _median(layer: RBFLayer, *, diagonal: bool) -> float:
    """Mean of the two middle squared distances, of different rows or of all n^2 pairs."""
    n = len(layer.x)
    counts = torch.zeros(BINS, dtype=torch.int64)
    for part in _pairs(layer):
        counts += torch.bincount(_bins(part), minlength=BINS)
    number = n * n if diagonal else n * (n - 1)
    # Every pair stands twice, after the n zeros of the diagonal where those count.
    places = [(at - diagonal * n) // 2 for at in ((number - 1) // 2, number // 2)]
    places = [at for at in places if at >= 0]
    below = counts.cumsum(0)
    bins = torch.searchsorted(below, torch.tensor(places), right=True)
    inside = [part[torch.isin(_bins(part), bins)] for part in _pairs(layer)]
    first = int(bins.min()) if len(bins) else 0
    ordered = torch.cat(inside).sort().values
    before = int(below[first - 1]) if first else 0
    return sum(float(ordered[at - before]) for at in places) / 2


def rbf_values(xs: Sequence[RBFLayer], ys: Sequence[RBFLayer]) -> Float[Tensor, "a b"]:
    """CKA of every pair. Cost n^2 (D + E + a b) / 2, in tiles."""
    same_rows(xs[0].x, ys[0].x)
    return cosine(gram_squares(xs, ys, _centered), xs, ys)


def rbf_permuted(
    xs: Sequence[RBFLayer], ys: Sequence[RBFLayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """CKA of every pair after the rows of the second list are reordered: y[orders[p]].

    Relabels stored float32 kernels where they fit, else makes tiles anew; error 1e-6.
    """
    same_rows(xs[0].x, ys[0].x)
    moved = torch.as_tensor(orders)
    apart = gram_permuted(xs, ys, orders, _whole)
    if apart is None:
        return torch.stack([rbf_values(xs, [_reordered(q, order) for q in ys]) for order in moved])
    first, second = norms_of(xs), norms_of(ys)
    parts = zip(apart, moved, strict=True)
    return torch.stack([cosine(z + first @ second[:, order].T, xs, ys) for z, order in parts])


def _whole(layer: RBFLayer) -> Tensor:
    everything = slice(None)
    return _centered(layer, everything, everything).float()


def _reordered(layer: RBFLayer, order: Tensor) -> RBFLayer:
    return layer._replace(x=layer.x[order], lengths=layer.lengths[order], means=layer.means[order])


def _deleted(xs, ys, folds: np.ndarray, *, diagonal: bool) -> Tensor:
    """The bandwidth is that of the kept rows, so that every fold makes its kernels anew."""
    same_rows(xs[0].x, ys[0].x)
    out = []
    for f in range(int(folds.max()) + 1):
        kept = torch.as_tensor(np.flatnonzero(folds != f))
        if len(kept) < 4:
            raise InputError(f"fold {f} leaves {len(kept)} of {len(folds)} rows: use more folds")
        parts = (
            [_prepare(one.x[kept], f"without fold {f}", diagonal=diagonal) for one in layers]
            for layers in (xs, ys)
        )
        out.append(rbf_values(*parts))
    return torch.stack(out)


def rbf_deleted(
    xs: Sequence[RBFLayer], ys: Sequence[RBFLayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """CKA of every pair with fold f left out, for each f. Cost 3 n^2 (D + E) per fold."""
    return _deleted(xs, ys, folds, diagonal=False)


def rbf_all_deleted(
    xs: Sequence[RBFLayer], ys: Sequence[RBFLayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """As `rbf_deleted`, with the median over all n^2 pairs."""
    return _deleted(xs, ys, folds, diagonal=True)


MEASURES: dict[str, Measure] = {
    "cka_rbf": Measure(
        function=rbf_cka,
        prepare=prepare_rbf,
        values=rbf_values,
        permuted=rbf_permuted,
        deleted=rbf_deleted,
        moments=gram_moments,
        definition="cosine of centered Gaussian kernels, s the median |x_i - x_j|^2 over i != j",
        source="Kornblith et al. 2019, sec. 3",
        cost="n^2 (2 D + 2 E + a b); n <= 20,000",
        bias="upwards, as biased linear CKA",
        null="t u / ((n - 1) ||K|| ||L||) of the centered kernels exactly, t and u their traces",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
    ),
    "cka_rbf_all": Measure(
        function=rbf_cka_all,
        prepare=prepare_rbf_all,
        values=rbf_values,
        permuted=rbf_permuted,
        deleted=rbf_all_deleted,
        moments=gram_moments,
        definition="cosine of centered Gaussian kernels, s the median |x_i - x_j|^2 of all n^2",
        source="Kornblith et al. 2019, released code",
        cost="n^2 (2 D + 2 E + a b); n <= 20,000",
        bias="upwards, as biased linear CKA",
        null="t u / ((n - 1) ||K|| ||L||) of the centered kernels exactly, t and u their traces",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
    ),
}
