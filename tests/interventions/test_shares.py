"""Shares of layers: against enumeration of all orders, on games whose answer is known."""

import itertools

import numpy as np
import pytest

from interp.errors import InputError
from interp.interventions import (
    Specialization,
    compare_twins,
    make_pairs,
    measure_layers,
    measure_specialization,
    play,
    shapley,
    specialize,
)

N = 40


def _enumerate(values, n):
    """Shapley by definition: the mean marginal contribution over all L! orders."""
    out = np.zeros(n)
    orders = list(itertools.permutations(range(n)))
    for order in orders:
        mask = 0
        for layer in order:
            out[layer] += values[mask | (1 << layer)] - values[mask]
            mask |= 1 << layer
    return out / len(orders)


def _pairs(seed=0):
    rng = np.random.default_rng(seed)
    a, b, other = ({k: rng.standard_normal((N, 3)) for k in ("a", "b")} for _ in range(3))
    return make_pairs(a, b, reference=other), a, b


def _game(values, n, **more):
    """A game whose v_k(S) is `values[k](S)` exactly: C = B + v (A - B)."""
    pairs, a, b = _pairs()

    def swap(s):
        return {k: b[k] + values[k](s) * (a[k] - b[k]) for k in values}

    return play(pairs, swap, [f"layer{i}" for i in range(n)], **more)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_shapley_is_the_mean_over_all_orders(n):
    values = np.random.default_rng(n).standard_normal((2, 2**n))
    found = shapley(values, n)
    for row, exact in zip(found, values, strict=True):
        assert row == pytest.approx(_enumerate(exact, n), abs=1e-12)
    assert found.sum(1) == pytest.approx(values[:, -1] - values[:, 0], abs=1e-12)


@pytest.mark.parametrize("n", [2, 6])
def test_shares_of_a_game_are_those_of_its_values(n):
    rng = np.random.default_rng(n)
    table = rng.uniform(0.1, 0.9, (2, 2**n))
    table[:, 0] = 0

    def value(k):
        return lambda s: table[k, sum(1 << i for i in s)]

    shares = measure_layers(_game({"a": value(0), "b": value(1)}, n), n_resamples=20)
    full = 2**n - 1
    assert shares.shapley == pytest.approx(shapley(table, n), abs=1e-9)
    assert shares.first_in == pytest.approx(table[:, [1 << i for i in range(n)]], abs=1e-9)
    others = table[:, [full - (1 << i) for i in range(n)]]
    assert shares.last_in == pytest.approx(table[:, [full]] - others, abs=1e-9)
    assert shares.redundancy == pytest.approx(shares.first_in.sum(1) - table[:, full], abs=1e-9)
    assert shares.interactions is not None
    together = table[:, 3] - table[:, 1] - table[:, 2]
    assert shares.interactions[:, 0, 1] == pytest.approx(together, abs=1e-9)
    assert not shares.shapley_se.any()


def test_monte_carlo_is_within_its_error_beyond_six_layers():
    weight = np.random.default_rng(0).uniform(0.02, 0.1, 8)

    def value(s):
        return sum(weight[i] for i in s) + 0.3 * ({0, 1} <= s)

    game = _game({"a": value, "b": lambda s: len(s) / 8}, 8, n_orders=60)
    shares = measure_layers(game, n_resamples=20)
    table = np.array([value({i for i in range(8) if mask >> i & 1}) for mask in range(256)])
    exact = shapley(table, 8)
    error = np.abs(shares.shapley[0] - exact)
    assert shares.shapley_se[0, :2].min() > 0.01
    assert (error <= 4 * shares.shapley_se[0] + 1e-9).all()
    # Without interactions every order gives the same.
    assert shares.shapley_se[1] == pytest.approx(np.zeros(8), abs=1e-9)
    assert shares.shapley[1] == pytest.approx(np.full(8, 1 / 8), abs=1e-9)
    assert shares.interactions is not None
    assert shares.interactions[0, 0, 1] == pytest.approx(0.3, abs=1e-9)
    few = _game({"a": value, "b": value}, 8, n_orders=2, interactions=False)
    assert measure_layers(few, n_resamples=2).interactions is None


def test_shares_are_interpreted_only_where_first_in_and_last_in_agree():
    redundant = {"a": lambda s: 1.0, "b": lambda s: len(s) / 3}
    synergistic = {"a": lambda s: float(len(s) == 3), "b": lambda s: len(s) / 3}
    assert measure_layers(_game(redundant, 3), n_resamples=20).kinds == ("redundant", "additive")
    found = measure_layers(_game(synergistic, 3), n_resamples=20)
    assert found.kinds == ("synergistic", "additive")
    assert found.redundancy == pytest.approx([-1, 0], abs=1e-9)

    def both(s):
        # Layers 0 and 1 are copies; 2 and 3 work only together.
        return 0.5 * bool(s & {0, 1}) + 0.5 * ({2, 3} <= s)

    mixed = measure_layers(_game({"a": both, "b": both}, 4), n_resamples=20)
    assert mixed.kinds == ("mixed", "mixed")


