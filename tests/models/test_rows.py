"""Canonical rows: one row is one position, row-major, of one sample."""

import pytest
import torch

from interp.errors import PointError
from interp.models import HookPoint, from_rows, to_rows
from interp.models.rows import grid_of

SHAPES = {
    "bc": (2, 5),
    "btc": (2, 3, 5),
    "bchw": (2, 5, 3, 4),
    "bfchw": (2, 2, 5, 3, 4),
    "bcfhw": (2, 5, 2, 3, 4),
    "bftc": (2, 2, 3, 5),
    "bsfc": (2, 12, 2, 5),
    "bstc": (2, 12, 3, 5),
}


def point(layout: str) -> HookPoint:
    return HookPoint("p", "", "image", "resid", 5, (), layout, 0.0)


@pytest.mark.parametrize("layout", SHAPES)
def test_rows_come_back_with_the_strides_of_the_host(layout: str) -> None:
    value = torch.randn(SHAPES[layout]).transpose(0, -1).contiguous().transpose(0, -1)
    rows = to_rows(value, point(layout))
    assert rows.shape == (2, value.numel() // 10, 5)
    back = from_rows(rows, point(layout), value)
    assert torch.equal(back, value)
    assert back.stride() == value.stride()


def test_positions_are_row_major_and_frames_come_first() -> None:
    value = torch.arange(2 * 3 * 4).reshape(1, 1, 2, 3, 4).expand(1, 5, 2, 3, 4)
    assert to_rows(value, point("bcfhw"))[0, :, 0].tolist() == list(range(24))
    assert to_rows(value.transpose(1, 2), point("bfchw"))[0, :, 0].tolist() == list(range(24))
    folded = value.permute(0, 3, 4, 2, 1).reshape(1, 12, 2, 5)
    assert to_rows(folded, point("bsfc"))[0, :, 0].tolist() == list(range(24))


def test_a_value_of_another_width_is_refused() -> None:
    with pytest.raises(PointError, match=r"\(2, 4, 3, 3\) is not bchw of width 5"):
        to_rows(torch.zeros(2, 4, 3, 3), point("bchw"))


def test_rows_of_another_number_are_refused() -> None:
    like = torch.zeros(2, 5, 3, 3)
    with pytest.raises(PointError, match=r"\(2, 8, 5\) do not fit \(2, 9, 5\)"):
        from_rows(torch.zeros(2, 8, 5), point("bchw"), like)


@pytest.mark.parametrize(
    ("shape", "layout", "square", "frame", "grid"),
    [
        ((2, 5), "bc", False, None, ()),
        ((2, 5, 3, 4), "bchw", False, None, (3, 4)),
        ((2, 12, 5), "btc", True, (24, 32), (3, 4)),
        ((2, 12, 5), "btc", False, (24, 32), (12,)),
        ((2, 17, 5), "btc", True, (32, 32), (17,)),
        ((2, 2, 12, 5), "bftc", True, (24, 32), (2, 3, 4)),
        ((2, 12, 2, 5), "bsfc", True, (24, 32), (2, 3, 4)),
    ],
)
def test_the_grid_follows_the_aspect_of_the_input(
    shape: tuple, layout: str, square: bool, frame: tuple | None, grid: tuple
) -> None:
    assert grid_of(shape, layout, square=square, frame=frame) == grid
