"""Many tests: the family-wise error is held, and it costs what it says."""

import math

import numpy as np
import pytest

from interp.errors import InputError
from interp.stats import check_permutations, holm, max_t, needed_permutations, permutation_p


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_max_t_of_one_cell_is_the_plain_p() -> None:
    permuted = rng().normal(size=(199, 1))
    for value in (-1.0, 0.3, 2.0, 9.0):
        observed = np.array([value])
        assert max_t(observed, permuted)[0] == permutation_p(observed, permuted)[0]


def test_max_t_equals_the_definition_of_step_down() -> None:
    permuted, observed = rng().normal(size=(99, 6)), rng(1).normal(size=6) * 2
    mean, sd = np.zeros(6), np.ones(6)
    expected, last = np.empty(6), 0.0
    order = np.argsort(-observed)
    for place, cell in enumerate(order):
        rest = order[place:]
        b = sum(row[rest].max() >= observed[cell] for row in permuted)
        last = expected[cell] = max(last, (1 + b) / 100)
    assert max_t(observed, permuted, mean, sd) == pytest.approx(expected)


def test_max_t_is_stricter_than_each_cell_alone_and_ignores_units() -> None:
    permuted, observed = rng().normal(size=(199, 20)), rng(1).normal(size=20) + 1
    adjusted = max_t(observed, permuted)
    assert (adjusted >= permutation_p(observed, permuted) - 1e-12).all()
    scale = np.logspace(-6, 6, 20)
    assert max_t(observed * scale + 3 * scale, permuted * scale + 3 * scale) == pytest.approx(
        adjusted
    )


def test_max_t_refuses_cells_that_do_not_vary() -> None:
    with pytest.raises(InputError, match="1 of 2 cells do not vary"):
        max_t(np.array([0.0, 1.0]), np.array([[0.0, 2.0]] * 3 + [[0.0, 1.0]]))
    with pytest.raises(InputError, match="at least one permutation"):
        max_t(np.zeros(2), np.zeros((0, 2)))


@pytest.mark.slow
def test_max_t_holds_the_family_wise_error() -> None:
    # 40 dependent cells; rejecting any at 5 % happens in 5 % of families: binomial 99.9 % bound.
    draws = rng()
    shared = draws.normal(size=(40, 40))
    rejected = 0
    for _ in range(400):
        scores = (draws.normal(size=(200, 40)) @ shared) ** 3
        rejected += max_t(scores[0], scores[1:]).min() <= 0.05
    assert rejected / 400 <= 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / 400)
    assert rejected / 400 >= 0.05 - 3.1 * math.sqrt(0.05 * 0.95 / 400)


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_too_few_permutations_name_the_number_needed() -> None:
    assert needed_permutations(1) == 200
    assert needed_permutations(30) == 599
    check_permutations(599, 30)
    with pytest.raises(InputError, match=r"598 permutations cannot .* 30 families .*=599"):
        check_permutations(598, 30)
    with pytest.raises(InputError, match="use n_permutations=200"):
        check_permutations(19, 1)
