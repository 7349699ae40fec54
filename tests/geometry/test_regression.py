"""Predictivity in the sample and on held-out rows, against explicit fits."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from interp.errors import InputError
from interp.geometry import MEASURES, r2, ridge_cv
from interp.geometry.regression import GRID, prepare_ridge
from interp.stats import make_folds


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(n: int = 40, d: int = 6, e: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    x = draw(n, d, seed=1)
    return x, x @ draw(d, e, seed=2) + 2 * draw(n, e, seed=3) + 7


def test_r2_is_that_of_a_least_squares_fit_pooled_over_columns() -> None:
    x, y = pair()
    left = y - torch.from_numpy(LinearRegression().fit(x, y).predict(x))
    expected = 1 - float(left.square().sum() / (y - y.mean(0)).square().sum())
    assert r2(x, y) == pytest.approx(expected, abs=1e-12)


def test_r2_of_one_column_is_the_squared_correlation() -> None:
    x, y = draw(30, 1), draw(30, 1, seed=1)
    assert r2(x, y) == pytest.approx(float(np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2), abs=1e-12)


def test_r2_of_unrelated_features_is_the_rank_of_x_over_n_minus_1() -> None:
    n, d = 200, 32
    values = [r2(draw(n, d, seed=s), draw(n, 10, seed=s + 100)) for s in range(30)]
    # Each has sd 0.012.
    assert float(np.mean(values)) == pytest.approx(32 / 199, abs=0.008)
    assert r2(draw(20, 19), draw(20, 4, seed=1)) == pytest.approx(1, abs=1e-12)


def explicit(x: np.ndarray, y: np.ndarray, split: np.ndarray) -> float:
    """Refit with every row left out, for every penalty; then predict the held-out part."""
    lost = total = 0.0
    for part in np.unique(split):
        train, test = np.flatnonzero(split != part), np.flatnonzero(split == part)
        size = ((x[train] - x[train].mean(0)) ** 2).sum()
        errors = []
        for share in GRID:
            a, b = x[train] - x[train].mean(0), y[train] - y[train].mean(0)
            error = 0.0
            for i in range(len(train)):
                rest = np.arange(len(train)) != i
                fit = Ridge(alpha=share * size).fit(a[rest], b[rest])
                error += ((b[i] - fit.predict(a[i : i + 1]).reshape(-1)) ** 2).sum()
            errors.append(error)
        fit = Ridge(alpha=GRID[int(np.argmin(errors))] * size).fit(x[train], y[train])
        lost += ((y[test] - fit.predict(x[test]).reshape(len(test), -1)) ** 2).sum()
        total += ((y[test] - y[train].mean(0)) ** 2).sum()
    return float(1 - lost / total)


@pytest.mark.parametrize(("d", "e"), [(6, 3), (30, 2), (1, 1)])
def test_ridge_cv_equals_refitting_without_each_row(d: int, e: int) -> None:
    x, y = pair(n=12, d=d, e=e)
    split = make_folds(range(12), 3)
    assert ridge_cv(x, y, split=split) == pytest.approx(
        explicit(x.numpy(), y.numpy(), split), abs=1e-9
    )


def test_unrelated_wide_features_predict_nothing_out_of_sample() -> None:
    values = [ridge_cv(draw(60, 300, seed=s), draw(60, 300, seed=s + 50)) for s in range(4)]
    assert max(values) < 0
    # The largest penalty of the grid predicts the mean.
    assert min(values) > -0.5
    assert r2(draw(60, 300), draw(60, 300, seed=50)) == pytest.approx(1, abs=1e-12)


def test_a_linear_map_is_found_in_its_direction() -> None:
    x = draw(200, 10)
    y = x[:, :2] @ draw(2, 3, seed=1) + 0.01 * draw(200, 3, seed=2)
    assert ridge_cv(x, y) > 0.999
    assert 0.1 < ridge_cv(y, x) < 0.3


def test_a_split_by_clusters_keeps_near_duplicates_out_of_the_fit() -> None:
    clusters = [i // 2 for i in range(80)]
    x, y = (draw(40, 200, seed=s).repeat_interleave(2, 0) for s in (1, 2))
    assert ridge_cv(x, y) > 0.5
    assert ridge_cv(x, y, split=make_folds(clusters, 5)) < 0


def test_the_split_is_that_of_the_seed() -> None:
    x, y = pair()
    assert ridge_cv(x, y) == ridge_cv(x, y, seed=0)
    assert ridge_cv(x, y) != ridge_cv(x, y, seed=1)
    labels = make_folds(range(40), 5)
    assert ridge_cv(x, y, split=labels) == ridge_cv(x, y)
    assert prepare_ridge(x).split.tolist() == labels.tolist()


def test_a_unit_that_fires_once_predicts_the_mean_where_it_is_silent() -> None:
    x = torch.zeros(40, 2)
    x[7] = 1
    assert ridge_cv(x, pair()[1]) <= 0
    assert ridge_cv(pair()[1], x) < 1


def test_four_rows_are_enough() -> None:
    assert ridge_cv(draw(4, 2), draw(4, 2, seed=1)) <= 1


def test_splits_that_do_not_fit_are_refused() -> None:
    x, y = pair()
    with pytest.raises(InputError, match=r"x: a split of shape \(30,\) into 5 parts for n = 40"):
        ridge_cv(x, y, split=np.arange(30) % 5)
    with pytest.raises(InputError, match=r"into 1 parts"):
        ridge_cv(x, y, split=np.zeros(40, dtype=int))
    ridge = MEASURES["ridge_cv"]
    with pytest.raises(InputError, match="layers with different splits"):
        ridge.values([ridge.prepare(x)], [ridge.prepare(y, seed=1)])
    split = np.arange(40) % 2
    with pytest.raises(InputError, match=r"fold 0 leaves 20 of 40 rows in 1 parts of the split"):
        ridge.deleted([ridge.prepare(x, split=split)], [ridge.prepare(y, split=split)], split)
