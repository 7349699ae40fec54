"""Canonical correlations, SVCCA, PWCCA and GULP against independent formulas and closed forms."""

import itertools

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from interp.errors import InputError
from interp.geometry import MEASURES, cca, cca_r2, gulp, pwcca, svcca
from interp.geometry.canonical_basis import decompose, decompose_standardized, leave_out
from interp.geometry.canonical_pwcca import pwcca_narrow
from interp.geometry.canonical_svcca import (
    by_singular_values,
    by_variance,
    svcca_rank10,
    svcca_singular,
    svcca_standardized10,
)
from interp.geometry.canonical_traces import permuted_traces

ALL = ["cca", "cca_r2", "svcca", "svcca_singular", "svcca_rank10", "svcca_standardized10"]
ALL += ["pwcca", "pwcca_narrow", "gulp"]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def centered(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(0)


def cosines(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Canonical correlations as the cosines of the angles between the column spaces."""
    return np.cos(subspace_angles(centered(x).numpy(), centered(y).numpy()))


def pair(n: int = 60, d: int = 5, e: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    x = draw(n, d, seed=1)
    return x, x @ draw(d, e, seed=2) + 2 * draw(n, e, seed=3)


def test_cca_is_the_mean_cosine_of_the_angles_between_the_column_spaces() -> None:
    x, y = pair()
    assert cca(x, y) == pytest.approx(cosines(x, y).mean(), abs=1e-12)
    assert cca_r2(x, y) == pytest.approx((cosines(x, y) ** 2).mean(), abs=1e-12)


def test_cca_of_one_column_is_the_absolute_correlation() -> None:
    x, y = draw(30, 1), draw(30, 1, seed=1)
    assert cca(x, y) == pytest.approx(abs(float(np.corrcoef(x[:, 0], y[:, 0])[0, 1])), abs=1e-12)


def test_spaces_that_both_fill_all_directions_have_cca_1() -> None:
    x, y = draw(6, 8), draw(6, 8, seed=1)
    assert cca_r2(x, y) == pytest.approx(1, abs=1e-12)
    # Divided by the number of columns instead of the number of correlations.
    assert cca_r2(x, y) * decompose(x).rank / 8 == pytest.approx(0.625, abs=1e-12)


def test_r2_cca_of_unrelated_features_is_the_larger_width_over_n_minus_1() -> None:
    n, d, e = 300, 50, 20
    values = [cca_r2(draw(n, d, seed=s), draw(n, e, seed=s + 100)) for s in range(20)]
    # Each has sd 0.008.
    assert float(np.mean(values)) == pytest.approx(50 / 299, abs=0.006)


@pytest.mark.parametrize("name", ["cca_r2", "r2"])
@pytest.mark.parametrize(("d", "e"), [(1, 3), (3, 2), (4, 4), (2, 9)])
def test_null_moments_are_exact_over_all_pairings(name: str, d: int, e: int) -> None:
    x, y = draw(6, d, seed=d).exp(), draw(6, e, seed=e + 10)
    prepared = ([MEASURES[name].prepare(z)] for z in (x, y))
    layers = list(prepared)
    orders = np.array(list(itertools.permutations(range(6))))
    values = MEASURES[name].permuted(*layers, orders).flatten()
    moments = MEASURES[name].moments
    assert moments is not None
    mean, sd = moments(*layers)
    rank = min(max(d, e) if name == "cca_r2" else d, 5)
    assert float(mean) == pytest.approx(rank / 5, abs=1e-12)
    assert float(mean) == pytest.approx(float(values.mean()), abs=1e-6)
    assert float(sd) == pytest.approx(float(values.std(correction=0)), abs=2e-6)


def test_a_direction_that_is_float32_rounding_does_not_count() -> None:
    x = draw(50, 4).float()
    # Rows that sum to 0, but for rounding.
    x = torch.cat([x, -x.sum(1, keepdim=True)], 1) / 3
    assert decompose(x).rank == 4
    assert decompose(torch.cat([x, 1e-3 * draw(50, 1, seed=1)], 1)).rank == 5


def test_the_rank_knows_what_a_far_origin_costs() -> None:
    x = torch.cat([draw(50, 3), torch.full((50, 2), 0.1)], 1)
    for shift in (0.0, 1e3, 1e8):
        assert decompose(x + shift).rank == 3


def test_traces_agree_on_both_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [decompose(draw(40, 30, seed=s)).u for s in range(3)]
    second = [decompose(draw(40, 20, seed=10 + s)).u for s in range(2)]
    orders = np.stack([np.random.default_rng(s).permutation(40) for s in range(4)])
    by_gram = permuted_traces(first, second, orders)
    monkeypatch.setattr("interp.geometry.canonical_traces.MAX_GRAM_BYTES", 0)
    by_factors = permuted_traces(first, second, orders)
    # Traces of projections of rank 20 and 30.
    assert torch.allclose(by_gram, by_factors, rtol=0, atol=2e-5)
    assert not torch.equal(by_gram, by_factors)


@pytest.mark.parametrize("name", ALL)
def test_a_fold_that_leaves_nothing_is_refused(name: str) -> None:
    x, alone = draw(40, 3), torch.zeros(40, 2)
    alone[0] = 1
    folds = np.array([0] * 38 + [1, 2])
    prepare, deleted = MEASURES[name].prepare, MEASURES[name].deleted
    with pytest.raises(InputError, match=r"fold 0 leaves 2 of 40 rows"):
        deleted([prepare(x)], [prepare(x)], folds)
    with pytest.raises(InputError, match=r"without fold 1 a representation is constant"):
        deleted([prepare(alone)], [prepare(x)], np.array([1] + [0] * 20 + [2] * 19))


@pytest.mark.parametrize("d", [5, 30])
def test_the_basis_without_a_fold_is_that_of_the_rows_left(d: int) -> None:
    x = draw(24, d) * torch.logspace(-3, 0, d, dtype=torch.float64)
    rows = torch.tensor([0, 5, 6, 20])
    kept = torch.ones(24, dtype=torch.bool)
    kept[rows] = False
    for prepare, standardized in ((decompose, False), (decompose_standardized, True)):
        fast = leave_out(prepare(x), rows, 0, standardized=standardized)
        slow = prepare(x[kept])
        assert torch.allclose(fast.s, slow.s, rtol=0, atol=1e-12)
        again = (fast.u * fast.s) @ fast.right
        assert torch.allclose(again, (slow.u * slow.s) @ slow.right, rtol=0, atol=1e-11)


# SVCCA


def leading(x: torch.Tensor, count: int) -> torch.Tensor:
    """Principal components from the covariance."""
    _, vectors = torch.linalg.eigh(torch.cov(x.T))
    return centered(x) @ vectors.flip(1)[:, :count]


def test_svcca_is_the_cca_of_the_leading_components() -> None:
    x, y = pair()
    x, y = x * torch.tensor([5, 3, 1, 0.3, 0.1]), y * torch.logspace(0, -2, 9)
    counts = [by_variance(decompose(z).s) for z in (x, y)]
    assert counts[0] == 3
    assert counts[1] < 9
    expected = cosines(*(leading(z, m) for z, m in zip((x, y), counts, strict=True))).mean()
    assert svcca(x, y) == pytest.approx(expected, abs=1e-9)
    assert svcca(x, y, variance=1.0) == pytest.approx(cca(x, y), abs=1e-12)


def test_svcca_at_a_given_rank_is_deterministic() -> None:
    x, y = draw(50, 20), draw(50, 30, seed=1)
    expected = cosines(leading(x, 10), leading(y, 10)).mean()
    assert svcca_rank10(x, y) == pytest.approx(expected, abs=1e-9)
    assert len({svcca_rank10(x, y) for _ in range(3)}) == 1
    assert svcca_rank10(x[:, :4], y[:, :7]) == pytest.approx(cca(x[:, :4], y[:, :7]), abs=1e-12)


def test_a_share_that_is_met_exactly_is_enough() -> None:
    s = torch.tensor([0.99, 0.01], dtype=torch.float64).sqrt()
    assert by_variance(s) == 1
    assert by_variance(s, 0.9901) == 2


def test_a_threshold_on_singular_values_keeps_other_components() -> None:
    s = torch.tensor([10.0, 1.0, 1.0], dtype=torch.float64)
    # Of squares: 100, 101 and 102 of 102; of singular values: 10, 11 and 12 of 12.
    assert by_variance(s) == 2
    assert by_variance(s, 0.8) == 1
    assert by_singular_values(s, 0.9) == 1
    assert by_singular_values(s, 0.95) == 2
    assert by_singular_values(s[:1]) == 1
    x, y = draw(50, 12) * torch.logspace(0, -2, 12), draw(50, 7, seed=1)
    assert abs(svcca_singular(x, y) - svcca(x, y)) > 1e-3


def test_standardized_svcca_ignores_the_scale_of_columns_and_constant_ones() -> None:
    x, y = draw(50, 20), draw(50, 30, seed=1)
    z = [(a - a.mean(0)) / a.std(0) for a in (x, y)]
    assert svcca_standardized10(x, y) == pytest.approx(svcca_rank10(*z), abs=1e-10)
    wider = torch.cat([x * torch.logspace(-4, 4, 20), torch.full((50, 2), 7.3)], 1)
    assert svcca_standardized10(wider, y) == pytest.approx(svcca_standardized10(x, y), abs=1e-9)


# PWCCA


def projection_weighted(x: torch.Tensor, y: torch.Tensor) -> float:
    """In R^n: variates of x from the projections, weights from its columns, one at a time."""
    x, y = centered(x), centered(y)
    onto_x, onto_y = (z @ torch.linalg.pinv(z) for z in (x, y))
    squared, variates = torch.linalg.eigh(onto_x @ onto_y @ onto_x)
    count = min(x.shape[1], y.shape[1])
    rho, h = squared[-count:].clamp(0, 1).sqrt(), variates[:, -count:]
    weights = torch.stack([(x.T @ h[:, i]).abs().sum() for i in range(count)])
    return float((weights * rho).sum() / weights.sum())


@pytest.mark.parametrize(("d", "e"), [(5, 9), (9, 5), (1, 4), (4, 1), (6, 6)])
def test_pwcca_weights_correlations_by_what_they_carry_of_x(d: int, e: int) -> None:
    x, y = pair(d=d, e=e)
    assert pwcca(x, y) == pytest.approx(projection_weighted(x, y), abs=1e-7)
    assert pwcca(y, x) == pytest.approx(projection_weighted(y, x), abs=1e-7)
    if d > 1 and e > 1:
        assert abs(pwcca(x, y) - pwcca(y, x)) > 1e-4


def test_a_space_inside_the_other_has_pwcca_1_in_both_directions() -> None:
    x = draw(60, 9)
    part = x[:, :4] @ draw(4, 4, seed=1)
    # Weights that also run over directions of x without a partner would give less.
    assert pwcca(x, part) == pytest.approx(1, abs=1e-12)
    assert pwcca(part, x) == pytest.approx(1, abs=1e-12)


def test_narrow_pwcca_takes_the_weights_of_the_narrower_side() -> None:
    x, y = pair(d=5, e=9)
    assert pwcca_narrow(x, y) == pwcca(x, y)
    assert pwcca_narrow(y, x) == pwcca(x, y)
    assert pwcca_narrow(x, y[:, :5]) == pwcca(x, y[:, :5])


# GULP


def hat(x: torch.Tensor, ridge: float) -> torch.Tensor:
    x = centered(x)
    x = x / x.norm()
    return x @ torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype), x.T)


@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0])
def test_gulp_is_the_distance_of_the_ridge_predictions(ridge: float) -> None:
    x, y = pair()
    expected = float((hat(x, ridge) - hat(y, ridge)).norm())
    assert gulp(x, y, ridge=ridge) == pytest.approx(expected, rel=1e-9)
    assert MEASURES["gulp"].distance


def test_gulp_without_a_ridge_is_a_function_of_the_canonical_correlations() -> None:
    x, y = pair(n=100, d=20, e=30)
    expected = 20 + 30 - 2 * (cosines(x, y) ** 2).sum()
    assert gulp(x, y, ridge=0) ** 2 == pytest.approx(expected, abs=1e-9)
    mixed = x @ draw(20, 20, seed=5)
    assert gulp(mixed, y, ridge=0) ** 2 == pytest.approx(expected, abs=1e-8)


def test_gulp_with_a_large_ridge_compares_covariances() -> None:
    x, y = pair()
    a, b = (centered(z) / centered(z).norm() for z in (x, y))
    expected = float((a @ a.T - b @ b.T).norm())
    assert 1e6 * gulp(x, y, ridge=1e6) == pytest.approx(expected, rel=1e-5)


def test_gulp_of_nearly_equal_geometries_keeps_its_digits() -> None:
    x = draw(60, 5)
    for distance in (1e-3, 1e-6, 1e-9):
        y = x + distance * draw(60, 5, seed=1)
        ratio = gulp(x, y, ridge=0) / distance
        assert ratio == pytest.approx(
            gulp(x, x + 1e-4 * (y - x) / distance, ridge=0) / 1e-4, rel=0.01
        )
    assert gulp(x, x @ torch.linalg.qr(draw(5, 5, seed=2))[0]) < 1e-12


def test_gulp_obeys_the_triangle_inequality() -> None:
    layers = [draw(30, 2 + s, seed=s) for s in range(5)]
    for a, b, c in itertools.permutations(layers, 3):
        assert gulp(a, c) <= gulp(a, b) + gulp(b, c) + 1e-12


def test_a_negative_ridge_is_refused() -> None:
    with pytest.raises(InputError, match=r"ridge = -1; it is a share of the total variance"):
        gulp(*pair(), ridge=-1)
