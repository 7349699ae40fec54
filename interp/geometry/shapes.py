"""Orthogonal Procrustes similarity: the cosine of the angular shape distance.

    s = max_Q <X Q, Y> = ||X'Y||_*    for centered X, Y of Frobenius norm 1, Q'Q = I,

the sum of the singular values of X'Y. The angular distance arccos(s) is a metric on shapes and the
Procrustes distance is sqrt(2 - 2 s) (Williams et al. 2021, eq. 5 and 6). s is biased upwards:
for independent Gaussian features with n >> d it is about 0.8488 sqrt(d / n).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import center, same_rows
from interp.geometry.measure import Measure

# Norm of the kept rows below this share of the whole: the kept part is constant.
DEGENERATE = 1e-12


def procrustes(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Orthogonal Procrustes similarity, written out.

    x, y: features of the same n >= 4 images; widths may differ. Returns a value in [0, 1]; 1 for
    geometries equal up to rotation, scale and shift. Cost n d e + min(d, e)^3.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Williams et al. 2021, eq. 5.
    """
    same_rows(x, y)
    return float(torch.linalg.svdvals(center(x, "x").T @ center(y, "y")).sum())


def angular_distance(similarity: float) -> float:
    """arccos(s) in radians, in [0, pi / 2]; rounding beyond 1 counts as 1."""
    return math.acos(min(1.0, max(-1.0, similarity)))


class ShapeLayer(NamedTuple):
    """One representation, centered, of norm 1, in at most n - 1 columns."""

    x: Tensor  # [n, r] float64, r = min(d, n - 1)
    norms: Tensor  # [n] squared row norms


def prepare_procrustes(x: Float[Tensor, "n d"], name: str = "x") -> ShapeLayer:
    """Center, scale, and rotate wide features into the n - 1 directions that n rows span."""
    rows = center(x, name)
    n, d = rows.shape
    if d > n - 1:
        # Singular values of X'Y do not see a rotation of the columns of X.
        left, values, _ = torch.linalg.svd(rows, full_matrices=False)
        rows = (left * values)[:, : n - 1]
    return ShapeLayer(rows, rows.square().sum(1))


def procrustes_values(xs: Sequence[ShapeLayer], ys: Sequence[ShapeLayer]) -> Float[Tensor, "a b"]:
    """Similarity of every pair. Cost n D E + a b min(d, e)^3."""
    n = same_rows(xs[0].x, ys[0].x)
    with small_problems():
        return _similarities(xs, ys, np.arange(n), _nuclear)


