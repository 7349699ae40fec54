"""Linear predictivity of y from x: in the sample, and on rows that the fit has not seen.

    r2       = ||P_X Y||^2 / ||Y||^2                    (Kornblith et al. 2019, table 1: R^2_LR)
    ridge_cv = 1 - sum_f ||Y_f - Yhat_f||^2 / sum_f ||Y_f - mean_{-f}||^2

over the folds f of a split of the rows, Yhat_f and mean_{-f} from the other folds. r2 of unrelated
features is r_x / (n - 1), exactly in expectation over pairings, and 1 for n - 1 <= d: it says
nothing about wide layers. ridge_cv has no such floor: 0 is the mean of y, and a fit that chance
misled is below 0. Both are pooled over the columns of y, so that they see y up to rotation, and
both have a direction: r2(x, y) predicts y from x; swap the arguments for the other.

The ridge penalty of a training part is the one of GRID with the smallest leave-one-out error
within it, which one SVD gives for every penalty: with hat values h_i the left-out residual is
e_i / (1 - h_i) (Allen 1974, PRESS). One penalty serves all columns of y.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.canonical import LINEAR, ones
from interp.geometry.canonical_basis import Basis, decompose, fold_members
from interp.geometry.canonical_traces import Traces, traces
from interp.geometry.features import MIN_ROWS, center, same_rows
from interp.geometry.measure import Measure
from interp.geometry.shapes import small_problems
from interp.stats import make_folds

# Penalties as shares of the total variance of x: decades from where even float32 noise is fitted to
# where every prediction is the mean.
GRID = tuple(10.0**k for k in range(-6, 2))
# Five parts train on 80 % of the rows; more cost more and change the training size little.
PARTS = 5


def r2(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Share of the variance of y that lies in the column space of x: in-sample R^2.

    x, y: features of the same n >= 4 images. Returns a value in [0, 1]; r_x / (n - 1) for unrelated
    features. Cost n d^2 + n e^2.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Kornblith et al. 2019, table 1 (R^2_LR).
    """
    same_rows(x, y)
    return float((decompose(x, "x").u.T @ center(y, "y")).square().sum())


def _singular_values(basis: Basis) -> Float[Tensor, " r"]:
    return basis.s


def _as_it_is(cross: Tensor, xs: Sequence[Basis], ys: Sequence[Basis]) -> Tensor:
    return cross


def ridge_cv(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    *,
    split: Int[np.ndarray, " n"] | None = None,
    seed: int = 0,
) -> float:
    """Cross-validated R^2 of the ridge regression of y on x, pooled over columns and parts.

    x, y: features of the same n >= 4 images. split: [n] part of each row, as from
    `interp.stats.make_folds(clusters, 5)` where near-duplicates must not be on both sides; None: 5
    random parts by `seed`. Returns a value in (-inf, 1]; about 0 for unrelated features.
    Cost per part: one SVD of x and a product n r e for each of 8 penalties.
    Raises InputError for NaN, n < 4, a constant representation, a split of the wrong length.
    Source: Allen 1974 (leave-one-out errors in closed form).
    """
    same_rows(x, y)
    first = prepare_ridge(x, "x", split=split, seed=seed)
    return _predict(list(_fits(first)), prepare_ridge(y, "y", split=split, seed=seed).x)


class RidgeLayer(NamedTuple):
    """One representation, centered and of norm 1, in at most n - 1 columns, and the split."""

    x: Tensor  # [n, r] float64
    split: np.ndarray  # [n] part of each row; it stays when rows are permuted or left out


def prepare_ridge(
    x: Float[Tensor, "n d"],
    name: str = "x",
    *,
    split: Int[np.ndarray, " n"] | None = None,
    seed: int = 0,
) -> RidgeLayer:
    """Center, scale and rotate into the directions that the rows span; see `ridge_cv`."""
    basis = decompose(x, name)
    n = basis.u.shape[0]
    if split is None:
        split = make_folds(range(n), min(PARTS, n), seed)
    split = np.asarray(split)
    if split.shape != (n,) or len(np.unique(split)) < 2:
        raise InputError(
            f"{name}: a split of shape {split.shape} into {len(np.unique(split))} parts for "
            f"n = {n} rows; it takes one label per row and at least 2 parts"
        )
    return RidgeLayer(basis.u * basis.s, split)


class _Fit(NamedTuple):
    """What one training part knows of x: predictions for every penalty are products with it."""

    train: Tensor  # [m] row ids
    test: Tensor
    u: Tensor  # [m, r] left singular vectors of the centered training rows
    shrink: Tensor  # [penalties, r] s^2 / (s^2 + penalty)
    slack: Tensor  # [penalties, m] 1 - hat values
    project: Tensor  # [test, r] centered test rows in units of u: x V / s


