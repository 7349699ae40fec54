"""Between the host's layouts and canonical rows: one row is one position of one sample."""

import math

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.errors import PointError
from interp.models.points import HookPoint

# Order of the axes inside `positions`: frames, then space, then tokens; row-major.
POSITION_AXES = "fsthw"
DEFAULT_LAYOUTS = {2: "bc", 3: "btc", 4: "bchw", 5: "bcfhw"}
FOLDED_LAYOUTS = {("f", 4): "bfchw", ("f", 3): "bftc", ("s", 3): "bsfc", ("f", 2): "bfc"}


def infer_layout(name: str, ndim: int, fold: str) -> str:
    """Return the layout of a host tensor with `ndim` axes after `fold` has been undone."""
    layout = FOLDED_LAYOUTS.get((fold, ndim)) if fold else DEFAULT_LAYOUTS.get(ndim)
    if layout is None:
        raise PointError(f"{name}: no layout for a tensor of {ndim} axes with fold {fold!r}")
    return layout


def _order(layout: str) -> list[int]:
    return [layout.index(a) for a in ("b", *(a for a in POSITION_AXES if a in layout), "c")]


def copy_as_rows(value: Shaped[Tensor, "b ..."], layout: str) -> Shaped[Tensor, "b ..."]:
    """Return a copy whose memory is in the order of rows, so that `to_rows` of it is a view."""
    if value.ndim != len(layout):
        # `to_rows` says what is wrong.
        return value.clone()
    order = _order(layout)
    moved = value.permute(order).clone(memory_format=torch.contiguous_format)
    return moved.permute([order.index(axis) for axis in range(value.ndim)])


def to_rows(value: Shaped[Tensor, "b ..."], point: HookPoint) -> Shaped[Tensor, "b p d"]:
    """Return `value` as rows [b, positions, d], positions in row-major order (a view if possible).

    Args:
        value: activation in the point's layout, any resolution.
        point: its hook point.

    Raises:
        PointError: the number of axes or the width differs from the point's.
    """
    if value.ndim != len(point.layout) or value.shape[point.layout.index("c")] != point.width:
        raise PointError(
            f"{point.name}: shape {tuple(value.shape)} is not {point.layout} of width {point.width}"
        )
    moved = value.permute(_order(point.layout))
    return moved.reshape(moved.shape[0], -1, point.width)


def from_rows(
    rows: Shaped[Tensor, "b p d"], point: HookPoint, like: Shaped[Tensor, "b ..."]
) -> Shaped[Tensor, "b ..."]:
    """Return rows in the layout and dtype of `like`: the inverse of `to_rows`.

    Raises:
        PointError: the rows do not fit `like`.
    """
    order = _order(point.layout)
    moved = like.permute(order)
    expected = (moved.shape[0], moved[0, ..., 0].numel(), point.width)
    if tuple(rows.shape) != expected:
        raise PointError(
            f"{point.name}: rows of shape {tuple(rows.shape)} do not fit {expected}; "
            "return as many rows of the same width as were given"
        )
    inverse = [order.index(axis) for axis in range(len(order))]
    # The strides of `like`, not contiguous ones: kernels, and so the last bit, follow them.
    return torch.empty_like(like).copy_(rows.reshape(moved.shape).permute(inverse))


def grid_of(
    shape: tuple[int, ...], layout: str, *, square: bool, frame: tuple[int, int] | None
) -> tuple[int, ...]:
    """Return the grid of a value: () | (t,) | (h, w) | (f, h, w).

    Args:
        shape: shape of the value in `layout`.
        layout: its axes.
        square: tokens are image patches.
        frame: height and width of the root's input, whose aspect the patches share.
    """
    size = dict(zip(layout, shape, strict=True))
    grid = (size["f"],) if "f" in size else ()
    if "h" in size:
        return (*grid, size["h"], size["w"])
    for axis in "st":
        if axis not in size:
            continue
        patches = _patch_grid(size[axis], frame) if square or axis == "s" else None
        grid += patches or (size[axis],)
    return grid


def _patch_grid(n: int, frame: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return (h, w) with h * w = n and the aspect closest to `frame`, None if none is near."""
    height, width = frame or (1, 1)
    target = math.sqrt(n * height / width)
    heights = [h for h in range(1, n + 1) if n % h == 0]
    best = min(heights, key=lambda h: abs(h - target))
    # One patch of rounding at most: a prime number of tokens (class token) is not a grid.
    return (best, n // best) if abs(best - target) <= 1 else None
