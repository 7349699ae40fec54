"""Measure: what every similarity says of itself; plain(): one without shortcuts."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import as_rows, center, same_rows


class Measure(NamedTuple):
    """One function of two feature matrices, with what is known of it.

    function(x, y) is the readable definition; prepare(x, name, ...) -> layer; values(xs, ys) ->
    [a, b]; permuted(xs, ys, orders [p, n]) -> [p, a, b]; deleted(xs, ys, folds [n]) -> [f, a, b];
    moments(xs, ys) -> exact mean and sd under a uniformly random pairing, or None.
    """

    function: Callable[..., float]
    prepare: Callable[..., Any]
    values: Callable[..., Tensor]
    permuted: Callable[..., Tensor]
    deleted: Callable[..., Tensor]
    moments: Callable[..., tuple[Tensor, Tensor]] | None
    definition: str
    source: str
    cost: str
    # Of the estimate in a finite sample.
    bias: str
    # Expectation for unrelated features, where it is known.
    null: str
    # Of "orthogonal", "scale", "translation", "linear" (any invertible map), "permutation": changes
    # of x that leave the value as it is.
    invariances: frozenset[str]
    # The same of y; None: as of x.
    invariances_y: frozenset[str] | None = None
    # True where a measure counts neighbors: repeated rows would become each other's neighbors.
    uses_neighbors: bool = False
    symmetric: bool = True
    # True where smaller is more alike.
    distance: bool = False
    # Value of a representation with itself; None where it depends on the data.
    equal: float | None = 1.0
    # Fewest columns for which it is defined; less is refused.
    min_width: int = 1
    # A package that it needs beyond the library's own: `pip install interp[extras]`.
    extra: str | None = None
    # False where rows have no partners (a permuted pairing changes nothing, so there is no p).
    paired: bool = True
    # True where rows are fitted and tested apart: prepare takes split=[n], the part of each row.
    splits: bool = False


def plain(function: Callable[..., float], **fields: Any) -> Measure:
    """A measure without shortcuts: every permutation and every fold computes `function` again.

    function(x, y): two [n, d] float64 tensors -> float. fields: those of Measure that describe it.
    """

    def values(xs: Sequence[PlainLayer], ys: Sequence[PlainLayer]) -> Tensor:
        same_rows(xs[0].x, ys[0].x)
        return torch.tensor([[function(p.x, q.x) for q in ys] for p in xs], dtype=torch.float64)

    def permuted(
        xs: Sequence[PlainLayer], ys: Sequence[PlainLayer], orders: Int[np.ndarray, "p n"]
    ) -> Tensor:
        moved = ([PlainLayer(q.x[order]) for q in ys] for order in torch.as_tensor(orders))
        return torch.stack([values(xs, part) for part in moved])

    def deleted(
        xs: Sequence[PlainLayer], ys: Sequence[PlainLayer], folds: Int[np.ndarray, " n"]
    ) -> Tensor:
        out = []
        for f in range(int(folds.max()) + 1):
            kept = torch.as_tensor(np.flatnonzero(folds != f))
            if len(kept) < 4:
                raise InputError(
                    f"fold {f} leaves {len(kept)} of {len(folds)} rows: use more folds"
                )
            parts = ([PlainLayer(one.x[kept]) for one in layers] for layers in (xs, ys))
            out.append(values(*parts))
        return torch.stack(out)

    return Measure(function, prepare_plain, values, permuted, deleted, None, **fields)


class PlainLayer(NamedTuple):
    """The checked features of one representation."""

    x: Tensor  # [n, d] float64


def prepare_plain(x: Float[Tensor, "n d"], name: str = "x") -> PlainLayer:
    """Check the features. Raises InputError as `as_rows`, and for a constant representation."""
    center(x, name)
    return PlainLayer(as_rows(x, name))