def _fits(layer: RidgeLayer) -> Iterator[_Fit]:
    for part in np.unique(layer.split):
        inside = torch.as_tensor(layer.split == part)
        train, test = (~inside).nonzero()[:, 0], inside.nonzero()[:, 0]
        mean = layer.x[train].mean(0)
        u, s, right = torch.linalg.svd(layer.x[train] - mean, full_matrices=False)
        total = torch.linalg.vector_norm(s)
        # Rounding; a part in which x is constant predicts the mean.
        alive = s > 1e-12 * max(float(total), 1e-12)
        u, s, right = u[:, alive], s[alive], right[alive]
        squared = s.square() / max(float(total) ** 2, 1e-300)
        shrink = squared / (squared + torch.tensor(GRID, dtype=torch.float64)[:, None])
        slack = 1 - 1 / len(train) - shrink @ u.square().T
        yield _Fit(train, test, u, shrink, slack, (layer.x[test] - mean) @ (right.T / s))


def _predict(fits: Sequence[_Fit], y: Float[Tensor, "n e"]) -> float:
    """Pooled R^2 of y, given all that depends on x alone."""
    lost = total = 0.0
    for fit in fits:
        mean = y[fit.train].mean(0)
        inner = y[fit.train] - mean
        coefficients = fit.u.T @ inner
        errors = [
            ((inner - fit.u @ (w[:, None] * coefficients)).square().sum(1) / slack.square()).sum()
            for w, slack in zip(fit.shrink, fit.slack, strict=True)
        ]
        best = fit.shrink[int(torch.stack(errors).argmin())]
        outer = y[fit.test] - mean
        total += float(outer.square().sum())
        lost += float((outer - fit.project @ (best[:, None] * coefficients)).square().sum())
    return 1 - lost / total


def ridge_values(xs: Sequence[RidgeLayer], ys: Sequence[RidgeLayer]) -> Float[Tensor, "a b"]:
    """Predictivity of every second from every first layer. One SVD per first layer and part."""
    n = same_rows(xs[0].x, ys[0].x)
    return ridge_permuted(xs, ys, np.arange(n)[None])[0]


def ridge_permuted(
    xs: Sequence[RidgeLayer], ys: Sequence[RidgeLayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """The same after the rows of the second list are reordered: y[orders[b]].

    The split belongs to the places, the SVDs to x: neither is repeated.
    """
    same_rows(xs[0].x, ys[0].x)
    _same_split((*xs, *ys))
    out = torch.empty(len(orders), len(xs), len(ys), dtype=torch.float64)
    with small_problems() as run:
        for i, p in enumerate(xs):
            fits = list(_fits(p))

            def one(order: np.ndarray, fits: list[_Fit] = fits) -> list[float]:
                at = torch.as_tensor(order)
                return [_predict(fits, q.x[at]) for q in ys]

            out[:, i] = torch.tensor(list(run(one, orders)), dtype=torch.float64)
    return out


def _same_split(layers: Sequence[RidgeLayer]) -> None:
    if any(not np.array_equal(layers[0].split, one.split) for one in layers):
        raise InputError(
            "layers with different splits of the rows: prepare all of them with one split or seed"
        )


def ridge_deleted(
    xs: Sequence[RidgeLayer], ys: Sequence[RidgeLayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """Predictivity with fold f left out, for each f; every other row stays in its part.

    A new split per fold would add the spread of splits, inflated by the jackknife, to the interval.
    """
    n = same_rows(xs[0].x, ys[0].x)
    out = []
    for f, members in enumerate(fold_members(folds)):
        kept = np.flatnonzero(folds != f)
        parts = min(len(np.unique(one.split[kept])) for one in (*xs, *ys))
        if len(kept) < MIN_ROWS or parts < 2:
            raise InputError(
                f"fold {f} leaves {n - len(members)} of {n} rows in {parts} parts of the split; "
                f"{MIN_ROWS} rows in 2 parts are needed: use more folds"
            )
        first, second = (
            [RidgeLayer(one.x[torch.as_tensor(kept)], one.split[kept]) for one in layers]
            for layers in (xs, ys)
        )
        out.append(ridge_values(first, second))
    return torch.stack(out)


ROTATIONS = frozenset({"orthogonal", "scale", "translation", "permutation"})

MEASURES: dict[str, Measure] = {
    "r2": traces(
        r2,
        Traces(ones, _singular_values, _as_it_is),
        exact=True,
        definition="in-sample share of the variance of y that is linear in x",
        source="Kornblith et al. 2019, table 1 (R^2_LR)",
        cost="n d^2 once per layer; a pair n d e; a permutation n d e or n^2 / 2, the cheaper",
        bias="upwards by chance, to 1 at n - 1 <= d: use ridge_cv",
        null="d / (n - 1) exactly, d the rank of x",
        invariances=LINEAR,
        invariances_y=ROTATIONS,
        symmetric=False,
    ),
    "ridge_cv": Measure(
        function=ridge_cv,
        prepare=prepare_ridge,
        values=ridge_values,
        permuted=ridge_permuted,
        deleted=ridge_deleted,
        moments=None,
        definition="R^2 of y from x on held-out rows, ridge by inner leave-one-out, pooled columns",
        source="Allen 1974 (PRESS); the split is 5 random parts, or whole clusters",
        cost="5 SVDs n r^2 per first layer; a pair or a permutation 45 n r e",
        bias="down: fitted on 80 % of the rows; below 0 where chance misled the fit",
        null="about 0, from below",
        invariances=ROTATIONS,
        symmetric=False,
        equal=None,
        splits=True,
    ),
}
