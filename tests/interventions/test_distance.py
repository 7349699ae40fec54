"""How far edited rows are: clean ones score like clean ones, others do not."""

import pytest
import torch

from interp.errors import InputError
from interp.interventions import off_distribution


def _rows(n, seed, d=12):
    """Correlated rows of unequal variances: a fixed law, fresh draws."""
    law = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=law, dtype=torch.float64) / torch.arange(1, d + 1)
    return (
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        @ (mix)
        + 3
    )


def test_clean_rows_score_like_held_out_ones():
    found = off_distribution(_rows(2000, 1), _rows(800, 2), _rows(2000, 3))
    for one in (found.mahalanobis, found.neighbor):
        # Standard error of a share of .05 in two samples of 2000: .007.
        assert one.outside == pytest.approx(0.05, abs=0.025)
        for level in (0.1, 0.5, 0.9):
            assert (one.p <= level).double().mean() == pytest.approx(level, abs=0.05)
        assert one.rows.median() == pytest.approx(float(one.held_out.median()), rel=0.05)
    assert found.neighbor.held_out.mean() == pytest.approx(1)
    assert 0 < found.shrinkage < 0.2


def test_shifted_rows_are_outside():
    clean, other = _rows(400, 2), _rows(400, 3)
    _, _, axes = torch.linalg.svd(clean - clean.mean(0), full_matrices=False)
    spread = ((clean - clean.mean(0)) @ axes.T).std(0)
    # Twenty standard deviations along the direction of least variance: short, but never seen.
    short = off_distribution(other[:50] + 20 * spread[-1] * axes[-1], clean, other[50:])
    assert short.mahalanobis.outside == 1
    assert short.mahalanobis.p.max() == pytest.approx(1 / 351)
    assert short.neighbor.outside < 0.5
    far = off_distribution(other[:50] + 10 * spread[0] * axes[0], clean, other[50:])
    assert far.neighbor.outside == 1
    assert far.neighbor.rows.min() > 2


def test_rows_between_two_modes_are_far_from_every_clean_row_though_near_the_mean():
    sign = torch.where(torch.arange(400) % 2 == 0, 5.0, -5.0)[:, None]
    clean, other = (torch.zeros(400, 3) + sign + 0.1 * _rows(400, s, 3) for s in (1, 2))
    middle = 0.5 * (clean[:30] + clean[1:31])
    found = off_distribution(middle, clean, other)
    assert found.mahalanobis.outside == 0
    assert found.neighbor.outside == 1


def _ledoit_wolf(x):
    """The estimator by its definition: covariance and weight."""
    x = x - x.mean(0)
    n, d = x.shape
    s = x.T @ x / n
    target = s.trace() / d * torch.eye(d, dtype=x.dtype)
    noise = sum((torch.outer(row, row) - s).square().sum() for row in x) / n**2
    weight = min(1.0, float(noise / (s - target).square().sum()))
    return weight * target + (1 - weight) * s, weight


@pytest.mark.parametrize(("n", "d"), [(40, 12), (25, 60)])
def test_the_covariance_is_that_of_ledoit_and_wolf(n, d):
    clean, rows = _rows(n, 4, d), _rows(30, 5, d)
    covariance, weight = _ledoit_wolf(clean)
    found = off_distribution(rows, clean, _rows(30, 6, d))
    assert found.shrinkage == pytest.approx(weight, rel=1e-9)
    away = rows - clean.mean(0)
    expected = (away * torch.linalg.solve(covariance, away.T).T).sum(1).sqrt()
    assert torch.allclose(found.mahalanobis.rows, expected, rtol=1e-8)


def test_the_neighbor_distance_is_the_fifth_smallest():
    clean, rows, other = _rows(60, 1), _rows(7, 2), _rows(30, 3)
    found = off_distribution(rows, clean, other)
    expected = (rows[:, None] - clean).norm(dim=-1).sort(1).values[:, 4]
    scale = (other[:, None] - clean).norm(dim=-1).sort(1).values[:, 4].mean()
    assert torch.allclose(found.neighbor.rows, expected / scale, rtol=1e-9)


def test_distances_do_not_depend_on_a_rotation_a_scale_or_the_origin():
    sides = [_rows(n, s) for n, s in ((20, 1), (60, 2), (40, 3))]
    turn = torch.linalg.qr(_rows(12, 9))[0]
    one = off_distribution(*sides)
    other = off_distribution(*(7 * side @ turn - 100 for side in sides))
    for name in ("mahalanobis", "neighbor"):
        assert torch.allclose(getattr(one, name).rows, getattr(other, name).rows, rtol=1e-8)


def test_rows_that_cannot_be_compared_are_refused():
    rows, clean, other = _rows(5, 1), _rows(30, 2), _rows(30, 3)
    with pytest.raises(InputError, match=r"\(5, 12\), \(30, 12\), \(30, 11\)"):
        off_distribution(rows, clean, other[:, :11])
    with pytest.raises(InputError, match="30 reference and 19 held-out rows: 20 or more"):
        off_distribution(rows, clean, other[:19])
    with pytest.raises(InputError, match="held_out hold NaN"):
        off_distribution(rows, clean, other * float("nan"))
    with pytest.raises(InputError, match="30 reference rows are all equal"):
        off_distribution(rows, clean[:1].expand(30, -1), other)
    with pytest.raises(InputError, match="all 30 held-out rows are among the reference"):
        off_distribution(rows, clean, clean)
