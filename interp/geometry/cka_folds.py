"""Sums of linear CKA with a fold of rows left out, for the jackknife."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.cka_sums import CKALayer, take
from interp.geometry.features import same_rows

# Floats in one slab of Gram rows: 32 MB in float64.
SLAB = 1 << 22


class Kept(NamedTuple):
    """Sums over the rows that are left without one fold; Gram matrices without diagonal."""

    rows: Tensor  # [m]
    m: int
    xy: Tensor  # [a, b] sum of K_ij L_ij over kept i != j
    xx: Tensor  # [a]
    yy: Tensor  # [b]
    sums_x: Tensor  # [a, m] row sums of the kept part
    sums_y: Tensor  # [b, m]


def without_folds(
    xs: Sequence[CKALayer], ys: Sequence[CKALayer], folds: Int[np.ndarray, " n"]
) -> Iterator[Kept]:
    """Sums with fold f left out, for each f, from slabs of the same Gram matrices.

    Cost of all folds together: one evaluation by Grams. Raises InputError for a fold that leaves
    fewer than 4 rows.
    """
    n = same_rows(xs[0].x, ys[0].x)
    members = [torch.as_tensor(np.flatnonzero(folds == f)) for f in range(int(folds.max()) + 1)]
    left = [n - len(rows) for rows in members]
    if min(left) < 4:
        f = int(np.argmin(left))
        raise InputError(f"fold {f} leaves {left[f]} of {n} rows; CKA needs 4: use more folds")
    products = [_fold_products(xs, ys, rows) for rows in members]
    # Every row is in one fold.
    total = torch.stack([part.touching for part in products]).sum(0)
    all_x, all_y = (
        torch.tensor([p.squares for p in part], dtype=torch.float64) for part in (xs, ys)
    )
    for rows, part in zip(members, products, strict=True):
        kept = torch.ones(n, dtype=torch.bool)
        kept[rows] = False
        yield Kept(
            kept.nonzero().flatten(),
            n - len(rows),
            total - 2 * part.touching + part.within,
            all_x - part.own_x,
            all_y - part.own_y,
            _kept_sums(xs, rows, kept),
            _kept_sums(ys, rows, kept),
        )


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
    slab = torch.stack([take(p, rows) @ take(p, slice(None)).T for p in layers])
    slab[:, torch.arange(len(rows)), rows] = 0
    return slab


def _kept_sums(layers: Sequence[CKALayer], members: Tensor, kept: Tensor) -> Tensor:
    """Off-diagonal Gram row sums over the kept columns, for the kept rows: [layers, kept].

    The rows of a centered Gram sum to zero: what is left is -K_ii - (sum over the fold).
    """
    parts = ((take(p, kept), take(p, members).sum(0), p.norms[kept]) for p in layers)
    return torch.stack([-own - rows @ fold for rows, fold, own in parts])
