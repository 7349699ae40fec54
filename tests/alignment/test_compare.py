"""compare and compare_layers on arrays: pairing, nulls, twins, references, records."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.alignment import (
    Alignment,
    Representation,
    compare,
    compare_layers,
)
from interp.errors import InputError
from interp.geometry import CORE, MEASURES

N = 60
IDS = tuple(f"glyph{i:03d}" for i in range(N))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layers(model: str, count: int, signal: float, seed: int, **labels) -> list[Representation]:
    """Layers that share one latent with every other model, `signal` times the noise."""
    latent = draw(N, 4, seed=99)
    return [
        Representation(
            model,
            f"block{i}",
            signal * latent @ draw(4, 6, seed=seed + i) + draw(N, 6, seed=seed + 50 + i),
            IDS,
            **labels,
        )
        for i in range(count)
    ]


def small(models, **options) -> Alignment:
    return compare_layers(models, **{"pixels": False, "measures": ("cka",), **options})


# Seconds for 200 permutations and 20 folds of 60 rows.
SLOW = {"ridge_cv", "rsa_kendall", "rtd"}
PAIRED = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name, measure in sorted(MEASURES.items())
    if measure.paired
]


def needed(measure: str) -> None:
    """Skip a measure whose extra package is not installed."""
    if MEASURES[measure].extra:
        pytest.importorskip(MEASURES[measure].extra)


@pytest.mark.parametrize("measure", PAIRED)
def test_a_shared_latent_is_found_and_noise_is_not(measure: str) -> None:
    needed(measure)
    (a,), (b,), (c,) = (
        layers(m, 1, s, k) for m, s, k in (("a", 4, 0), ("b", 4, 200), ("c", 0, 400))
    )
    found, noise = (compare(a.x, z.x, measure, n_neighbors=0.15) for z in (b, c))
    spec = MEASURES[measure]
    sign = -1 if spec.distance else 1
    assert found.p <= 2 / 201
    assert found.z > 3
    assert found.low < found.value < found.high
    assert sign * (found.value - found.null_mean) > 0
    assert noise.p > 0.05
    assert abs(noise.z) < 3
    assert (found.n, found.n_permutations) == (N, 200)
    assert (found.k is not None) == spec.uses_neighbors
    # Beyond the critical value: nothing but p <= 5 %.
    assert sign * (found.value - found.tau) > 0 > sign * (noise.value - noise.tau)
    assert found.detectable > abs(found.tau - found.null_mean)
    assert (found.direction, found.distance) == ("" if spec.symmetric else "x -> y", spec.distance)
    if spec.equal is not None:
        assert 1 > found.corrected > found.calibrated > 0
        assert noise.calibrated < 0


# RTD within strata is with the other schemes in test_calibration; here it would take longest.
@pytest.mark.parametrize("measure", [one for one in PAIRED if one.values != ("rtd",)])
def test_a_confound_of_strata_is_not_found_within_strata(measure: str) -> None:
    needed(measure)
    source = np.arange(N) % 2
    side = torch.as_tensor(2.0 * source - 1)[:, None]
    x, y = (draw(N, 5, seed=s) + 8 * side * draw(1, 5, seed=s + 9) for s in (1, 2))
    strata = source.astype(str).tolist()
    # Most of a source's other images, which are 0.48 of all; cycles are all closed by then.
    options = {"n_neighbors": 0.05 if measure == "cycle_knn" else 0.4, "n_folds": 0}
    assert compare(x, y, measure, **options).p <= 2 / 201
    assert compare(x, y, measure, strata=strata, **options).p > 0.05


@pytest.mark.parametrize("measure", [name for name, one in MEASURES.items() if not one.paired])
def test_a_measure_without_partners_has_no_p(measure: str) -> None:
    x, y = draw(20, 3), draw(20, 4, seed=1)
    one = compare(x, y, measure, n_folds=0)
    assert (one.p, one.z, one.null_mean, one.n_permutations) == (None, None, None, 0)
    assert one.value > 0


def test_near_duplicates_are_permuted_and_left_out_together() -> None:
    clusters = [str(i // 2) for i in range(N)]
    twice = [torch.repeat_interleave(draw(N // 2, 5, seed=s), 2, 0) for s in (1, 2)]
    # Row by row, two unrelated nets seem aligned: both put the copies together.
    assert compare(*twice, "mutual_knn", n_neighbors=0.05).p == 1 / 201
    assert compare(*twice, "mutual_knn", n_neighbors=0.05, clusters=clusters).p > 0.05


def test_compare_refuses_what_does_not_pair_or_cannot_be_judged() -> None:
    x = draw(N, 5)
    with pytest.raises(InputError, match="x has 60 rows and y 59"):
        compare(x, x[1:])
    with pytest.raises(InputError, match="use n_permutations=200"):
        compare(x, x, n_permutations=50)
    with pytest.raises(InputError, match="20 folds from 10 clusters"):
        compare(x, x, clusters=[str(i % 10) for i in range(N)])
    with pytest.raises(InputError, match="59 clusters for 60 image ids"):
        compare(x, x, clusters=["a"] * 59)
    bare = compare(x, x, n_permutations=0, n_folds=0)
    assert (bare.p, bare.null_mean, bare.low) == (None, None, None)
    assert bare.value == pytest.approx(1)


@pytest.mark.parametrize("name", ["clusters", "strata"])
def test_compare_takes_labels_of_any_kind(name: str) -> None:
    x, y = draw(N, 5), draw(N, 5, seed=1)
    labels = np.arange(N) // 3
    expected = compare(x, y, **{name: [str(one) for one in labels]})
    for same in (labels, torch.as_tensor(labels), labels.tolist(), labels.astype(str)):
        assert compare(x, y, **{name: same}) == expected
    with pytest.raises(InputError, match=rf"{name}: one label per image, not \(60, 1\)"):
        compare(x, y, **{name: labels[:, None]})
    with pytest.raises(InputError, match=rf"0 {name} for 60 image ids"):
        compare(x, y, **{name: []})


def test_compare_takes_arrays_and_token_features() -> None:
    x = draw(N, 9, 5).numpy()
    result = compare(x, x + 0.1 * draw(N, 9, 5, seed=1).numpy(), "mutual_knn")
    assert result.p == 1 / 201
    assert result.n == N
    assert result.k == round(0.01 * 9 * N)


def test_compare_is_deterministic() -> None:
    x, y = draw(N, 5), draw(N, 5, seed=1)
    assert compare(x, y) == compare(x, y)
    assert compare(x, y, seed=1).low != compare(x, y).low


def test_only_the_models_that_share_a_latent_are_aligned() -> None:
    models = {m: layers(m, 3, s, k) for m, s, k in (("a", 1, 0), ("b", 1, 200), ("c", 0, 400))}
    result = small(models)
    p = {(f.model_a, f.model_b): f.p_holm for f in result.families}
    assert p["a", "b"] == pytest.approx(3 / 201)
    assert p["a", "c"] > 0.05
    assert p["b", "c"] > 0.05
    assert {result.layers[i].model for c in result.strongest(3) for i in (c.i, c.j)} == {"a", "b"}
    # 9 + 9 + 9 cells between models, 3 within each.
    assert len(result.cells) == 36
    within = result.cell("a/block0", "a/block1").comparison
    assert within.p is None
    assert within.low is None


def test_cells_equal_compare_and_the_null_is_standardized_in_closed_form() -> None:
    models = {m: layers(m, 2, 1, k) for m, k in (("a", 0), ("b", 200))}
    result = small(models, measures=CORE, n_neighbors=0.1)
    for measure in CORE:
        cell = result.cell("b/block1", "a/block0", measure)
        alone = compare(models["a"][0].x, models["b"][1].x, measure, n_neighbors=0.1)
        assert cell.comparison.value == pytest.approx(alone.value, abs=1e-12)
    cka = result.cell(0, 2, "cka").comparison
    assert (cka.null_mean, cka.null_sd) == (0, pytest.approx((2 / (N * (N - 3))) ** 0.5))
    assert result.cell(0, 2, "mutual_knn").comparison.null_mean == pytest.approx(6 / 59)
    assert result.strata == "free"


def test_the_twin_stands_beside_each_cell_with_a_paired_interval() -> None:
    models = {m: layers(m, 2, 1, k) for m, k in (("a", 0), ("b", 200))}
    twins = {m: layers(m, 2, 0, k) for m, k in (("a", 600), ("b", 800))}
    result = small(models, twins=twins)
    cell = result.cell("a/block0", "b/block1")
    expected = compare(twins["a"][0].x, twins["b"][1].x).value
    assert cell.twin_value == pytest.approx(expected, abs=1e-12)
    assert cell.difference == pytest.approx(cell.comparison.value - expected, abs=1e-12)
    assert 0 < cell.difference_low < cell.difference < cell.difference_high
    assert result.cell("a/block0", "a/block1").difference is None
    assert all(layer.twin for layer in result.layers)


def test_a_trained_twin_of_itself_has_difference_zero() -> None:
    models = {m: layers(m, 1, 1, k) for m, k in (("a", 0), ("b", 200))}
    cell = small(models, twins=models).cell(0, 1)
    assert (cell.difference, cell.difference_low, cell.difference_high) == (0, 0, 0)


def test_pixels_are_a_reference_in_no_family() -> None:
    models = {m: layers(m, 2, 1, k) for m, k in (("a", 0), ("b", 200))}
    pixels = Representation("pixels", "rgb", draw(N, 30, seed=5), IDS)
    result = small(models, pixels=pixels)
    assert result.models == ("a", "b")
    assert result.layers[-1].reference
    assert len(result.families) == 1
    cell = result.cell("a/block0", "pixels/rgb").comparison
    assert cell.p is None
    assert cell.low < cell.value < cell.high
    value, interval = result.difference(("a/block0", "b/block0"), ("a/block0", "pixels/rgb"))
    assert value == pytest.approx(result.cell(0, 2).comparison.value - cell.value)
    assert interval.low < value < interval.high
    with pytest.raises(InputError, match="only cells between models"):
        result.difference((0, 1), (0, 2))


def test_labels_restrict_the_permutations() -> None:
    labels = {
        "strata": tuple("xy"[i % 2] for i in range(N)),
        "clusters": tuple(str(i // 4) if i < 20 else str(i) for i in range(N)),
    }
    models = {m: layers(m, 2, 1, k, **labels) for m, k in (("a", 0), ("b", 200))}
    result = small(models)
    assert result.strata == "within source, whole clusters"
    # Moments of all pairings no longer hold.
    assert result.cell(0, 2).comparison.null_sd != pytest.approx((2 / (N * (N - 3))) ** 0.5)


def test_too_few_permutations_for_the_families_are_refused() -> None:
    models = {m: layers(m, 1, 1, k) for m, k in zip("abcde", range(0, 1000, 200), strict=True)}
    with pytest.raises(InputError, match=r"10 families.*use n_permutations=200|=599"):
        small(models, measures=CORE)
    tested = small(models, measures=CORE, pairs=[("a", "b"), ("a", "c")])
    assert len(tested.families) == 6
    assert tested.cell("b/block0", "c/block0").comparison.p is None
    with pytest.raises(InputError, match="two different models each, of a, b, c, d, e"):
        small(models, pairs=[("a", "z")])


def test_images_that_differ_are_refused_with_their_ids() -> None:
    a, (b,) = layers("a", 1, 1, 0), layers("b", 1, 1, 200)
    other = dataclasses.replace(b, ids=("new1", "new2", *IDS[2:]))
    with pytest.raises(
        InputError, match=r"b/block0 lacks 2 \(glyph000, glyph001\) and has 2 others \(new1, new2\)"
    ):
        small({"a": a, "b": [other]})
    common = small({"a": a, "b": [other]}, images=IDS[2:])
    assert common.n == N - 2


def test_rows_are_paired_by_id_not_by_order() -> None:
    a, (b,) = layers("a", 1, 1, 0), layers("b", 1, 1, 200)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    mixed = dataclasses.replace(b, x=b.x[order], ids=tuple(IDS[i] for i in order))
    one, two = (small({"a": a, "b": [z]}) for z in (b, mixed))
    assert one.cell(0, 1) == two.cell(0, 1)


def test_an_image_twice_is_refused() -> None:
    with pytest.raises(InputError, match="1 image ids more than once: glyph000"):
        Representation("a", "p", draw(3, 2), ("glyph000", "glyph000", "glyph001"))


def test_disagreeing_clusters_are_refused() -> None:
    a = layers("a", 1, 1, 0, clusters=tuple(str(i // 2) for i in range(N)))
    b = layers("b", 1, 1, 200, clusters=IDS)
    with pytest.raises(InputError, match="b/block0 disagrees with the others on 60 clusters"):
        small({"a": a, "b": b})


def test_real_images_and_samples_never_meet() -> None:
    a, (b,) = layers("a", 1, 1, 0), layers("b", 1, 1, 200)
    samples = dataclasses.replace(b, ids=tuple(f"zoo:gan@seed{i}" for i in range(N)))
    with pytest.raises(
        InputError, match=r"mixes sample sets .60 real images, 60 samples of zoo:gan"
    ):
        small({"a": a, "b": [samples]})
    both = [dataclasses.replace(x, ids=samples.ids) for x in (*a, b)]
    assert small({"a": both[:1], "b": both[1:]}).sample_set == "samples of zoo:gan"


def test_wrong_sources_are_refused() -> None:
    a = layers("a", 1, 1, 0)
    with pytest.raises(InputError, match="'b' is given as list"):
        small({"a": a, "b": a})
    with pytest.raises(InputError, match=r"twins of \['z'\]"):
        small({"a": a}, twins={"z": a})
    with pytest.raises(InputError, match="the untrained twin of a lacks a/block1"):
        small({"a": layers("a", 2, 1, 0)}, twins={"a": a})
    with pytest.raises(InputError, match=r"\[1, 4\] positions per image"):
        small({"a": a, "b": [dataclasses.replace(a[0], model="b", x=draw(N, 4, 6))]})
    with pytest.raises(InputError, match="no store to take pixels from"):
        compare_layers({"a": a})


def test_an_alignment_survives_its_file(tmp_path: Path) -> None:
    models = {m: layers(m, 2, 1, k) for m, k in (("a", 0), ("b", 200))}
    result = small(models, twins=models, measures=("cka", "procrustes"))
    path = result.save(tmp_path / "one.json")
    again = Alignment.load(path)
    assert again.save(tmp_path / "two.json").read_bytes() == path.read_bytes()
    assert again.layers == result.layers
    assert again.cell(0, 2, "procrustes").comparison.value == pytest.approx(
        result.cell(0, 2, "procrustes").comparison.value, abs=1e-9
    )
    assert (
        small(models, twins=models, measures=("cka", "procrustes"))
        .save(tmp_path / "three.json")
        .read_bytes()
        == path.read_bytes()
    )
    (tmp_path / "bad.json").write_text('{"format": 1, "cells": 3}')
    with pytest.raises(InputError, match="is not a saved Alignment"):
        Alignment.load(tmp_path / "bad.json")


def test_an_alignment_is_read_by_name_number_and_matrix() -> None:
    result = small({m: layers(m, 2, 1, k) for m, k in (("a", 0), ("b", 200))})
    matrix = result.matrix()
    assert matrix[0, 2] == matrix[2, 0] == result.cell(0, 2).comparison.value
    assert np.isnan(matrix[0, 0])
    assert np.isnan(result.matrix(field="difference")).all()
    rows = result.table()
    assert len(rows) == 4
    assert rows[0]["z"] == max(row["z"] for row in rows)
    assert {rows[0]["a"][:1], rows[0]["b"][:1]} == {"a", "b"}
    with pytest.raises(InputError, match="no layer 'a/blok0'; there are a/block0"):
        result.cell("a/blok0", 1)
    with pytest.raises(InputError, match="not compared to itself"):
        result.cell(0, 0)
    with pytest.raises(InputError, match="no measure 'rsa' here; there are cka"):
        result.cell(0, 1, "rsa")
    with pytest.raises(InputError, match="layer 9 is out of range"):
        result.cell(0, 9)


@pytest.mark.slow
def test_the_family_of_all_layers_holds_its_error() -> None:
    repeats, rejected = 100, 0
    for r in range(repeats):
        models = {m: layers(m, 4, 0, 1000 * r + k) for m, k in (("a", 0), ("b", 300))}
        result = small(models, seed=r, n_folds=0)
        rejected += result.families[0].p <= 0.05
    assert abs(rejected / repeats - 0.05) <= 3.3 * (0.05 * 0.95 / repeats) ** 0.5


def test_arrays_of_any_layout_are_compared_as_they_read() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 20, 3))
    options = {"n_permutations": 0, "n_folds": 0}
    wanted = compare(x, y, **options).value
    assert compare(x.astype(">f8"), y, **options).value == wanted
    assert compare(x[::-1], y[::-1], **options).value == pytest.approx(wanted)
    with pytest.raises(InputError, match="x has dtype object"):
        compare(x.astype(object), y, **options)
    with pytest.raises(InputError, match="x has 1 rows and y 20"):
        compare(3, y, **options)
