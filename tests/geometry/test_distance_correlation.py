"""Distance correlation: closed forms, exact null moments, its kinship with whitened RSA."""

import itertools
import math

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.geometry import MEASURES
from interp.geometry.distance_correlation import (
    distance_correlation_squared,
    distance_correlation_u,
    distance_correlation_v,
)
from interp.geometry.rsa import rdm_similarity


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_small_case_by_hand() -> None:
    # a: |i - j| of 0, 1, 2, 3, double-centered; b: of 0, 1, 0, 1.
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    y = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    a = np.array([[-7, -1, 3, 5], [-1, -3, 1, 3], [3, 1, -3, -1], [5, 3, -1, -7]]) / 4
    b = np.array([[-1, 1, -1, 1], [1, -1, 1, -1], [-1, 1, -1, 1], [1, -1, 1, -1]]) / 2
    expected = (a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum())
    assert distance_correlation_squared(x, y) == pytest.approx(expected, abs=1e-12)
    assert distance_correlation_v(x, y) == pytest.approx(math.sqrt(expected), abs=1e-12)


def test_of_a_bivariate_normal_it_is_the_known_function_of_r() -> None:
    r = 0.6
    both = draw(700, 2)
    x, y = both[:, :1], r * both[:, :1] + math.sqrt(1 - r * r) * both[:, 1:]
    top = r * math.asin(r) + math.sqrt(1 - r * r) - r * math.asin(r / 2) - math.sqrt(4 - r * r) + 1
    bottom = 1 + math.pi / 3 - math.sqrt(3)
    # Szekely et al. 2007, theorem 7.
    assert distance_correlation_u(x, y) == pytest.approx(top / bottom, abs=0.06)


def test_the_square_is_the_whitened_cosine_of_euclidean_distances() -> None:
    x, y = draw(20, 5), draw(20, 3, seed=1)
    expected = rdm_similarity(x, y, "euclidean", "whitened")
    assert distance_correlation_squared(x, y) == pytest.approx(expected, abs=1e-12)


def test_independent_wide_features_have_no_bias_corrected_correlation() -> None:
    parts = [(draw(40, 400, seed=s), draw(40, 400, seed=s + 50)) for s in range(8)]
    assert min(distance_correlation_v(x, y) for x, y in parts) > 0.9
    assert np.mean([distance_correlation_u(x, y) for x, y in parts]) == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize("name", ["distance_correlation_squared", "distance_correlation_u"])
@pytest.mark.parametrize("seed", [0, 1])
def test_null_moments_are_exact_over_all_pairings(name: str, seed: int) -> None:
    x, y = draw(6, 2, seed=seed).exp(), draw(6, 9, seed=seed + 5)
    measure = MEASURES[name]
    assert measure.moments is not None
    xs, ys = [measure.prepare(x)], [measure.prepare(y)]
    orders = np.array(list(itertools.permutations(range(6))))
    values = measure.permuted(xs, ys, orders).flatten()
    mean, sd = measure.moments(xs, ys)
    assert float(mean) == pytest.approx(float(values.mean()), abs=1e-6)
    assert float(sd) == pytest.approx(float(values.std(correction=0)), abs=1e-6)
    if name == "distance_correlation_u":
        assert float(mean) == pytest.approx(0, abs=1e-12)
        assert float(sd) == pytest.approx(math.sqrt(2 / (6 * 3)), abs=1e-12)


def test_rows_equally_far_from_each_other_are_refused() -> None:
    with pytest.raises(InputError, match="x: nothing is left of its distances"):
        distance_correlation_u(torch.eye(8), torch.eye(8))
