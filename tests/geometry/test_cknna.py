"""CKNNA in both readings: by hand, exact nulls, limits."""

import itertools

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.geometry import MEASURES, debiased_cka
from interp.geometry.cknna import cknna, cknna_code

PAIRINGS = np.array(list(itertools.permutations(range(6))))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    gram = x @ x.T
    hidden = gram.clone().fill_diagonal_(-torch.inf)
    return gram, torch.zeros_like(gram).scatter_(1, hidden.topk(k, 1).indices, 1.0)


def by_formula(x: torch.Tensor, y: torch.Tensor, k: int) -> float:
    """sum_ij A(i, j) (K_ij - mean_l K_il) (L_ij - mean_l L_il), entry by entry."""
    (gram_x, near_x), (gram_y, near_y) = masks(x, k), masks(y, k)

    def align(a, near_a, b, near_b) -> float:
        pairs = itertools.product(range(len(a)), repeat=2)
        return sum(
            float((a[i, j] - a[i].mean()) * (b[i, j] - b[i].mean()))
            for i, j in pairs
            if near_a[i, j] and near_b[i, j]
        )

    own = align(gram_x, near_x, gram_x, near_x) * align(gram_y, near_y, gram_y, near_y)
    return align(gram_x, near_x, gram_y, near_y) / own**0.5


def by_code(x: torch.Tensor, y: torch.Tensor, k: int) -> float:
    """Song's estimator of the masked kernels, by matrix products."""
    (gram_x, near_x), (gram_y, near_y) = masks(x, k), masks(y, k)
    n = len(x)

    def hsic(p, q) -> float:
        total = torch.trace(p @ q) + p.sum() * q.sum() / ((n - 1) * (n - 2))
        return float((total - 2 * (p @ q).sum() / (n - 2)) / (n * (n - 3)))

    both = near_x * near_y
    own = hsic(near_x * gram_x, near_x * gram_x) * hsic(near_y * gram_y, near_y * gram_y)
    return hsic(both * gram_x, both * gram_y) / own**0.5


@pytest.mark.parametrize("normed", [False, True])
def test_both_readings_equal_their_formulas_and_differ(normed: bool) -> None:
    x = draw(30, 4)
    y = x @ draw(4, 6, seed=1) + draw(30, 6, seed=2)
    if normed:
        x, y = (z / z.norm(dim=1, keepdim=True) for z in (x, y))
    paper, code = cknna(x, y, 0.2), cknna_code(x, y, 0.2)
    assert paper == pytest.approx(by_formula(x, y, 6), abs=1e-12)
    assert code == pytest.approx(by_code(x, y, 6), abs=1e-12)
    assert abs(paper - code) > 0.01


def test_the_code_depends_on_which_comes_first_and_the_paper_does_not() -> None:
    x, y = draw(30, 4), draw(30, 4, seed=1)
    assert cknna(x, y, 0.2) == pytest.approx(cknna(y, x, 0.2), abs=1e-12)
    assert abs(cknna_code(x, y, 0.2) - cknna_code(y, x, 0.2)) > 1e-4


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_null_moments_of_cknna_are_exact_over_all_pairings(k: int) -> None:
    xs, ys = (
        [MEASURES["cknna"].prepare(draw(6, 2, seed=k + s), n_neighbors=k / 6)] for s in (0, 5)
    )
    values = MEASURES["cknna"].permuted(xs, ys, PAIRINGS)
    mean, sd = MEASURES["cknna"].moments(xs, ys)  # pyright: ignore
    assert float(values.mean()) == pytest.approx(float(mean), abs=1e-12)
    assert float(values.std(correction=0)) == pytest.approx(float(sd), abs=1e-10)


def test_with_nearly_all_neighbors_the_code_nears_debiased_cka() -> None:
    x = draw(60, 5)
    y = x @ draw(5, 5, seed=1)
    x, y = x - x.mean(0), y - y.mean(0)
    assert cknna_code(x, y, 57 / 60) == pytest.approx(debiased_cka(x, y), abs=0.1)


def test_a_kernel_that_is_zero_at_all_neighbors_is_refused() -> None:
    # Each row has one opposite and is orthogonal to all others; the mean is zero.
    x, y = torch.eye(8, dtype=torch.float64), draw(16, 3)
    x = torch.cat([x, -x])
    for name, function in (("cknna", cknna), ("cknna_code", cknna_code)):
        with pytest.raises(InputError, match="the self-term of a representation is 0, not posi"):
            function(x, y, 0.1)
        layers = [[MEASURES[name].prepare(z, n_neighbors=0.1)] for z in (x, y)]
        for pair in (layers, layers[::-1]):
            with pytest.raises(InputError, match="the self-term of a representation is 0, not"):
                MEASURES[name].values(*pair)