def procrustes_permuted(
    xs: Sequence[ShapeLayer], ys: Sequence[ShapeLayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """Similarity of every pair after the rows of the second list are reordered: y[orders[b]].

    M = X'Y in float32, then eigenvalues of the smaller of M M' and M'M in float64, more than twice
    as fast as singular values; error 1e-6 against `procrustes_values`. (Float32 eigenvalues would
    add the root of their rounding, 1e-4.) One small eigenproblem per pair and permutation: the
    costly measure.
    """
    same_rows(xs[0].x, ys[0].x)
    first, second = ([p._replace(x=p.x.float()) for p in layers] for layers in (xs, ys))
    with small_problems() as run:
        parts = run(
            lambda order: _similarities(first, second, order, _nuclear_by_eigenvalues), orders
        )
        return torch.stack(list(parts))


@contextmanager
def small_problems() -> Iterator[Callable]:
    """A `map` that runs as many small eigenproblems at a time as torch has threads, each on one.

    Two threads on one matrix of width 100 spend their time waiting for each other: on a loaded
    machine fifty times that of one thread.
    """
    count = torch.get_num_threads()
    if count == 1:
        # Nothing to share: handing over to another thread only waits.
        yield map
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(count)


def _similarities(xs, ys, order: np.ndarray, nuclear: Callable[[Tensor], Tensor]) -> Tensor:
    out = torch.empty(len(xs), len(ys), dtype=torch.float64)
    rows_of, columns_of = _by_width(xs), _by_width(ys)
    for columns in columns_of:
        width = ys[columns[0]].x.shape[1]
        moved = torch.cat([ys[j].x for j in columns], 1)[torch.as_tensor(order)]
        for rows in rows_of:
            left = torch.cat([xs[i].x for i in rows], 1)
            height = xs[rows[0]].x.shape[1]
            blocks = (left.T @ moved).view(len(rows), height, len(columns), width)
            out[torch.tensor(rows)[:, None], torch.tensor(columns)] = nuclear(
                blocks.transpose(1, 2)
            )
    return out


def _by_width(layers: Sequence[ShapeLayer]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for i, p in enumerate(layers):
        groups.setdefault(p.x.shape[1], []).append(i)
    return list(groups.values())


def _nuclear(m: Tensor) -> Tensor:
    return torch.linalg.svdvals(m).sum(-1)


def _nuclear_by_eigenvalues(m: Tensor) -> Tensor:
    m = m.double()
    gram = m @ m.mT if m.shape[-2] <= m.shape[-1] else m.mT @ m
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum(-1)


def procrustes_deleted(
    xs: Sequence[ShapeLayer], ys: Sequence[ShapeLayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """Similarity of every pair with fold f left out, for each f, by downdating X'Y."""
    n = same_rows(xs[0].x, ys[0].x)
    count = int(folds.max()) + 1
    parts_x, parts_y = _fold_sums(xs, folds, count), _fold_sums(ys, folds, count)
    members = [torch.as_tensor(np.flatnonzero(folds == f)) for f in range(count)]
    left = torch.tensor([n - len(rows) for rows in members], dtype=torch.float64)

    def one_row(i: int) -> Tensor:
        p, a = xs[i], parts_x[i]
        out = torch.empty(count, len(ys), dtype=torch.float64)
        for j, (q, b) in enumerate(zip(ys, parts_y, strict=True)):
            inside = torch.stack([p.x[rows].T @ q.x[rows] for rows in members])
            shift = a.sums[:, :, None] * b.sums[:, None, :] / left[:, None, None]
            kept = p.x.T @ q.x - inside - shift
            out[:, j] = _nuclear_by_eigenvalues(kept) / (a.norms * b.norms)
        return out

    with small_problems() as run:
        return torch.stack(list(run(one_row, range(len(xs)))), 1)


class _FoldSums(NamedTuple):
    sums: Tensor  # [f, r] sum of the rows of each fold
    norms: Tensor  # [f] Frobenius norm of the kept, re-centered rows


def _fold_sums(layers: Sequence[ShapeLayer], folds: np.ndarray, count: int) -> list[_FoldSums]:
    index = torch.as_tensor(folds)
    sizes = torch.bincount(index, minlength=count).double()
    out = []
    for p in layers:
        sums = torch.zeros(count, p.x.shape[1], dtype=torch.float64).index_add_(0, index, p.x)
        inside = torch.zeros(count, dtype=torch.float64).index_add_(0, index, p.norms)
        squared = 1 - inside - sums.square().sum(1) / (len(folds) - sizes)
        if bool((squared <= DEGENERATE).any()):
            f = int(squared.argmin())
            raise InputError(f"without fold {f} a representation is constant: use fewer folds")
        out.append(_FoldSums(sums, squared.sqrt()))
    return out


MEASURES: dict[str, Measure] = {
    "procrustes": Measure(
        function=procrustes,
        prepare=prepare_procrustes,
        values=procrustes_values,
        permuted=procrustes_permuted,
        deleted=procrustes_deleted,
        moments=None,
        definition="nuclear norm of X'Y for centered features of norm 1; arccos is a metric",
        source="Williams et al. 2021, eq. 5",
        cost="n D E + a b min(d, e)^3, for a permutation too",
        bias="upwards: about 0.8488 sqrt(d / n) for independent Gaussian features, n >> d",
        null="not known; 0.8488 sqrt(d / n) for Gaussian features, n >> d",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
    ),
}
