"""Which latents of two SAEs go together: found on one half of the images, scored on the other.

With a, b the activations of two latents, centered within each position over the images,

    r = sum a b / sqrt(sum a^2 sum b^2)

Arrays only; `match_features` reads stores and writes the record.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interp.alignment.matching.latents import Latents
from interp.errors import InputError
from interp.stats import permutations

METHODS = ("best", "mutual", "hungarian", "soft")
# One-to-one and soft matches need the whole matrix of correlations; a side of it, as elsewhere.
LARGEST = 20_000
# Correlations held at once by best and mutual: 256 MB in float32.
_BLOCK = 1 << 26
# Share of entries, multiplied over both sides, above which a dense product is faster than a sparse
# one: measured, 2 ns per sparse and 0.02 ns per dense multiplication on a CPU core.
_DENSE = 1 / 100


class Pairs(NamedTuple):
    """Matched columns, at most one line per first column but for soft."""

    first: np.ndarray
    """[q] int64."""
    second: np.ndarray
    """[q] int64."""
    weight: np.ndarray
    """[q] float64; of one first column they sum to 1."""


@dataclass(frozen=True)
class Columns:
    """Some latents on some images, each column of norm 1 about its mean at each position."""

    x: Any
    """[n p, m]: a float32 tensor, centered; or a CSR matrix, not centered."""
    center: np.ndarray
    """[p, m] means to take off; of the dense form 0."""
    positions: int

    @property
    def shape(self) -> tuple[int, int]:
        """Images and columns."""
        return self.x.shape[0] // self.positions, self.x.shape[1]

    def permuted(self, order: np.ndarray) -> "Columns":
        """Image order[i] goes to place i, with all its positions."""
        lines = order
        if self.positions > 1:
            lines = (order[:, None] * self.positions + np.arange(self.positions)).ravel()
        index = torch.from_numpy(lines) if isinstance(self.x, Tensor) else lines
        return Columns(self.x[index], self.center, self.positions)

    def blocks(self, other: "Columns", size: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Correlations with another side's columns, [<= size, m'] at a time, and their start."""
        step = size or max(1, _BLOCK // other.shape[1])
        for start in range(0, self.shape[1], step):
            part = slice(start, start + step)
            if isinstance(self.x, Tensor):
                yield start, (self.x[:, part].T @ other.x).numpy()
                continue
            product = (self.x[:, part].T @ other.x).toarray()
            product -= self.shape[0] * (self.center[:, part].T @ other.center)
            yield start, product

    def scores(self, other: "Columns", pairs: Pairs) -> np.ndarray:
        """Correlation of each pair: [q] float64."""
        if isinstance(self.x, Tensor):
            a, b = self.x[:, pairs.first], other.x[:, pairs.second]
            return (a.double() * b.double()).sum(0).numpy()
        a, b = self.x[:, pairs.first], other.x[:, pairs.second]
        product = np.asarray(a.multiply(b).sum(0)).ravel()
        centers = self.center[:, pairs.first] * other.center[:, pairs.second]
        return product - self.shape[0] * centers.sum(0)


def make_columns(one: Latents, images: np.ndarray, latents: np.ndarray, dense: bool) -> Columns:
    """Columns of some latents on some images ([n] and [m] numbers)."""
    from scipy import sparse

    p = one.positions
    lines = (images[:, None] * p + np.arange(p)).ravel()
    x = one.x[lines][:, latents].astype(np.float64)
    n = len(images)
    place = sparse.csr_matrix((np.full(n * p, 1 / n), (np.tile(np.arange(p), n), np.arange(n * p))))
    center = (place @ x).toarray()
    square = np.asarray(x.multiply(x).sum(0)).ravel() - n * np.square(center).sum(0)
    # Columns that do not vary are left out before: this only keeps a fold without them finite.
    norm = np.sqrt(np.maximum(square, np.finfo(np.float64).tiny))
    if not dense:
        return Columns(sparse.csr_matrix(x @ sparse.diags(1 / norm)), center / norm, p)
    z = (x.toarray().reshape(n, p, -1) - center) / norm
    return Columns(torch.from_numpy(z.reshape(n * p, -1)).float(), np.zeros_like(center), p)


def is_dense(*sides: Latents) -> bool:
    """Whether a dense product of the sides is the faster one."""
    return float(np.prod([one.x.nnz / max(1, np.prod(one.x.shape)) for one in sides])) > _DENSE


def counted(one: Latents, halves: np.ndarray, least: int) -> np.ndarray:
    """Latents [m'] that are active on `least` images of each half and vary there."""
    from scipy import sparse

    n, p = len(one.ids), one.positions
    lines = np.repeat(np.arange(n), p)
    pool = sparse.csr_matrix((np.ones(n * p), (lines, np.arange(n * p))))
    active = (pool @ one.x) > 0
    keep = np.ones(one.n_latents, dtype=bool)
    for half in (0, 1):
        images = np.flatnonzero(halves == half)
        keep &= np.asarray(active[images].sum(0)).ravel() >= least
        if keep.any():
            live = np.flatnonzero(keep)
            keep[live] = _varies(one, images, live)
    if not keep.any():
        raise InputError(
            f"no latent of {one.name} is active on {least} images of each half (of "
            f"{(halves == 0).sum()} and {(halves == 1).sum()}): use more images, or fewer by "
            "min_images"
        )
    return np.flatnonzero(keep)


def _varies(one: Latents, images: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """[m] bool: not equal on all images at every position, up to rounding."""
    p = one.positions
    x = one.x[(images[:, None] * p + np.arange(p)).ravel()][:, latents].astype(np.float64)
    total = np.asarray(x.multiply(x).sum(0)).ravel()
    sums = np.stack([np.asarray(x[k::p].sum(0)).ravel() for k in range(p)])
    spread = total - np.square(sums).sum(0) / len(images)
    return spread > 1e-9 * total


def find_pairs(
    blocks: Iterator[tuple[int, np.ndarray]], shape: tuple[int, int], method: str
) -> Pairs:
    """Match rows and columns of a similarity [a, b], given in blocks of rows.

    best: each row takes its largest column. mutual: both take each other. hungarian: one to one,
    the largest sum (min(a, b) pairs). soft: the transport of `interp.geometry.soft_matching`, whose
    rows are weights; exact, and slow where a and b differ. Ties go to the lower number; pairs are
    kept whatever their sign.
    Raises InputError for hungarian and soft beyond 20,000 a side, and for an unknown method.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is one of {', '.join(METHODS)}")
    if method in ("best", "mutual"):
        return _best(blocks, shape, method == "mutual")
    if max(shape) > LARGEST:
        raise InputError(
            f"{method} needs all {shape[0]} x {shape[1]} correlations at once, at most {LARGEST} a "
            'side: use "best" or "mutual", or count fewer latents by min_images'
        )
    whole = np.concatenate([block for _, block in blocks])
    return _one_to_one(whole) if method == "hungarian" else _soft(whole)


def _best(blocks: Iterator[tuple[int, np.ndarray]], shape: tuple[int, int], mutual: bool) -> Pairs:
    second = np.zeros(shape[0], dtype=np.int64)
    above, back = np.full(shape[1], -np.inf), np.full(shape[1], -1, dtype=np.int64)
    for start, block in blocks:
        second[start : start + len(block)] = block.argmax(1)
        if mutual:
            rows = block.argmax(0)
            value = block[rows, np.arange(shape[1])]
            better = value > above
            above[better], back[better] = value[better], start + rows[better]
    first = np.arange(shape[0])
    if mutual:
        first = first[back[second] == first]
    return Pairs(first, second[first], np.ones(len(first)))


def _one_to_one(similarity: np.ndarray) -> Pairs:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return Pairs(rows.astype(np.int64), columns.astype(np.int64), np.ones(len(rows)))


def _soft(similarity: np.ndarray) -> Pairs:
    from interp.geometry.soft_matching import transport

    plan = transport(-similarity.astype(np.float64)).plan
    first, second = np.nonzero(plan > 1e-12 * plan.max())
    weight = plan[first, second]
    return Pairs(first, second, weight / np.bincount(first, weight)[first])


class Halves(NamedTuple):
    """Numbers of the images on which matches are found, and on which they are scored."""

    found: np.ndarray
    scored: np.ndarray


class Sides(NamedTuple):
    """Both SAEs' counted latents on both halves."""

    latents: tuple[np.ndarray, np.ndarray]
    """Numbers of the counted latents of each side."""
    found: tuple[Columns, Columns]
    scored: tuple[Columns, Columns]
    cosine: np.ndarray | None
    """[a, b] of the decoders, to match by instead of correlation."""

    @property
    def shape(self) -> tuple[int, int]:
        """Counted latents."""
        return len(self.latents[0]), len(self.latents[1])


def make_sides(
    first: Latents, second: Latents, halves: Halves, least: int, by: str = "activations"
) -> Sides:
    """Prepare a pair of SAEs, lined up on the same images."""
    which = np.zeros(len(first.ids), dtype=np.int64)
    which[halves.scored] = 1
    latents = counted(first, which, least), counted(second, which, least)
    dense = is_dense(first, second)
    pairs = tuple(zip((first, second), latents, strict=True))
    found, scored = (
        tuple(make_columns(one, images, ids, dense) for one, ids in pairs) for images in halves
    )
    cosine = None
    if by == "decoder":
        assert first.dictionary is not None
        assert second.dictionary is not None
        cosine = cosines(first.dictionary[latents[0]], second.dictionary[latents[1]])
    return Sides(latents, (found[0], found[1]), (scored[0], scored[1]), cosine)


def cosines(first: Tensor, second: Tensor) -> np.ndarray:
    """Cosine of every pair of decoder rows, with its sign: codes are never negative."""
    sides = [F.normalize(side.double(), dim=1) for side in (first, second)]
    return (sides[0] @ sides[1].T).float().numpy()


class Match(NamedTuple):
    """Pairs found on one half and their correlations on both."""

    pairs: Pairs
    r_found: np.ndarray
    """[q] on the half on which they were found."""
    r: np.ndarray
    """[q] on the other half."""

    def per_first(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Matched first columns, ascending, and the mean of a value over each one's partners."""
        ids = np.unique(self.pairs.first)
        weighted = np.bincount(self.pairs.first, self.pairs.weight * values)
        return ids, weighted[ids]


def match_sides(sides: Sides, method: str, orders: tuple | None = None) -> Match:
    """Find pairs on the first half and score them on the second; orders permute the second SAE."""
    (a, b), (c, d) = sides.found, sides.scored
    if orders is not None:
        b, d = b.permuted(orders[0]), d.permuted(orders[1])
    blocks = a.blocks(b) if sides.cosine is None else iter([(0, sides.cosine)])
    pairs = find_pairs(blocks, sides.shape, method)
    found = a.scores(b, pairs) if orders is None else np.zeros(0)
    return Match(pairs, found, c.scores(d, pairs))


class Null(NamedTuple):
    """Held-out correlations of matches found and scored under permuted pairing."""

    largest: np.ndarray
    """[p] largest over the latents of one permutation."""
    mean: np.ndarray
    """[p] mean over its matched latents; 0 where none was matched."""


def match_null(
    sides: Sides,
    method: str,
    orders: tuple[np.ndarray, np.ndarray],
    progress: Callable[[int], None] | None = None,
) -> Null:
    """Repeat the whole matching for every permutation: [p, n] orders of each half."""
    largest, mean = np.zeros(len(orders[0])), np.zeros(len(orders[0]))
    for k, both in enumerate(zip(*orders, strict=True)):
        match = match_sides(sides, method, both)
        _, r = match.per_first(match.r)
        if len(r):
            largest[k], mean[k] = r.max(), r.mean()
        if progress:
            progress(k)
    return Null(largest, mean)


def make_orders(
    one: Latents, halves: Halves, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Permutations of one SAE's images inside each half, within strata, clusters together."""

    def draw(name: str, images: np.ndarray) -> np.ndarray:
        strata, clusters = (
            [labels[i] for i in images] if labels else None for labels in (one.strata, one.clusters)
        )
        model = f"{one.model} {name}"
        return permutations(
            len(images), count, seed=seed, model=model, strata=strata, clusters=clusters
        )

    return draw("found", halves.found), draw("scored", halves.scored)


def fold_scores(
    sides: tuple[Latents, Latents], match: tuple[np.ndarray, np.ndarray], folds: np.ndarray
) -> np.ndarray:
    """Correlation of each pair with one fold of the images left out at a time: [f, q] float64.

    match: latents [q] of both sides. folds: [n] fold of each image, -1 for images that are in none
    and count nowhere.
    """
    from scipy import sparse

    p, f = sides[0].positions, int(folds.max()) + 1
    rows = np.flatnonzero(np.repeat(folds, p) >= 0)
    fold, place = np.repeat(folds, p)[rows], np.tile(np.arange(p), len(folds))[rows]
    ones, at = np.ones(len(rows)), np.arange(len(rows))
    whole = sparse.csr_matrix((ones, (fold, at)), shape=(f, len(rows)))
    cells = sparse.csr_matrix((ones, (fold * p + place, at)), shape=(f * p, len(rows)))
    count = np.bincount(folds[folds >= 0], minlength=f)
    left = (count.sum() - count)[:, None]
    x, y = (one.x[rows][:, ids].astype(np.float64) for one, ids in zip(sides, match, strict=True))

    def without(sums: np.ndarray) -> np.ndarray:
        return sums.sum(0) - sums

    means = [without((cells @ z).toarray().reshape(f, p, -1)) for z in (x, y)]
    moments = []
    for i, j in ((0, 1), (0, 0), (1, 1)):
        product = without((whole @ (x, y)[i].multiply((x, y)[j])).toarray())
        moments.append(product - (means[i] * means[j]).sum(1) / left)
    scale = np.sqrt(np.maximum(moments[1], 0) * np.maximum(moments[2], 0))
    return np.divide(moments[0], scale, out=np.zeros_like(scale), where=scale > 0)
