"""Pooled shares, their ends and intervals, and what they refuse."""

import numpy as np
import pytest

from interp.errors import InputError
from interp.interventions import (
    UNRELATED_TAU,
    make_pairs,
    measure_effect,
    transfer_ratio,
)
from interp.interventions.effects import draw_pairs, make_moments, solve_shares


def _images(n, seed, **widths):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((n, d)) for name, d in (widths or {"a": 3, "b": 5}).items()}


def _pairs(n=60, **more):
    return make_pairs(_images(n, 0), _images(n, 1), reference=_images(37, 2), **more)


def _mix(x, y, f):
    return {name: f(x[name], y[name]) for name in x}


@pytest.mark.parametrize("m", [0, 1])
def test_an_origin_of_fewer_than_two_reference_images_is_refused(m):
    a, b = _images(12, 0), _images(12, 1)
    with pytest.raises(InputError, match=f"{m} reference images"):
        make_pairs(a, b, reference={name: rows[:m] for name, rows in a.items()})


def test_shares_are_those_of_least_squares():
    a, b, c, reference = (_images(31, seed) for seed in range(4))
    pairs = make_pairs(a, b, reference=reference)
    found = solve_shares(make_moments(pairs, c).sum(0))
    for k, name in enumerate(a):
        origin = reference[name].mean(0)
        design = np.stack([(a[name] - origin).ravel(), (b[name] - origin).ravel()], axis=1)
        target = (c[name] - origin).ravel()
        solution, rest, *_ = np.linalg.lstsq(design, target)
        assert found.alpha[k] == pytest.approx(solution[0], abs=1e-12)
        assert found.beta[k] == pytest.approx(solution[1], abs=1e-12)
        assert found.damage[k] == pytest.approx(rest[0] / (target @ target), abs=1e-12)


def test_the_identity_carrier_gives_exactly_zero_and_the_full_state_exactly_one():
    a, b = _images(60, 0), _images(60, 1)
    pairs = _pairs()
    for swapped, alpha, beta in ((b, 0, 1), (a, 1, 0)):
        effect = measure_effect(pairs, swapped, carrier="c", n_resamples=50)
        for row in effect.attributes.values():
            assert (row.alpha, row.beta) == (alpha, beta)
            assert row.damage == pytest.approx(0, abs=1e-12)
            assert row.alpha_low == pytest.approx(alpha, abs=1e-12)
            assert row.alpha_high == pytest.approx(alpha, abs=1e-12)
        assert effect.sufficiency.value == alpha


def test_an_unrelated_image_has_no_shares_and_full_damage_but_a_tau_of_one_half():
    pairs = make_pairs(_images(2000, 0), _images(2000, 1), reference=_images(2000, 2))
    garbage = _images(2000, 3)
    effect = measure_effect(pairs, garbage, carrier="garbage", n_resamples=50)
    for row in effect.attributes.values():
        assert abs(row.alpha) < 0.05
        assert abs(row.beta) < 0.05
        assert row.damage == pytest.approx(1, abs=0.01)
    for name in garbage:
        tau = transfer_ratio(pairs.donor[name], pairs.recipient[name], garbage[name])
        assert tau == pytest.approx(UNRELATED_TAU, abs=0.02)


def test_tau_is_zero_at_the_recipient_and_one_at_the_donor():
    a, b = _images(5, 0)["a"], _images(5, 1)["a"]
    assert transfer_ratio(a, b, b) == 0
    assert transfer_ratio(a, b, a) == 1


def test_a_planted_mixture_is_found_without_clipping():
    a, b = _images(60, 0), _images(60, 1)
    effect = measure_effect(_pairs(), _mix(a, b, lambda x, y: 1.2 * x - 0.2 * y), carrier="c")
    for row in effect.attributes.values():
        assert row.alpha == pytest.approx(1.2, abs=1e-12)
        assert row.beta == pytest.approx(-0.2, abs=1e-12)


def test_sufficiency_is_the_smallest_share_with_its_two_bounds():
    a, b, e = _images(60, 0), _images(60, 1), _images(60, 5)
    swapped = {"a": 0.9 * a["a"] + 0.5 * e["a"], "b": 0.4 * a["b"] + 0.6 * b["b"] + 0.5 * e["b"]}
    effect = measure_effect(_pairs(), swapped, carrier="c", n_resamples=400)
    rows = effect.attributes
    assert effect.sufficiency.value == rows["b"].alpha
    assert effect.largest.value == rows["a"].alpha
    s = effect.sufficiency
    assert rows["b"].alpha_low < s.lower < s.value < s.upper
    # Bonferroni over two attributes: one-sided 97.5 %, the end of the two-sided 95 % interval.
    assert s.upper == pytest.approx(rows["b"].alpha_high, abs=1e-12)
    wider = measure_effect(_pairs(), swapped, carrier="c", n_tests=6, n_resamples=400).sufficiency
    assert wider.lower < s.lower
    assert wider.upper > s.upper


