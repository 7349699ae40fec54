"""Measures, null moments and jackknife from the sums of one pass (`interp.geometry.sums`).

Values equal the in-memory measures to about 2e-16 over the smallest share of the variance that a
whitened direction has (squaring loses half of the digits): 1e-8 for shares above 2e-8. Directions
with less than SHARE of the variance count as absent; in memory the bound is 4e-15.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.geometry.canonical_gulp import RIDGE
from interp.geometry.canonical_traces import centered_moments
from interp.geometry.cka import DEGENERATE
from interp.geometry.sums import Side, Totals, fold, pooled, subtract

# Shares of the variance below this are rounding of the Gram matrix, 1e-15, or next to it.
SHARE = 1e-12


class Own(NamedTuple):
    """One layer, centered, its variance scaled to 1."""

    trace: Tensor  # sum r = tr X'X before scaling
    energy: Tensor  # ||X'X||^2
    rows: Tensor  # sum r^2
    shares: Tensor  # [d] eigenvalues of X'X, smallest first; they sum to 1
    vectors: Tensor  # [d, d]

    @property
    def rank(self) -> int:
        """Directions with variance."""
        return int((self.shares > SHARE).sum())

    def scaled(self, power: Callable[[Tensor], Tensor]) -> Tensor:
        """Directions with variance, each times a function of its share: [d, r]."""
        kept = self.shares > SHARE
        return self.vectors[:, kept] * power(self.shares[kept])


class Pair(NamedTuple):
    """What one pair of layers adds, both scaled to variance 1."""

    cross: Tensor  # [d, e] centered X'Y
    rows: Tensor  # sum r s
    n: int


class Sample(NamedTuple):
    """All layers of a set of rows."""

    sums: Totals  # of one fold
    xs: list[Own]
    ys: list[Own]

    def pair(self, i: int, j: int) -> Pair:
        """Layers i of x and j of y; not kept, so that the crosses are in memory once."""
        return _pair(self.sums, (self.xs[i], self.ys[j]), i, j)


def sum_values(totals: Totals, name: str) -> Float[Tensor, "a b"]:
    """A measure of every pair of layers, from the sums of one pass.

    name: "cka", "cka_biased", "cca", "cca_r2", "r2" (y from x), "gulp" or "procrustes".
    Raises InputError for another name, and where a layer is constant.
    """
    return _values(_sample(pooled(totals), name), name)


def sum_deleted(totals: Totals, name: str) -> Float[Tensor, "f a b"]:
    """The same with fold f left out, for each f: what `interp.stats.jackknife` takes.

    Raises InputError as `sum_values`, for fewer than two folds and for a fold without rows.
    """
    count = len(totals.counts)
    empty = (totals.counts == 0).nonzero().flatten().tolist()
    if count < 2 or empty:
        raise InputError(
            f"{count} folds, of which {empty} have no rows: the jackknife takes at least two, all "
            "with rows"
        )
    total = pooled(totals)
    parts = (subtract(total, fold(totals, f)) for f in range(count))
    return torch.stack([_values(_sample(part, name), name) for part in parts])


def sum_moments(totals: Totals, name: str) -> tuple[Tensor, Tensor | None]:
    """Exact mean [a, b] and sd [a, b] of a measure over all n! pairings of the rows.

    name: "cka" (0 and sqrt(2 / (n (n - 3)))), "cka_biased", and with sd None, because it takes the
    leverage of every row, "cca_r2" (max(r_x, r_y) / (n - 1)) and "r2" (r_x / (n - 1)).
    Raises InputError for measures whose null is not known.
    """
    sample = _sample(pooled(totals), name)
    n, shape = sample.sums.n, (len(sample.xs), len(sample.ys))
    if name == "cka":
        sd = (2 / (n * (n - 3))) ** 0.5
        return torch.zeros(shape, dtype=torch.float64), torch.full(shape, sd, dtype=torch.float64)
    if name == "cka_biased":
        x, y = (
            torch.stack(
                [torch.stack([one.energy.new_ones(()), one.energy, one.rows]) for one in part]
            )
            for part in (sample.xs, sample.ys)
        )
        scale = (x[:, None, 1] * y[None, :, 1]).sqrt()
        mean, sd = centered_moments(x[:, None], y[None, :], n)
        return mean / scale, sd / scale
    if name not in ("cca_r2", "r2"):
        raise InputError(
            f"the null of {name!r} is not known; of cka, cka_biased, cca_r2 and r2 it is"
        )
    ranks = [
        [max(p.rank, q.rank) if name == "cca_r2" else p.rank for q in sample.ys] for p in sample.xs
    ]
    return torch.tensor(ranks, dtype=torch.float64) / (n - 1), None


def participation_ratios(totals: Totals) -> tuple[Float[Tensor, " a"], Float[Tensor, " b"]]:
    """(sum lambda)^2 / sum lambda^2 of the covariance eigenvalues of every layer of x and of y."""
    sample = _sample(pooled(totals), "cka_biased")
    x, y = (1 / torch.stack([one.energy for one in part]) for part in (sample.xs, sample.ys))
    return x, y


def _sample(one: Totals, name: str) -> Sample:
    """Centered and scaled layers; eigenvectors for the measures that whiten."""
    n, whiten = one.n, name in ("cca", "cca_r2", "r2", "gulp")
    xs, ys = (
        [_own(side, i, n, whiten) for i in range(len(side.widths))] for side in (one.x, one.y)
    )
    return Sample(one, xs, ys)


def _own(side: Side, layer: int, n: int, whiten: bool) -> Own:
    at = side.columns(layer)
    mean = side.linear[0, at] / n
    gram = side.grams[layer][0] - n * torch.outer(mean, mean)
    trace, size = gram.trace(), mean @ mean
    if not bool(trace > SHARE * side.norms[0, layer]):
        raise InputError(
            f"layer {layer} of width {side.widths[layer]} is constant in these {n} rows, or varies "
            "by less than 1e-6 of its distance from the first chunk: shuffle the chunks"
        )
    norms, squares, weighted = side.norms[0, layer], side.squares[0, layer], side.weighted[0, at]
    raw = side.grams[layer][0]
    rows = (
        squares - 4 * mean @ weighted + 4 * mean @ raw @ mean + 2 * size * norms - 3 * n * size**2
    )
    shares = vectors = torch.empty(0, dtype=torch.float64)
    if whiten:
        shares, vectors = torch.linalg.eigh(gram / trace)
    return Own(trace, (gram / trace).square().sum(), rows / trace**2, shares, vectors)


def _pair(one: Totals, own: tuple[Own, Own], i: int, j: int) -> Pair:
    n, at, to = one.n, one.x.columns(i), one.y.columns(j)
    m, k = one.x.linear[0, at] / n, one.y.linear[0, to] / n
    raw, mm, kk = one.cross[0, at, to], m @ m, k @ k
    rows = one.norms[0, i, j] - 2 * k @ one.y_by_x[0, i, to] - 2 * m @ one.x_by_y[0, j, at]
    rows = rows + 4 * m @ raw @ k + kk * one.x.norms[0, i] + mm * one.y.norms[0, j]
    rows = rows - 3 * n * mm * kk
    scale = own[0].trace * own[1].trace
    return Pair((raw - n * torch.outer(m, k)) / scale.sqrt(), rows / scale, n)


def _values(sample: Sample, name: str) -> Tensor:
    measure = FROM_SUMS.get(name)
    if measure is None:
        raise InputError(f"{name!r} is no function of these sums; {', '.join(FROM_SUMS)} are")
    values = [
        [measure(sample.pair(i, j), p, q) for j, q in enumerate(sample.ys)]
        for i, p in enumerate(sample.xs)
    ]
    return torch.stack([torch.stack(row) for row in values])


def _debiased(z: Tensor, rows: Tensor, n: int) -> Tensor:
    return z - n / (n - 2) * rows + 1 / ((n - 1) * (n - 2))


def _cka(pair: Pair, p: Own, q: Own) -> Tensor:
    own = [_debiased(one.energy, one.rows, pair.n) for one in (p, q)]
    for h, one in zip(own, (p, q), strict=True):
        if bool(h <= DEGENERATE * one.energy):
            raise InputError("debiased CKA is undefined where all rows but one are equal")
    return _debiased(pair.cross.square().sum(), pair.rows, pair.n) / (own[0] * own[1]).sqrt()


def _cka_biased(pair: Pair, p: Own, q: Own) -> Tensor:
    return pair.cross.square().sum() / (p.energy * q.energy).sqrt()


def _whitened(pair: Pair, p: Own, q: Own) -> Tensor:
    return p.scaled(torch.rsqrt).T @ pair.cross @ q.scaled(torch.rsqrt)


def _cca(pair: Pair, p: Own, q: Own) -> Tensor:
    return torch.linalg.svdvals(_whitened(pair, p, q)).clamp(max=1).mean()


def _cca_r2(pair: Pair, p: Own, q: Own) -> Tensor:
    return _whitened(pair, p, q).square().sum() / min(p.rank, q.rank)


def _r2(pair: Pair, p: Own, q: Own) -> Tensor:
    return (p.scaled(torch.rsqrt).T @ pair.cross).square().sum()


def _gulp(pair: Pair, p: Own, q: Own) -> Tensor:
    a, b = (one.scaled(lambda share: (share + RIDGE).rsqrt()) for one in (p, q))
    own = sum((one.shares / (one.shares + RIDGE)).square().sum() for one in (p, q))
    return (own - 2 * (a.T @ pair.cross @ b).square().sum()).clamp(min=0).sqrt()


def _procrustes(pair: Pair, p: Own, q: Own) -> Tensor:
    return torch.linalg.svdvals(pair.cross).sum()


FROM_SUMS: dict[str, Callable[[Pair, Own, Own], Tensor]] = {
    "cka": _cka,
    "cka_biased": _cka_biased,
    "cca": _cca,
    "cca_r2": _cca_r2,
    "r2": _r2,
    "gulp": _gulp,
    "procrustes": _procrustes,
}
