"""Closed forms equal the mean and sd over every one of the n! pairings."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from interp.errors import InputError
from interp.stats import (
    expected_cka,
    expected_overlap,
    expected_r2,
    expected_r2_cca,
    u_centered_null,
)

N = 6
ORDERS = [list(order) for order in itertools.permutations(range(N))]


def centered(d: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(N, d)) * np.arange(1, d + 1)
    return x - x.mean(0)


def over_all_pairings(statistic: Callable[[np.ndarray, np.ndarray], float], x, y) -> np.ndarray:
    return np.array([statistic(x, y[order]) for order in ORDERS])


def u_centered(x: np.ndarray) -> np.ndarray:
    gram = x @ x.T
    np.fill_diagonal(gram, 0)
    n, rows = len(gram), gram.sum(1)
    out = gram - (rows[:, None] + rows) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(out, 0)
    return out / np.linalg.norm(out)


def test_u_centered_matrices_have_mean_zero_and_one_sd_for_all_features() -> None:
    mean, sd = u_centered_null(N)
    for x, y in ((centered(2, 0), centered(9, 1)), (centered(1, 2) ** 3, centered(3, 3))):
        values = over_all_pairings(lambda a, b: (u_centered(a) * u_centered(b)).sum(), x, y)
        assert values.mean() == pytest.approx(mean, abs=1e-12)
        assert values.std() == pytest.approx(sd)
    with pytest.raises(InputError, match="n = 3 rows"):
        u_centered_null(3)


def participation(x: np.ndarray) -> float:
    gram = x @ x.T
    return float(np.trace(gram) ** 2 / (gram**2).sum())


def test_biased_cka_has_the_mean_of_the_participation_ratios() -> None:
    def cka(a: np.ndarray, b: np.ndarray) -> float:
        norms = np.linalg.norm(a @ a.T) * np.linalg.norm(b @ b.T)
        return float(np.linalg.norm(a.T @ b) ** 2 / norms)

    x, y = centered(2, 0), centered(9, 1)
    expected = expected_cka(N, participation(x), participation(y))
    assert over_all_pairings(cka, x, y).mean() == pytest.approx(expected)
    with pytest.raises(InputError, match=r"participation ratio 7 of n = 6 rows"):
        expected_cka(N, 7, 1)


def test_overlaps_of_neighbors_have_the_mean_k_of_n_minus_one() -> None:
    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        near = []
        for z in (a, b):
            away = np.linalg.norm(z[:, None] - z, axis=2) + 1e9 * np.eye(N)
            near.append(away.argsort(1)[:, :2])
        return sum(len({*p} & {*q}) for p, q in zip(*near, strict=True)) / (2 * N)

    values = over_all_pairings(overlap, centered(3, 0), centered(2, 1))
    assert values.mean() == pytest.approx(expected_overlap(N, 2))
    with pytest.raises(InputError, match="k = 6 neighbors of n = 6"):
        expected_overlap(N, 6)


def projector(x: np.ndarray) -> np.ndarray:
    q = np.linalg.qr(x)[0]
    return q @ q.T


def test_in_sample_fits_have_the_mean_rank_of_n_minus_one() -> None:
    x, y = centered(2, 0), centered(4, 1)
    fits = over_all_pairings(lambda a, b: (projector(a) @ b * b).sum() / (b * b).sum(), x, y)
    assert fits.mean() == pytest.approx(expected_r2(N, 2))
    shared = over_all_pairings(lambda a, b: np.trace(projector(a) @ projector(b)) / 2, x, y)
    assert shared.mean() == pytest.approx(expected_r2_cca(N, 2, 4))
    assert expected_r2(N, 5) == 1
    with pytest.raises(InputError, match=r"rank 6 of n = 6 centered rows is not in \[1, 5\]"):
        expected_r2_cca(N, 6, 1)
    assert math.isclose(expected_r2_cca(N, 4, 2), expected_r2_cca(N, 2, 4))