def test_noise_seeds_are_nested_in_their_pair():
    a, b, e = _images(40, 0), _images(40, 1), _images(40, 5)
    swapped = _mix(_mix(a, b, lambda x, y: 0.5 * x + 0.5 * y), e, lambda x, y: x + 0.5 * y)
    once = make_pairs(a, b, reference=_images(37, 2))
    twice = {name: np.repeat(x, 2, axis=0) for name, x in a.items()}
    other = {name: np.repeat(x, 2, axis=0) for name, x in b.items()}
    nested = make_pairs(twice, other, reference=_images(37, 2), pair=np.repeat(range(40), 2))
    repeated = {name: np.repeat(x, 2, axis=0) for name, x in swapped.items()}
    one = measure_effect(once, swapped, carrier="c")
    two = measure_effect(nested, repeated, carrier="c")
    # Repeating each row as a second seed adds no information: the interval is the same.
    assert two.n_pairs == one.n_pairs == 40
    assert two.n_rows == 80
    for name in a:
        assert two.attributes[name] == pytest.approx(one.attributes[name], abs=1e-12)


def test_the_bootstrap_interval_has_the_sampling_error():
    a, b, e = _images(200, 0), _images(200, 1), _images(200, 5)
    pairs = make_pairs(a, b, reference={name: np.zeros((2, x.shape[1])) for name, x in a.items()})
    swapped = {name: 0.5 * a[name] + e[name] for name in a}
    for row, d in zip(
        measure_effect(pairs, swapped, carrier="c").attributes.values(), (3, 5), strict=True
    ):
        expected = 2 * 1.96 / np.sqrt(200 * d)
        assert row.alpha_high - row.alpha_low == pytest.approx(expected, rel=0.25)


def test_resampling_draws_whole_pairs_within_halves():
    half = np.arange(11) % 2
    drawn = draw_pairs(11, 50, 3, half)
    assert (drawn[:, half == 0].sum(1) == 6).all()
    assert (drawn[:, half == 1].sum(1) == 5).all()
    assert np.array_equal(drawn, draw_pairs(11, 50, 3, half))
    assert draw_pairs(11, 2000, 0).mean(0) == pytest.approx(np.ones(11), abs=0.1)


def test_an_attribute_without_energy_has_no_damage():
    pairs = make_pairs(_images(12, 0), _images(12, 1), reference=_images(9, 2))
    still = {k: np.tile(center, (12, 1)) for k, center in pairs.center.items()}
    rows = measure_effect(pairs, still, carrier="c", n_resamples=5).attributes.values()
    assert all(np.isnan(row.damage) and row.alpha == 0 for row in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair": [0] * 59}, "pair has 59 entries for 60 rows"),
        ({"pair": [i // 12 for i in range(60)]}, "5 disjoint pairs: intervals need 10"),
        ({"donor_ids": range(60), "recipient_ids": range(59, 119)}, "image 59 is in pairs"),
        ({"donor_ids": range(3)}, "donor_ids has 3 entries"),
    ],
)
def test_pairs_that_are_not_disjoint_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        _pairs(**change)


def test_embeddings_that_do_not_fit_are_refused():
    a, b, reference = _images(20, 0), _images(20, 1), _images(20, 2)
    with pytest.raises(InputError, match="have the attributes"):
        make_pairs(a, {"a": b["a"]}, reference=reference)
    with pytest.raises(InputError, match=r"a of the recipient images is \(19, 3\)"):
        make_pairs(a, {k: v[:19] for k, v in b.items()}, reference=reference)
    with pytest.raises(InputError, match="differ in rows"):
        make_pairs({**a, "a": a["a"][:3]}, b, reference=reference)
    with pytest.raises(InputError, match="NaN or infinite"):
        make_pairs(a, {k: v * np.nan for k, v in b.items()}, reference=reference)
    pairs = make_pairs(a, b, reference=reference)
    with pytest.raises(InputError, match=r"b of the swapped images is \(20, 4\)"):
        measure_effect(pairs, {**a, "b": a["b"][:, :4]}, carrier="c")
    with pytest.raises(InputError, match="role 'cut' is not"):
        measure_effect(pairs, a, carrier="c", role="cut")


def test_donors_that_equal_their_recipients_are_refused():
    a = _images(20, 0)
    pairs = make_pairs(a, a, reference=_images(20, 2))
    with pytest.raises(InputError, match=r"proportional in attribute a, b \("):
        measure_effect(pairs, a, carrier="c")
    with pytest.raises(InputError, match="of row 0 are equal: no tau"):
        transfer_ratio(a["a"], a["a"], a["a"])
    with pytest.raises(InputError, match="shapes differ"):
        transfer_ratio(a["a"], a["b"], a["a"])


def test_corrected_bounds_have_draws_beyond_them():
    a, b, noise = (_images(24, seed) for seed in range(3))
    pairs = make_pairs(a, b, reference=_images(37, 9))
    swapped = {name: 0.5 * a[name] + 0.5 * b[name] + noise[name] for name in a}
    few, many = (
        measure_effect(pairs, swapped, carrier="c", n_tests=20, n_resamples=n) for n in (20, 8000)
    )
    # 10 / (.05 / 20 / 2) = 8000: fewer draws are not taken.
    assert (few.sufficiency, few.largest) == (many.sufficiency, many.largest)
