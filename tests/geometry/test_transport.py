"""Soft matching, Gromov-Wasserstein and RTD: closed forms, exactness, starts, published values."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.geometry import soft_matching as soft_module
from interp.geometry.gromov_wasserstein import gromov_wasserstein_distance, solve_gromov_wasserstein
from interp.geometry.rtd import topology_divergence
from interp.geometry.soft_matching import (
    soft_matching_correlation,
    soft_matching_distance,
    transport,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_transport_between_equal_counts_is_the_best_permutation() -> None:
    cost = draw(5, 5).numpy()
    found = transport(cost)
    best = min(cost[range(5), order].mean() for order in itertools.permutations(range(5)))
    assert found.cost == pytest.approx(best, abs=1e-12)
    assert np.sort(found.plan.ravel())[-5:] == pytest.approx(0.2)


@pytest.mark.parametrize(("d", "e"), [(6, 4), (5, 7), (1, 3), (12, 8)])
def test_assigned_copies_and_the_linear_program_agree(
    d: int, e: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = draw(d, e, seed=d).numpy()
    assigned = transport(cost)
    monkeypatch.setattr(soft_module, "MAX_COPIES", 0)
    program = transport(cost)
    assert program.cost == pytest.approx(assigned.cost, abs=1e-9)
    for plan in (assigned.plan, program.plan):
        assert plan.min() >= 0
        assert plan.sum(1) == pytest.approx(np.full(d, 1 / d))
        assert plan.sum(0) == pytest.approx(np.full(e, 1 / e))


def test_no_plan_near_the_best_is_cheaper() -> None:
    cost, rng = draw(4, 6).numpy(), np.random.default_rng(0)
    best = transport(cost)
    for _ in range(200):
        other = transport(rng.normal(size=cost.shape)).plan
        assert (other * cost).sum() >= best.cost - 1e-12


def test_copies_of_units_are_at_distance_zero() -> None:
    x = draw(20, 3)
    # The same units in the same proportions.
    y = torch.cat([x, x[:, [2, 0, 1]]], 1)
    assert soft_matching_distance(x, y) == pytest.approx(0, abs=1e-12)
    assert soft_matching_correlation(x, 3 * y + 1) == pytest.approx(1, abs=1e-12)


def test_soft_matching_of_equal_widths_is_the_best_permutation_of_units() -> None:
    x, y = draw(15, 4), draw(15, 4, seed=1)
    a, b = ((z - z.mean(0)) / (z - z.mean(0)).norm() * 2 for z in (x, y))
    orders = list(itertools.permutations(range(4)))
    best = min(float((a - b[:, list(order)]).square().sum()) / 4 for order in orders)
    assert soft_matching_distance(x, y) == pytest.approx(math.sqrt(best), abs=1e-12)
    r = np.corrcoef(x.numpy().T, y.numpy().T)[:4, 4:]
    best = max(r[range(4), order].mean() for order in orders)
    assert soft_matching_correlation(x, y) == pytest.approx(best, abs=1e-12)


def test_soft_matching_obeys_the_triangle_inequality_over_widths() -> None:
    layers = [draw(12, d, seed=d) for d in (2, 3, 4, 6)]
    d = np.array([[soft_matching_distance(p, q) for q in layers] for p in layers])
    assert bool((d[:, :, None] <= d[:, None, :] + d.T[None] + 1e-12).all())


def test_constant_units_have_no_correlation_and_do_not_count() -> None:
    x, y = draw(15, 4), draw(15, 4, seed=1)
    padded = torch.cat([x, torch.full((15, 3), 0.7, dtype=torch.float64)], 1)
    expected = soft_matching_correlation(x, y)
    assert soft_matching_correlation(padded, y) == pytest.approx(expected, abs=1e-12)


def test_widths_without_an_exact_transport_are_refused() -> None:
    with pytest.raises(InputError, match=r"between 1021 and 1031 units.*1052651.*not 1052651"):
        transport(np.zeros((1021, 1031)))


def test_an_unpaired_rotated_copy_is_found_at_distance_zero() -> None:
    x = draw(25, 3)
    order = np.random.default_rng(0).permutation(25)
    y = 5 * x[order] @ torch.linalg.qr(draw(3, 3, seed=1))[0] + 2
    found = solve_gromov_wasserstein(x, y)
    assert found.distance == pytest.approx(0, abs=1e-7)
    assert found.starts["profiles"] == found.distance
    assert found.plan.argmax(1).tolist() == np.argsort(order).tolist()


def test_gromov_wasserstein_lies_between_its_bound_and_every_start() -> None:
    for seed in range(4):
        found = solve_gromov_wasserstein(draw(18, 3, seed=seed), draw(18, 5, seed=seed + 9))
        assert 0 < found.lower <= found.distance <= min(found.starts.values())
        assert {"paired", "uniform", "profiles", "random 3"} <= set(found.starts)
        assert max(found.steps.values()) < 500


def test_gromov_wasserstein_of_five_rows_is_mostly_the_best_permutation_and_never_below() -> None:
    ratios = []
    for seed in range(12):
        x, y = draw(5, 2, seed=seed), draw(5, 3, seed=seed + 77)
        a, b = (torch.cdist(z, z).numpy() for z in (x, y))
        a, b = (z / math.sqrt((z**2).mean()) for z in (a, b))
        orders = [list(order) for order in itertools.permutations(range(5))]
        best = min(((a - b[np.ix_(o, o)]) ** 2).mean() for o in orders)
        ratios.append(gromov_wasserstein_distance(x, y) / math.sqrt(best))
    assert min(ratios) > 1 - 1e-9
    assert np.quantile(ratios, 0.75) < 1 + 1e-9


def test_no_exchange_of_two_partners_is_nearer() -> None:
    x, y = draw(9, 2), draw(9, 4, seed=1)
    found = solve_gromov_wasserstein(x, y)
    a, b = (torch.cdist(z, z).numpy() for z in (x, y))
    a, b = (z / math.sqrt((z**2).mean()) for z in (a, b))
    partner = found.plan.argmax(1)
    for p, q in itertools.combinations(range(9), 2):
        other = partner.copy()
        other[[p, q]] = partner[[q, p]]
        assert ((a - b[np.ix_(other, other)]) ** 2).mean() >= found.distance**2 - 1e-9


def test_copies_of_rows_are_at_distance_zero_from_the_rows() -> None:
    x = draw(6, 2)
    found = solve_gromov_wasserstein(x, torch.cat([x, x]))
    assert found.distance == pytest.approx(0, abs=1e-6)
    assert "paired" not in found.starts
    with pytest.raises(InputError, match=r"'paired'\] and n_random = 4 for 6 and 12 rows"):
        solve_gromov_wasserstein(x, torch.cat([x, x]), ("paired",))


def test_many_rows_are_refused_before_the_distances() -> None:
    with pytest.raises(InputError, match=r"x has n = 2001 rows.*at most 2000"):
        gromov_wasserstein_distance(draw(2001, 1), draw(2001, 1))


def test_rtd_of_a_ring_against_a_chain_is_the_loop_of_the_ring() -> None:
    angle = torch.arange(24, dtype=torch.float64) / 24 * 2 * math.pi
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    unit = np.quantile(torch.cdist(ring, ring).numpy(), 0.9)
    cut = torch.stack([angle, torch.zeros_like(angle)], 1)
    # The chain misses one short edge, which its closed twin has: no loop is left but that of it.
    assert topology_divergence(ring, cut) > 0.2 / unit
    assert topology_divergence(ring, ring * 3 + 1) == 0


def test_rtd_takes_batches_of_larger_samples() -> None:
    x, y = draw(30, 2), draw(30, 3, seed=1)
    rows = np.random.default_rng(4).choice(30, 12, replace=False)
    assert topology_divergence(x, y, batch=12, trials=1, seed=4) == pytest.approx(
        topology_divergence(x[rows], y[rows]), abs=1e-6
    )
    assert topology_divergence(x, y, batch=30, seed=1) == topology_divergence(x, y, seed=2)
    with pytest.raises(InputError, match="batch = 3 and trials = 10"):
        topology_divergence(x, y, batch=3)


def test_rtd_without_a_unit_of_distance_is_refused() -> None:
    x = torch.zeros(30, 1)
    x[0] = 1
    with pytest.raises(InputError, match=r"x: the 0\.9 quantile of the distances between 30 rows"):
        topology_divergence(x, draw(30, 2))


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ripser", None)
    with pytest.raises(InputError, match=r"ripser: pip install interp\[extras\]"):
        topology_divergence(draw(6, 2), draw(6, 2, seed=1))
