"""Many tests: the family-wise error is held, and it costs what it says."""

import math

import numpy as np
import pytest

from interp.errors import InputError
from interp.stats import (
    benjamini_hochberg,
    benjamini_yekutieli,
    check_permutations,
    holm,
    max_t,
    max_t_by_layer,
    needed_permutations,
    permutation_p,
)


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


def test_too_few_possible_reorderings_are_refused_with_both_numbers() -> None:
    check_permutations(200, 1, possible=20)
    with pytest.raises(InputError, match=r"reordered in 19 ways .* over 1 families needs 20"):
        check_permutations(200, 1, possible=19)
    with pytest.raises(InputError, match="needs 60"):
        check_permutations(200, 3, possible=40)


def test_a_layer_is_compared_with_the_maxima_of_weaker_layers() -> None:
    permuted, observed = rng().normal(size=(99, 4, 3)), rng(1).normal(size=(4, 3)) * 2
    mean, sd = np.zeros((4, 3)), np.ones((4, 3))
    top, last, expected = observed.max(1), 0.0, np.empty(4)
    for place, layer in enumerate(order := np.argsort(-top)):
        b = sum(one[order[place:]].max() >= top[layer] for one in permuted)
        last = expected[layer] = max(last, (1 + b) / 100)
    found = max_t_by_layer(observed, permuted, mean, sd)
    assert found == pytest.approx(expected)
    cells = max_t(observed.ravel(), permuted.reshape(99, -1), mean.ravel(), sd.ravel())
    assert (found <= cells.reshape(4, 3).min(1) + 1e-12).all()
    with pytest.raises(InputError, match="12 of 12 cells do not vary"):
        max_t_by_layer(observed, permuted, mean, 0 * sd)
    with pytest.raises(InputError, match="at least one permutation"):
        max_t_by_layer(observed, permuted[:0])


@pytest.mark.slow
def test_layers_hold_the_family_wise_error() -> None:
    draws, rejected = rng(), 0
    shared = draws.normal(size=(24, 24))
    for _ in range(400):
        scores = ((draws.normal(size=(100, 24)) @ shared) ** 3).reshape(100, 6, 4)
        rejected += max_t_by_layer(scores[0], scores[1:]).min() <= 0.05
    assert abs(rejected / 400 - 0.05) <= 3.3 * math.sqrt(0.05 * 0.95 / 400)


def test_false_discovery_on_a_worked_example() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert benjamini_hochberg(p).tolist() == pytest.approx([0.02, 0.04, 0.04, 0.02])
    factor = 1 + 1 / 2 + 1 / 3 + 1 / 4
    expected = [0.02 * factor, 0.04 * factor, 0.04 * factor, 0.02 * factor]
    assert benjamini_yekutieli(p).tolist() == pytest.approx(expected)
    assert benjamini_hochberg([0.9, 0.8]).tolist() == [0.9, 0.9]


def test_false_discovery_lies_between_raw_and_holm() -> None:
    p = rng().uniform(size=50) ** 3
    assert (benjamini_hochberg(p) >= p).all()
    assert (benjamini_hochberg(p) <= holm(p) + 1e-12).all()
    assert (benjamini_yekutieli(p) >= benjamini_hochberg(p)).all()


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg, benjamini_yekutieli])
def test_what_is_no_p_value_is_refused(adjust) -> None:
    with pytest.raises(InputError, match=r"2 of 3 p-values are not in \[0, 1\]"):
        adjust([0.1, float("nan"), 1.2])


@pytest.mark.slow
def test_false_discovery_holds_its_rate() -> None:
    # 30 true nulls of 40: the expected share of false marks is 0.05 * 30 / 40.
    draws, shares = rng(), []
    for _ in range(2000):
        p = draws.uniform(size=40)
        p[:10] **= 6
        marked = benjamini_hochberg(p) <= 0.05
        shares.append(marked[10:].sum() / max(1, marked.sum()))
    spread = np.std(shares) / math.sqrt(2000)
    assert abs(np.mean(shares) - 0.05 * 30 / 40) <= 3.3 * spread
