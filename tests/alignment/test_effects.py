"""Effect sizes, ceilings and curves."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.alignment import (
    Curve,
    Representation,
    ceilings,
    compare,
    effect_sizes,
    k_curve,
    n_curve,
    pair_ceiling,
    split_half_ceiling,
)
from interp.errors import InputError

N = 100
IDS = tuple(f"i{i:03d}" for i in range(N))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(n: int = N, seed: int = 0, signal: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    latent = draw(n, 3, seed=seed)
    return tuple(signal * latent @ draw(3, 6, seed=s) + draw(n, 6, seed=seed + s) for s in (11, 12))


def noisy(model: str, x: torch.Tensor, scale: float, seed: int) -> Representation:
    noise = tuple(f"{seed}.{i}" for i in range(len(x)))
    return Representation(model, "p", x + scale * draw(*x.shape, seed=seed), IDS, noise=noise)


@pytest.mark.parametrize("measure", ["cka", "gulp"])
def test_effect_sizes_run_from_chance_to_the_top(measure: str) -> None:
    x, y = pair()
    one = compare(x, y, measure)
    top = {"cka": 1.0, "gulp": 0.0}[measure]
    found = effect_sizes(one, ceiling=0.9 if measure == "cka" else 0.5)
    assert found.corrected == pytest.approx((one.value - one.null_mean) / (top - one.null_mean))
    assert found.calibrated == pytest.approx((one.value - one.tau) / (top - one.tau))
    assert found.share == pytest.approx(
        (one.value - one.null_mean) / (found.ceiling - one.null_mean)
    )
    assert 0 < found.calibrated < found.corrected < found.share
    same = effect_sizes(compare(x, x, measure))
    assert same.corrected == pytest.approx(1, abs=1e-6)
    assert (same.ceiling, same.share) == (None, None)
    assert found.as_dict()["measure"] == measure


def test_a_comparison_without_a_null_has_no_corrected_size() -> None:
    found = effect_sizes(compare(*pair(), n_permutations=0))
    assert (found.corrected, found.calibrated, found.z) == (None, None, None)


def test_two_noisy_captures_give_the_ceiling_that_undoes_their_noise() -> None:
    # Wide, so that noise in units averages out of the Gram but for its diagonal's spread.
    latent = draw(N, 3, seed=1)
    clean = [latent @ draw(3, 40, seed=s) for s in (2, 3)]
    first, again = (
        {m: [noisy(m, x, 3.0, seed + i)] for i, (m, x) in enumerate(zip("ab", clean, strict=True))}
        for seed in (50, 60)
    )
    found = ceilings(first, again, measures=("cka",), n_folds=10)
    assert [one.layer for one in found] == ["a/p", "b/p"]
    assert all(one.low < one.value < one.high < 1 for one in found)
    reach = pair_ceiling(*found)
    raw = compare(first["a"][0].x, first["b"][0].x).value
    true = compare(*clean).value
    assert raw < 0.9 * true
    assert raw / reach == pytest.approx(true, abs=0.05)


def test_a_second_capture_of_the_same_noise_is_no_ceiling() -> None:
    x, y = pair()
    models = {"a": [noisy("a", x, 1, 5)], "b": [noisy("b", y, 1, 6)]}
    with pytest.raises(InputError, match="a/p has the same noise in both captures"):
        ceilings(models, models)
    with pytest.raises(InputError, match=r"again has models \['a'\], models has \['a', 'b'\]"):
        ceilings(models, {"a": models["a"]})
    other = {m: [dataclasses.replace(one[0], point="q")] for m, one in models.items()}
    with pytest.raises(InputError, match="the second capture lacks 2 layers: a/p, b/p"):
        ceilings(models, other)


def test_halves_of_units_are_raised_to_the_whole_where_the_gram_is_a_sum() -> None:
    one = Representation("a", "p", draw(N, 3) @ draw(3, 60, seed=1) + draw(N, 60, seed=2), IDS)
    found = split_half_ceiling(one, "cka", n_splits=3)
    assert found.raised
    assert len(found.values) == 3
    assert found.value == pytest.approx(np.mean(found.values))
    plain = split_half_ceiling(one, "mutual_knn", n_splits=3, n_neighbors=0.1)
    assert not plain.raised
    # By hand: the first split of the same seed.
    order = np.random.default_rng(0).permutation(60)
    r = compare(one.x[:, order[:30]], one.x[:, order[30:]]).value
    assert found.values[0] == pytest.approx(2 * r / (1 + r))
    with pytest.raises(InputError, match="1 units and 5 splits"):
        split_half_ceiling(dataclasses.replace(one, x=one.x[:, :1]))
    with pytest.raises(InputError, match="ceilings of cka and of mutual_knn"):
        pair_ceiling(found, plain)


def test_the_ceiling_of_a_distance_is_that_of_the_noisier_layer() -> None:
    x, y = pair()
    first, again = (
        {"a": [noisy("a", x, 0.1, s)], "b": [noisy("b", y, 1.0, s + 1)]} for s in (5, 8)
    )
    found = ceilings(first, again, measures=("gulp",), n_folds=0)
    assert pair_ceiling(*found) == max(one.value for one in found) > found[0].value


def test_debiased_values_do_not_change_with_n_and_biased_ones_fall() -> None:
    x, y = pair(400, signal=0.5)
    flat, falling = (n_curve(x, y, m, sizes=(50, 100), n_folds=5) for m in ("cka", "cka_biased"))
    assert [p.n for p in flat.points] == [50, 100, 400]
    assert [len(p.values) for p in flat.points] == [5, 5, 1]
    last = flat.points[-1]
    assert last.value == pytest.approx(compare(x, y, n_permutations=0, n_folds=0).value)
    assert (last.sd, flat.points[0].low) == (None, None)
    assert last.low < last.value < last.high
    assert all(p.null_mean == 0 for p in flat.points)
    assert flat.points[0].value == pytest.approx(last.value, abs=4 * flat.points[0].sd)
    null = [p.null_mean for p in falling.points]
    assert null[0] > 2 * null[1] * 0.9 > null[2]


def test_whole_clusters_are_drawn_for_a_curve() -> None:
    x, y = pair(60)
    clusters = [f"c{i // 3}" for i in range(60)]
    curve = n_curve(x, y, sizes=(20,), clusters=clusters, n_folds=0)
    assert curve.points[0].n == 21


def test_a_k_curve_is_the_measure_at_each_k_from_one_graph() -> None:
    x, y = pair()
    for measure in ("mutual_knn", "jaccard_knn", "cycle_knn"):
        curve = k_curve(x, y, measure, fractions=(0.1, 0.02, 0.05, 0.021), n_folds=10)
        assert [p.k for p in curve.points] == [2, 5, 10]
        for p in curve.points:
            one = compare(x, y, measure, n_neighbors=p.k / N, n_permutations=0, n_folds=10)
            assert p.value == pytest.approx(one.value)
            assert (p.low, p.high) == pytest.approx((one.low, one.high))
        if measure == "mutual_knn":
            assert curve.points[0].null_mean == pytest.approx(2 / 99)
        assert curve.direction == ("x -> y" if measure == "cycle_knn" else "")


def test_curves_survive_their_files(tmp_path: Path) -> None:
    curve = k_curve(*pair(), fractions=(0.05,))
    again = Curve.load(curve.save(tmp_path / "one.json"))
    assert again.save(tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert again.points[0].k == 5
    (tmp_path / "bad.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="is not a saved Curve"):
        Curve.load(tmp_path / "bad.json")


def test_wrong_curves_are_refused() -> None:
    x, y = pair()
    with pytest.raises(InputError, match="a subsample of 100 of 100 images: 4 to 99"):
        n_curve(x, y, sizes=(100,))
    with pytest.raises(InputError, match=r"0.05 of a subsample of 50 images are 2.5 neighbors"):
        n_curve(x, y, "mutual_knn", sizes=(50,), n_neighbors=0.05)
    with pytest.raises(InputError, match="cka counts no neighbors"):
        k_curve(x, y, "cka")
    with pytest.raises(InputError, match="no fractions given"):
        k_curve(x, y, fractions=())
    with pytest.raises(InputError, match="x has 100 rows and y 99"):
        k_curve(x, y[1:])
