"""Minibatch CKA: unbiased HSIC averaged over batches of a fixed size, so that rows can stream.

    CKA = sum_b w_b h_b(X, Y) / sqrt(sum_b w_b h_b(X, X) sum_b w_b h_b(Y, Y)),

h_b the unbiased HSIC of Song et al. (2012, eq. 5) on the rows of batch b (Nguyen et al. 2021,
eq. 2 and 3). Batches are runs of `batch_size` consecutive rows in the order given; what is left at
the end is a smaller batch, weighted by its rows like every other (w_b the number of rows), unless
it has fewer than 4. Batch size and order are part of the definition: other batches, another number.
One batch of all rows is debiased CKA. Each h_b is unbiased, so the expectation of numerator and
denominator does not depend on the batches; memory is batch_size^2 per layer for any n.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import MIN_ROWS, center, same_rows
from interp.geometry.measure import Measure

# Nguyen et al. 2021, app. A: batches of 256.
BATCH = 256
# As for debiased CKA: what rounding alone leaves of the squares.
DEGENERATE = 1e-11


def minibatch_cka(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n e"], batch_size: int = BATCH
) -> float:
    """Minibatch CKA, written out as Nguyen et al. 2021, eq. 2 and 3.

    x, y: features of the same n >= 4 images, in the order that makes the batches. batch_size: rows
    per batch, at least 4. Returns a value near [-1, 1] (the ratio of averages may leave it for
    unrelated rows in few batches); 1 for equal geometries, expectation near 0 for unrelated ones.
    Cost n batch_size (d + e).
    Raises InputError for NaN, n < 4, a constant representation, a batch of fewer than 4 rows.
    Source: Nguyen et al. 2021, eq. 2 and 3; Song et al. 2012, eq. 5.
    """
    n = same_rows(x, y)
    x, y = center(x, "x"), center(y, "y")
    sums = torch.zeros(3, dtype=torch.float64)
    for rows in batches(n, batch_size):
        k, el = (z[rows] @ z[rows].T for z in (x, y))
        sums += len(k) * torch.stack([_hsic(k, el), _hsic(k, k), _hsic(el, el)])
    for name, z, own in (("x", x, sums[1]), ("y", y, sums[2])):
        _check_left(name, z, float(own), batch_size)
    return float(sums[0] / (sums[1] * sums[2]).sqrt())


def _hsic(k: Tensor, el: Tensor) -> Tensor:
    """HSIC_1 of two Gram matrices (Song et al. 2012, eq. 5)."""
    m = len(k)
    k, el = (gram.clone().fill_diagonal_(0) for gram in (k, el))
    whole = k.sum() * el.sum() / ((m - 1) * (m - 2))
    return ((k * el).sum() + whole - 2 / (m - 2) * (k.sum(0) @ el.sum(0))) / (m * (m - 3))


def _check_left(name: str, rows: Tensor, own: float, batch_size: int) -> None:
    # The diagonal of the Grams, which U-centering takes away, is what rounding is a share of.
    if own <= DEGENERATE * float(rows.square().sum(1).square().sum()) / batch_size:
        raise InputError(f"{name}: {_DEGENERATE_MESSAGE}")


_DEGENERATE_MESSAGE = (
    "minibatch CKA is undefined: no batch has anything left after U-centering, as when all rows of "
    "every batch but one are equal; leave this point out or take larger batches"
)


def batches(n: int, batch_size: int) -> Iterator[slice]:
    """Rows of each batch. Raises InputError for batches of fewer than 4 rows."""
    if batch_size < MIN_ROWS:
        raise InputError(f"batch_size = {batch_size}; unbiased HSIC needs at least {MIN_ROWS} rows")
    starts = range(0, n, batch_size)
    parts = (slice(start, min(n, start + batch_size)) for start in starts)
    return (part for part in parts if part.stop - part.start >= MIN_ROWS)


class BatchLayer(NamedTuple):
    """One representation in the order of its batches."""

    x: Tensor  # [n, d] float64, of norm 1
    batch_size: int


def prepare_minibatch(
    x: Float[Tensor, "n d"], name: str = "x", batch_size: int = BATCH
) -> BatchLayer:
    """Check and scale. Raises InputError as `center`, and where no batch has anything left."""
    rows = center(x, name)
    _check_left(name, rows, float(_sums([rows], [rows], batch_size).yy), batch_size)
    return BatchLayer(rows, batch_size)


class BatchSums(NamedTuple):
    """Weighted sums of h_b over batches."""

    xy: Tensor  # [a, b]
    xx: Tensor  # [a]
    yy: Tensor  # [b]

    def plus(self, other: "BatchSums") -> "BatchSums":
        """Both together."""
        return BatchSums(*(a + b for a, b in zip(self, other, strict=True)))

    def cka(self) -> Float[Tensor, "a b"]:
        """The ratio. Raises InputError where a denominator is not positive."""
        if bool((self.xx <= 0).any()) or bool((self.yy <= 0).any()):
            raise InputError(_DEGENERATE_MESSAGE)
        return self.xy / (self.xx.sqrt()[:, None] * self.yy.sqrt())


def _centered(layers: Iterable[Tensor]) -> Float[Tensor, "layers m2"]:
    """U-centered Grams of the rows of one batch, scaled so that products are w_b h_b."""
    gram = torch.stack([rows @ rows.T for rows in layers])
    m = gram.shape[1]
    gram.diagonal(dim1=1, dim2=2).zero_()
    rows = gram.sum(2)
    gram -= (rows[:, :, None] + rows[:, None, :]) / (m - 2)
    gram += rows.sum(1)[:, None, None] / ((m - 1) * (m - 2))
    gram.diagonal(dim1=1, dim2=2).zero_()
    # w_b = m, and HSIC divides by m (m - 3).
    return gram.flatten(1) / (m - 3) ** 0.5


def _products(a: Tensor, b: Tensor) -> BatchSums:
    return BatchSums(a @ b.T, a.square().sum(1), b.square().sum(1))


def _sums(xs: Sequence[Tensor], ys: Sequence[Tensor], batch_size: int) -> BatchSums:
    parts = (
        _products(_centered(x[rows] for x in xs), _centered(y[rows] for y in ys))
        for rows in batches(same_rows(xs[0], ys[0]), batch_size)
    )
    whole = next(parts)
    for part in parts:
        whole = whole.plus(part)
    return whole


def minibatch_values(xs: Sequence[BatchLayer], ys: Sequence[BatchLayer]) -> Float[Tensor, "a b"]:
    """Minibatch CKA of every pair; all layers with the batch size of the first."""
    return _sums([p.x for p in xs], [q.x for q in ys], xs[0].batch_size).cka()


def minibatch_permuted(
    xs: Sequence[BatchLayer], ys: Sequence[BatchLayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """CKA of every pair after the rows of the second list are reordered: y[orders[p]].

    Other rows meet in a batch, so that the second list's Grams are made anew: n batch_size E.
    """
    n = same_rows(xs[0].x, ys[0].x)
    found: list[BatchSums] = []
    moved = torch.as_tensor(orders)
    for rows in batches(n, xs[0].batch_size):
        first = _centered(p.x[rows] for p in xs)
        parts = [_products(first, _centered(q.x[at[rows]] for q in ys)) for at in moved]
        found = [a.plus(b) for a, b in zip(found, parts, strict=True)] if found else parts
    return torch.stack([part.cka() for part in found])


def minibatch_deleted(
    xs: Sequence[BatchLayer], ys: Sequence[BatchLayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """CKA of every pair with fold f left out, for each f; what is left makes batches anew."""
    out = []
    for f in range(int(folds.max()) + 1):
        kept = torch.as_tensor(np.flatnonzero(folds != f))
        if len(kept) < MIN_ROWS:
            raise InputError(f"fold {f} leaves {len(kept)} of {len(folds)} rows: use more folds")
        parts = ([one._replace(x=one.x[kept]) for one in layers] for layers in (xs, ys))
        out.append(minibatch_values(*parts))
    return torch.stack(out)


def stream_cka(
    chunks: Iterable[tuple[Sequence[Any], Sequence[Any]]], batch_size: int = BATCH
) -> Float[Tensor, "a b"]:
    """Minibatch CKA of every pair of layers whose rows arrive in chunks.

    chunks: pairs (xs, ys) of lists of [c, d] features, one per layer, of the same c images; c may
    differ from chunk to chunk and need not be the batch size. Rows are gathered into batches in the
    order in which they come, so that the result is that of `minibatch_cka` on all rows at once.
    Memory: one batch of each layer and batch_size^2 numbers per layer.
    Raises InputError for NaN, other layers or numbers of rows in a chunk, fewer than 4 rows.
    Source: Nguyen et al. 2021, eq. 2 and 3.
    """
    whole: BatchSums | None = None
    left: Any = None
    for number, chunk in enumerate(chunks):
        given = _checked(chunk, number, left)
        left = given if left is None else _joined(left, given)
        ready = len(left[0][0]) // batch_size * batch_size
        if ready:
            xs, ys = ([z[:ready] for z in side] for side in left)
            part = _sums(xs, ys, batch_size)
            whole = part if whole is None else whole.plus(part)
            left = tuple([z[ready:] for z in side] for side in left)
    if left is not None and len(left[0][0]) >= MIN_ROWS:
        part = _sums(left[0], left[1], batch_size)
        whole = part if whole is None else whole.plus(part)
    if whole is None:
        rows = 0 if left is None else len(left[0][0])
        raise InputError(f"{rows} rows came; minibatch CKA needs {MIN_ROWS} or more")
    return whole.cka()


def _joined(left, given) -> Any:
    return tuple(
        [torch.cat(pair) for pair in zip(old, new, strict=True)]
        for old, new in zip(left, given, strict=True)
    )


def _checked(chunk, number: int, before) -> Any:
    sides = tuple([torch.as_tensor(z).detach().double() for z in side] for side in chunk)
    shapes = [z.shape for side in sides for z in side]
    if len({shape[0] for shape in shapes}) != 1 or any(len(shape) != 2 for shape in shapes):
        raise InputError(
            f"chunk {number} has shapes {[tuple(shape) for shape in shapes]}; every layer brings "
            "[c, d] features of the same c images"
        )
    widths = [[z.shape[1] for z in side] for side in sides]
    known = widths if before is None else [[z.shape[1] for z in side] for side in before]
    if widths != known:
        raise InputError(f"chunk {number} has layers of widths {widths}; before it were {known}")
    if not all(bool(z.isfinite().all()) for side in sides for z in side):
        raise InputError(f"chunk {number} has NaN or infinite values; drop those rows everywhere")
    return sides


MEASURES: dict[str, Measure] = {
    "cka_minibatch": Measure(
        function=minibatch_cka,
        prepare=prepare_minibatch,
        values=minibatch_values,
        permuted=minibatch_permuted,
        deleted=minibatch_deleted,
        moments=None,
        definition=f"unbiased HSIC averaged over batches of {BATCH} consecutive rows, as a cosine",
        source="Nguyen et al. 2021, eq. 2 and 3",
        cost="n m (D + E) for batches of m rows; a permutation n m E",
        bias="numerator unbiased, the ratio slightly not; 0 in expectation for unrelated features",
        null="near 0 (the denominator changes with the pairing)",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
    ),
}