def test_noise_leaves_the_kind_undecided():
    pairs, a, b = _pairs()
    rng = np.random.default_rng(1)

    def swap(s):
        noise = {k: 2 * rng.standard_normal((N, 3)) for k in a}
        return {k: b[k] + len(s) / 2 * (a[k] - b[k]) + noise[k] for k in a}

    assert measure_layers(play(pairs, swap, ["l", "m"])).kinds == ("undecided", "undecided")


def test_specialization_is_one_for_one_layer_each_and_zero_for_equal_shares():
    own = np.kron(np.eye(3), [[0.5, 0.5]])[None]
    assert specialize(own, own) == pytest.approx(1, abs=1e-12)
    even = np.full((1, 3, 6), 1 / 6)
    assert specialize(even, even) == pytest.approx(0, abs=1e-12)
    uneven = np.tile([0.5, 0.3, 0.1, 0.1, 0, 0], (1, 3, 1))
    assert specialize(uneven, uneven) == pytest.approx(0, abs=1e-12)
    # A step that writes one attribute only is no division of labor among its layers.
    steps = np.einsum("tk,l->tkl", np.eye(3), np.full(6, 1 / 6))
    assert specialize(steps, steps) == pytest.approx(0, abs=1e-12)
    assert specialize(np.stack([own[0]] * 2), np.stack([own[0]] * 2)) == pytest.approx(1)


def test_specialization_of_noise_is_centered_on_zero_and_negative_as_often():
    rng = np.random.default_rng(0)
    first, second = (1 / 6 + 0.05 * rng.standard_normal((2000, 1, 3, 6)) for _ in range(2))
    found = specialize(first, second)
    assert abs(found.mean()) < 0.01
    assert 0.4 < (found < 0).mean() < 0.6


def test_specialization_is_undefined_where_the_total_is_near_zero():
    small = np.full((1, 3, 6), 0.04 / 6)
    assert np.isnan(specialize(small, small))
    assert np.isnan(specialize(small * 10, -small * 10))
    game = _game({"a": lambda s: 0.0, "b": lambda s: 0.0}, 3)
    assert measure_specialization(game, n_resamples=20).value is None


def _found(value, se=0.01):
    return Specialization(value, None, None, se, 100)


def test_a_model_that_is_one_more_twin_is_inside_and_one_beyond_them_is_not():
    rng = np.random.default_rng(0)
    outside = 0
    for _ in range(400):
        values = 0.3 + 0.1 * rng.standard_normal(7)
        excess = compare_twins(_found(values[0], 0), [_found(v) for v in values[1:]])
        assert excess.low is not None
        outside += excess.low > 0
    # One-sided 0.5 %: 2 expected.
    assert outside <= 8
    twins = [_found(0.1 + 0.01 * i) for i in range(5)]
    excess = compare_twins(_found(0.9), twins)
    assert excess.low is not None
    assert excess.low > 0.6
    assert excess.twins == pytest.approx([0.1, 0.11, 0.12, 0.13, 0.14])


def test_undefined_twins_are_left_out_and_too_few_refused():
    nothing = Specialization(None, None, None, None, 100)
    assert len(compare_twins(_found(0.5), [_found(0.1), nothing, _found(0.2)]).twins) == 2
    assert compare_twins(nothing, [_found(0.1), _found(0.2)]).value is None
    with pytest.raises(InputError, match="1 of 2 twins have a specialization"):
        compare_twins(_found(0.5), [_found(0.1), nothing])


def test_games_that_make_no_sense_are_refused():
    values = {"a": lambda s: 0.5, "b": lambda s: 0.5}
    with pytest.raises(InputError, match="1 layers, 64 orders"):
        _game(values, 1)
    with pytest.raises(InputError, match="role 'source'"):
        _game(values, 2, role="source")
    with pytest.raises(InputError, match="7 values for 3 layers; 2\\^L = 8"):
        shapley(np.zeros(7), 3)
    with pytest.raises(InputError, match="two equal"):
        specialize(np.zeros((1, 1, 4)), np.zeros((1, 1, 4)))
    with pytest.raises(InputError, match="2 games of 2 kinds"):
        measure_specialization([_game(values, 2), _game(values, 3)])
