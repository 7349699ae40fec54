"""Preprocessing by hand: thresholds, clipping, rows of length 1, what a record says of itself."""

import pytest
import torch

from interp.errors import InputError
from interp.geometry.preprocessing import (
    PRH,
    Preprocessing,
    clip,
    clip_threshold,
    demean,
    normalize,
)

X = torch.tensor([[3.0, -4.0], [0.0, 1.0], [-2.0, 10.0], [5.0, -6.0], [7.0, 8.0]])


def test_the_threshold_is_an_order_statistic_of_the_absolute_values() -> None:
    # Sorted: 0 1 2 3 4 5 6 7 8 10; floor(.5 * 10) = 5, floor(.95 * 10) = 9.
    assert clip_threshold([X], 0.5) == 5
    assert clip_threshold([X], 0.95) == 10
    assert clip_threshold([X], 1.0) == 10
    assert clip_threshold([X[:2], X[2:]], 0.5) == 5


def test_clipping_cuts_both_signs_and_leaves_the_rest() -> None:
    expected = torch.tensor([[3.0, -4.0], [0, 1], [-2, 5], [5, -5], [5, 5]]).double()
    assert torch.equal(clip(X, 0.5), expected)
    assert torch.equal(clip(X, 1.0), X.double())
    assert torch.equal(clip(1000 * X, 0.5), 1000 * expected)
    assert torch.equal(clip(X, threshold=1), X.double().clamp(-1, 1))


def test_rows_get_length_one_at_every_position() -> None:
    x = torch.stack([X, 2 * X + 1], 1)
    out = normalize(x)
    assert out.shape == x.shape
    assert torch.allclose(out.norm(dim=-1), torch.ones(5, 2).double())
    assert torch.allclose(out[0, 0], torch.tensor([0.6, -0.8]).double())


def test_a_row_of_zeros_has_no_direction() -> None:
    with pytest.raises(InputError, match="mid: 1 of 5 rows are zero"):
        normalize(X * torch.tensor([1, 1, 0, 1, 1])[:, None], "mid")


def test_demeaning_takes_off_each_positions_own_mean() -> None:
    x = torch.stack([X, X + 100], 1)
    assert float(demean(x).mean(0).abs().max()) < 1e-12
    assert torch.allclose(demean(x)[:, 0], demean(x)[:, 1])


def test_steps_run_in_order_and_the_record_names_them() -> None:
    both = Preprocessing(clip=0.5, normalize=True)
    assert torch.equal(both.apply(X), normalize(clip(X, 0.5)))
    assert str(both) == "clipped at the 0.5 quantile of absolute values, rows of length 1"
    assert str(Preprocessing()) == ""
    assert str(Preprocessing(demean=True)) == "mean of each position removed"
    assert (PRH.clip, PRH.normalize) == (0.95, True)
    assert Preprocessing().apply(X) is X


@pytest.mark.parametrize("bad", [0.0, 1.5, -1.0])
def test_a_quantile_outside_its_range_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="0 < "):
        Preprocessing(clip=bad)
    with pytest.raises(InputError, match="0 < q <= 1"):
        clip(X, bad)


def test_nan_is_refused_with_its_count() -> None:
    broken = X.clone()
    broken[1, 0] = torch.nan
    for step in (clip, normalize, demean):
        with pytest.raises(InputError, match="1 NaN or infinite values of 10"):
            step(broken)
