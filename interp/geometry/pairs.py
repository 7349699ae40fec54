"""Symmetric matrices over pairs of rows: their cosines, relabeled, and with folds left out.

RSA, distance correlation and the whitened cosine compare an n x n matrix A of X with a B of Y by

    <A, B> = sum_ij A_ij B_ij = 2 sum_{i<j} A_ij B_ij + sum_i A_ii B_ii

after both were projected and scaled to norm 1; they differ in the projection alone:

    mean     A_ij minus the mean over i != j, zero diagonal: Pearson correlation of the entries
    ranks    the same of their ranks: Spearman correlation
    none     zero diagonal: cosine of the entries
    double   H A H with H = I - 11'/n: V statistics, whitened cosine
    u        zero diagonal and zero row sums (Szekely and Rizzo 2014, eq. 2.4): U statistics

A new pairing relabels the rows and columns of B, which no projection notices, so that each is taken
once. Leaving rows out cuts A down; projecting what is left gives what the kept rows alone give.
Entries i < j are stored row by row: n (n - 1) / 2 numbers, hence n <= 20,000.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import as_rows, center, same_rows
from interp.geometry.search import EQUAL

# 1.6 GB of float64 per layer.
MAX_ROWS = 20_000
# Pairs in one slab: 32 MB in float64.
SLAB = 1 << 22
# Permutations relabel square float32 tables of as many layers at a time as fit.
TABLE_BYTES = 1 << 30
# A projected matrix below this share of the raw one is rounding.
DEGENERATE = 1e-10


class Projected(NamedTuple):
    """A matrix of norm 1."""

    off: Tensor  # [n (n - 1) / 2] float64, entries i < j row by row
    diagonal: Tensor | None  # [n]; None: zeros


Project = Callable[[Tensor, int], Projected]


class PairLayer(NamedTuple):
    """One representation as a projected matrix over pairs of rows."""

    raw: Tensor  # [n (n - 1) / 2] what `project` takes; cut down when rows are left out
    off: Tensor  # [n (n - 1) / 2]
    diagonal: Tensor | None
    sums: Tensor  # [n] row sums of `off`
    project: Project


def make_layer(raw: Tensor, n: int, project: Project, name: str = "x") -> PairLayer:
    """Project a matrix, given by its entries i < j. Raises InputError where nothing is left."""
    try:
        off, diagonal = project(raw, n)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    # Pearson needs nothing but the projected entries.
    kept = off if project is project_mean else raw
    return PairLayer(kept, off, diagonal, row_sums(off, n), project)


def check_rows(n: int, name: str = "x") -> int:
    """n itself. Raises InputError above MAX_ROWS."""
    if n > MAX_ROWS:
        gigabytes = n * (n - 1) / 2 * 8 / 1e9
        raise InputError(
            f"{name} has n = {n} rows: their n (n - 1) / 2 distances take {gigabytes:.1f} GB per "
            f"layer; measures over pairs of rows take n <= {MAX_ROWS}: use a subset, or CKA"
        )
    return n


def distances(
    x: Float[Tensor, "n d"], metric: str = "euclidean", name: str = "x"
) -> Float[Tensor, " pairs"]:
    """Dissimilarities of rows i < j, row by row.

    metric: "euclidean" or "squared" of the centered rows of norm 1; "correlation", one minus the
    Pearson correlation of two rows over the columns. Rows equal up to rounding are at 0.
    Cost n^2 d / 2. Raises InputError for NaN, n < 4, n > 20,000, a constant representation, and
    under "correlation" for a row that is constant.
    """
    rows = _standardized(x, name) if metric == "correlation" else center(x, name)
    n = check_rows(rows.shape[0], name)
    norms = rows.square().sum(1)
    parts, step = [], max(1, SLAB // n)
    for start in range(0, n, step):
        part = slice(start, start + step)
        both = norms[part, None] + norms[None, start:]
        squared = both - 2 * (rows[part] @ rows[start:].T)
        squared[squared <= EQUAL * both] = 0
        parts.append(squared[torch.ones_like(squared, dtype=torch.bool).triu(1)])
    out = torch.cat(parts)
    # Rows of norm 1 are at the squared distance 2 (1 - r).
    return {"euclidean": out.sqrt, "squared": out.clone, "correlation": lambda: out / 2}[metric]()


def _standardized(x: Float[Tensor, "n d"], name: str) -> Tensor:
    center(x, name)
    rows = as_rows(x, name)
    if rows.shape[1] < 2:
        raise InputError(f"{name} has d = 1 column: rows have no correlation; d >= 2 is needed")
    peaks = rows.abs().amax(1, keepdim=True)
    rows = rows / peaks.where(peaks > 0, 1)
    rows = rows - rows.mean(1, keepdim=True)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # Scaled to a peak of 1, what a constant row leaves is rounding.
    constant = (norms <= EQUAL * math.sqrt(rows.shape[1])).flatten()
    if bool(constant.any()):
        raise InputError(
            f"{name}: {int(constant.sum())} rows are constant over their {rows.shape[1]} columns, "
            f"the first is row {int(constant.nonzero()[0])}: they have no correlation; leave them "
            "out or use euclidean"
        )
    return rows / norms


def blocks(n: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Runs of the stored pairs: their slice, and their rows i and columns j."""
    step, first = max(1, SLAB // n), 0
    for start in range(0, n - 1, step):
        counts = n - 1 - torch.arange(start, min(n - 1, start + step))
        rows = torch.repeat_interleave(torch.arange(start, start + len(counts)), counts)
        ends = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        cols = torch.arange(len(rows)) - ends + rows + 1
        yield slice(first, first + len(rows)), rows, cols
        first += len(rows)


def row_sums(off: Tensor, n: int) -> Float[Tensor, " n"]:
    """sum_j A_ij over j != i."""
    out = torch.zeros(n, dtype=torch.float64)
    for part, rows, cols in blocks(n):
        out.index_add_(0, rows, off[part]).index_add_(0, cols, off[part])
    return out


def project_mean(raw: Tensor, n: int) -> Projected:
    """Minus the mean over pairs."""
    return _unit(raw - raw.mean(), raw, None)


def project_none(raw: Tensor, n: int) -> Projected:
    """As it is."""
    return _unit(raw.clone(), raw, None)


def project_ranks(raw: Tensor, n: int) -> Projected:
    """Ranks minus their mean; tied entries share their mean rank. raw: codes of `order_codes`."""
    return project_mean(mean_ranks(raw), n)


def project_double(raw: Tensor, n: int) -> Projected:
    """Double-centered, with its diagonal: that of `raw` is zero."""
    means = row_sums(raw, n) / n
    return _unit(_without(raw, means, means.mean(), n), raw, means.mean() - 2 * means)


def project_u(raw: Tensor, n: int) -> Projected:
    """U-centered: zero diagonal, zero row sums."""
    sums = row_sums(raw, n)
    return _unit(_without(raw, sums / (n - 2), sums.sum() / ((n - 1) * (n - 2)), n), raw, None)


def _without(raw: Tensor, terms: Tensor, constant: Tensor, n: int) -> Tensor:
    out = raw.clone()
    for part, rows, cols in blocks(n):
        out[part] += constant - terms[rows] - terms[cols]
    return out


def _unit(off: Tensor, raw: Tensor, diagonal: Tensor | None) -> Projected:
    squared = 2 * (off @ off)
    if diagonal is not None:
        squared += diagonal @ diagonal
    norm = squared.sqrt()
    if bool(norm <= DEGENERATE * raw.double().norm()):
        raise InputError(
            "nothing is left of its distances after centering, as when all rows are equally far "
            "from each other: they have no structure to compare; leave this point out"
        )
    return Projected(off.div_(norm), None if diagonal is None else diagonal / norm)


def order_codes(values: Float[Tensor, " pairs"]) -> Int[Tensor, " pairs"]:
    """The place of each value among the distinct values, from 0.

    Compared in float32, so that equal distances tie instead of being ordered by rounding.
    """
    return torch.unique(values.float(), return_inverse=True)[1].int()


def mean_ranks(codes: Int[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """Ranks from 1 of what the codes order; ties share their mean. Linear in the pairs."""
    counts = torch.bincount(codes)
    return (counts.cumsum(0).double() - (counts.double() - 1) / 2)[codes]


def pair_values(xs: Sequence[PairLayer], ys: Sequence[PairLayer]) -> Float[Tensor, "a b"]:
    """<A, B> of every pair of layers. Cost n^2 a b."""
    n = same_rows(xs[0].sums, ys[0].sums)
    out = torch.zeros(len(xs), len(ys), dtype=torch.float64)
    for start in range(0, n * (n - 1) // 2, SLAB):
        part = slice(start, start + SLAB)
        first, second = (torch.stack([p.off[part] for p in layers]) for layers in (xs, ys))
        out += 2 * (first @ second.T)
    if xs[0].diagonal is not None:
        out += _diagonals(xs) @ _diagonals(ys).T
    return out


def _diagonals(layers: Sequence[PairLayer]) -> Float[Tensor, "layers n"]:
    return torch.stack([p.diagonal for p in layers if p.diagonal is not None])


def pair_permuted(
    xs: Sequence[PairLayer], ys: Sequence[PairLayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """<A, B> of every pair after the rows of the second list are reordered: y[orders[b]].

    Relabels stored entries, in float32; error 1e-6 against `pair_values`. Cost n^2 a b each.
    """
    n = same_rows(xs[0].sums, ys[0].sums)
    if len(xs) < len(ys):
        return pair_permuted(ys, xs, np.argsort(orders, axis=1)).transpose(1, 2)
    out = torch.zeros(len(orders), len(xs), len(ys), dtype=torch.float64)
    group = max(1, TABLE_BYTES // (4 * n * n))
    for start in range(0, len(ys), group):
        moved = ys[start : start + group]
        _add_relabeled(out[:, :, start : start + group], xs, moved, orders)
    if xs[0].diagonal is not None:
        fixed, diagonals = _diagonals(xs), _diagonals(ys)
        for b, order in enumerate(torch.as_tensor(orders)):
            out[b] += fixed @ diagonals[:, order].T
    return out


def _add_relabeled(out: Tensor, xs, ys, orders: np.ndarray) -> None:
    n = len(orders[0])
    # [n * n, layers]: one gathered row serves all layers.
    table = torch.stack([as_square(q.off.float(), n).flatten() for q in ys], 1).numpy()
    for part, rows, cols in blocks(n):
        fixed = torch.stack([p.off[part].float() for p in xs])
        i, j = rows.numpy(), cols.numpy()
        for b, order in enumerate(orders):
            gathered = np.take(table, order[i] * n + order[j], axis=0)
            out[b] += 2 * (fixed @ torch.from_numpy(gathered)).double()


def as_square(off: Tensor, n: int) -> Tensor:
    """[n, n] symmetric matrix of stored entries, zero diagonal."""
    out = torch.zeros(n, n, dtype=off.dtype)
    for part, rows, cols in blocks(n):
        out[rows, cols] = off[part]
        out[cols, rows] = off[part]
    return out


def pair_deleted(
    xs: Sequence[PairLayer], ys: Sequence[PairLayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """<A, B> of every pair with fold f left out, for each f. Cost n^2 (a + b + a b) per fold."""
    return torch.stack([pair_values(first, second) for first, second in cut_folds(xs, ys, folds)])


def cut_folds(
    xs: Sequence[PairLayer], ys: Sequence[PairLayer], folds: Int[np.ndarray, " n"]
) -> Iterator[tuple[list[PairLayer], list[PairLayer]]]:
    """The layers of the rows outside each fold. Raises InputError where fewer than 4 are left."""
    n = same_rows(xs[0].sums, ys[0].sums)
    for f in range(int(folds.max()) + 1):
        alive = torch.as_tensor(folds != f)
        count = int(alive.sum())
        if count < 4:
            raise InputError(f"fold {f} leaves {count} of {n} rows: use more folds")
        kept = torch.cat([alive[rows] & alive[cols] for _, rows, cols in blocks(n)])
        name = f"without fold {f}"
        first, second = (
            [make_layer(p.raw[kept], count, p.project, name) for p in layers] for layers in (xs, ys)
        )
        yield first, second


def pair_moments(
    xs: Sequence[PairLayer], ys: Sequence[PairLayer]
) -> tuple[Float[Tensor, "a b"], Float[Tensor, "a b"]]:
    """Exact mean and sd of <A, B> over all n! pairings, for zero diagonals (Mantel 1967).

    Two ordered pairs of rows share both, one or no index; each case is a mean over its tuples.
    """
    n = same_rows(xs[0].sums, ys[0].sums)
    counts = torch.tensor([1, n - 2, (n - 2) * (n - 3)], dtype=torch.float64) * n * (n - 1)
    ways = torch.tensor([2.0, 4.0, 1.0], dtype=torch.float64)
    sums_x, sums_y = (torch.stack([_shared_sums(p) for p in layers]) for layers in (xs, ys))
    second = (sums_x * ways / counts) @ sums_y.T
    totals_x, totals_y = (torch.stack([p.sums.sum() for p in part]) for part in (xs, ys))
    mean = totals_x[:, None] * totals_y[None, :] / (n * (n - 1))
    return mean, (second - mean.square()).clamp(min=0).sqrt()


def _shared_sums(layer: PairLayer) -> Float[Tensor, "3"]:
    """sum A_ij^2, sum A_ij A_ik and sum A_ij A_kl over distinct indices."""
    same = 2 * (layer.off @ layer.off)
    one = layer.sums.square().sum() - same
    return torch.stack([same, one, layer.sums.sum().square() - 2 * same - 4 * one])
