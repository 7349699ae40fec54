"""What canonical correlations, regressions and GULP share: one SVD per layer.

Centered features of Frobenius norm 1 are x = U diag(s) R with orthonormal columns of U and rows of
R. A pair of layers then meets only through C = U_x' U_y, [r_x, r_y]: its singular values are the
canonical correlations, ||C||^2 = tr(P_X P_Y) for the projections P on the column spaces, and
weights on its rows and columns give in-sample R^2 and GULP. Reordering rows of Y reorders U_y;
leaving rows out rotates and rescales U within its own coordinates.

Rank. Whitening gives every direction the same weight, so one that is nothing but rounding counts as
much as the first. Networks compute in float32 or less: directions with a singular value below
2^-24, float32's unit roundoff, of the Frobenius norm count as absent, whatever the dtype in which
the features come. d, where a formula divides by it or a null depends on it, is this rank.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import CONSTANT, MIN_ROWS, as_rows, center, same_rows
from interp.geometry.measure import Measure
from interp.geometry.shapes import small_problems

# Unit roundoff of float32 (module docstring).
RANK = 2.0**-24
# Rounding of float64 in the centered features, as a share of the norm before centering.
CENTERING = 64 * 2.0**-52
# A direction that keeps less of its energy than this when a fold is left out is gone: rounding of
# the downdated covariance is 1e-15.
GONE = 1e-12


class Basis(NamedTuple):
    """One representation in the coordinates of its singular vectors."""

    u: Tensor  # [n, r] orthonormal columns that sum to 0, float64
    s: Tensor  # [r] singular values, largest first; their squares sum to 1
    right: Tensor  # [r, d] orthonormal rows

    @property
    def rank(self) -> int:
        """Directions with variance."""
        return self.s.shape[0]


def decompose(x: Float[Tensor, "n d"], name: str = "x") -> Basis:
    """Singular vectors and values of the centered features. Cost n d min(n, d).

    Raises InputError for NaN, n < 4, a constant representation.
    """
    rows = center(x, name)
    raw = as_rows(x, name)
    peak = raw.abs().max()
    spread = torch.linalg.vector_norm(raw / peak - (raw / peak).mean(0))
    offset = float(torch.linalg.vector_norm(raw / peak) / spread)
    return _decomposed(rows, max(RANK, CENTERING * offset))


def decompose_standardized(x: Float[Tensor, "n d"], name: str = "x") -> Basis:
    """The same of columns of equal variance; constant columns drop out."""
    center(x, name)
    rows = as_rows(x, name)
    rows = rows / rows.abs().max()
    moved = rows - rows.mean(0)
    norms, raw = (torch.linalg.vector_norm(part, dim=0) for part in (moved, rows))
    alive = norms > 10 * CONSTANT * raw
    moved = moved[:, alive] / norms[alive] / float(alive.sum()) ** 0.5
    basis = _decomposed(moved, RANK)
    right = torch.zeros(basis.rank, len(alive), dtype=torch.float64)
    right[:, alive] = basis.right
    return basis._replace(right=right)


def _decomposed(rows: Tensor, tolerance: float) -> Basis:
    u, s, right = torch.linalg.svd(rows, full_matrices=False)
    kept = int((s > tolerance * torch.linalg.vector_norm(s)).sum())
    u, s, right = u[:, :kept], s[:kept], right[:kept]
    return Basis(u.contiguous(), s / torch.linalg.vector_norm(s), right.contiguous())


def leave_out(
    basis: Basis,
    rows: Int[Tensor, " m"],
    fold: int,
    *,
    standardized: bool = False,
    spectrum: bool = True,
) -> Basis:
    """The basis of the rows that are left, from that of all of them.

    With G = U'U of the kept, recentered rows (well conditioned: 1 minus what leaves) = V L V',
    kept features are (U V L^-1/2) (L^1/2 V' diag(s) R): one more SVD, of the right factor, [r, d].
    Cost n r^2 + r^2 d. spectrum: False where only the column space matters; no SVD then, and `s`
    is NaN.
    """
    n = basis.u.shape[0]
    left = n - len(rows)
    if left < MIN_ROWS:
        raise InputError(
            f"fold {fold} leaves {left} of {n} rows; {MIN_ROWS} are needed: more folds"
        )
    gone = basis.u[rows]
    mean = -gone.sum(0) / left
    gram = torch.eye(basis.rank, dtype=torch.float64) - gone.T @ gone
    share, v = torch.linalg.eigh(gram - left * torch.outer(mean, mean))
    v, share = v[:, share > GONE], share[share > GONE]
    before = basis.s[:, None] * basis.right
    factor = share.sqrt()[:, None] * (v.T @ before)
    if standardized:
        norms, whole = (torch.linalg.vector_norm(part, dim=0) for part in (factor, before))
        factor = torch.where(norms > GONE**0.5 * whole, factor / norms, 0.0)
    if not bool(torch.linalg.vector_norm(factor) > GONE**0.5):
        raise InputError(f"without fold {fold} a representation is constant: use fewer folds")
    kept = torch.ones(n, dtype=torch.bool)
    kept[rows] = False
    whiten, u = v / share.sqrt(), basis.u[kept] - mean
    if not spectrum:
        return Basis(u @ whiten, torch.full_like(share, torch.nan), basis.right)
    small = _decomposed(factor, RANK)
    return Basis(u @ (whiten @ small.u), small.s, small.right)


def fold_members(folds: Int[np.ndarray, " n"]) -> list[Int[Tensor, " m"]]:
    """Row ids of each fold."""
    return [torch.as_tensor(np.flatnonzero(folds == f)) for f in range(int(folds.max()) + 1)]


Score = Callable[[Basis, Basis], float]


def spectral(
    function: Callable[..., float],
    score: Score,
    *,
    standardized: bool = False,
    spectrum: bool = True,
    **fields: Any,
) -> Measure:
    """A measure of two bases: prepared once per layer, permuted and deleted without a new one.

    score(p, q): value of one pair. standardized, spectrum: as for `leave_out`. fields: those of
    Measure, `values`, `permuted`, `moments` too where there is a faster way than scoring pairs.
    """
    without = partial(leave_out, standardized=standardized, spectrum=spectrum)
    own = {
        "prepare": decompose_standardized if standardized else decompose,
        "values": partial(score_pairs, score),
        "permuted": partial(score_permuted, score),
        "deleted": partial(score_deleted, score, without),
        "moments": None,
    }
    return Measure(function=function, **{**own, **fields})


def score_pairs(score: Score, xs: Sequence[Basis], ys: Sequence[Basis]) -> Float[Tensor, "a b"]:
    """One score per pair."""
    same_rows(xs[0].u, ys[0].u)
    with small_problems() as run:
        rows = run(lambda p: [score(p, q) for q in ys], xs)
        return torch.tensor(list(rows), dtype=torch.float64)


def score_permuted(
    score: Score, xs: Sequence[Basis], ys: Sequence[Basis], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """One score per pair and permutation; the bases only change the order of their rows."""
    same_rows(xs[0].u, ys[0].u)

    def one(order: np.ndarray) -> list[list[float]]:
        moved = [q._replace(u=q.u[torch.as_tensor(order)]) for q in ys]
        return [[score(p, q) for q in moved] for p in xs]

    with small_problems() as run:
        return torch.tensor(list(run(one, orders)), dtype=torch.float64)


def score_deleted(
    score: Score,
    without: Callable[[Basis, Tensor, int], Basis],
    xs: Sequence[Basis],
    ys: Sequence[Basis],
    folds: Int[np.ndarray, " n"],
) -> Float[Tensor, "f a b"]:
    """One score per pair and fold; without(basis, rows, fold) leaves rows out of a basis."""
    same_rows(xs[0].u, ys[0].u)

    def one(fold: int, rows: Tensor) -> list[list[float]]:
        first, second = ([without(p, rows, fold) for p in layers] for layers in (xs, ys))
        return [[score(p, q) for q in second] for p in first]

    members = fold_members(folds)
    with small_problems() as run:
        parts = run(one, range(len(members)), members)
        return torch.tensor(list(parts), dtype=torch.float64)


def correlations(p: Basis, q: Basis) -> Float[Tensor, " r"]:
    """Canonical correlations, largest first: min(r_x, r_y) numbers in [0, 1]."""
    return torch.linalg.svdvals(p.u.T @ q.u).clamp(max=1)
