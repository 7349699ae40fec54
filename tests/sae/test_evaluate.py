"""Evaluation: its sums, who may be judged, and the baselines."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from interp.errors import InputError, PointError, SAEError
from interp.features import describe
from interp.sae import TopK, TrainConfig, evaluate, train
from interp.sae.baselines import random_dictionary, sparse_pca
from interp.sae.labels import auc_table, label_auc
from interp.sae.metrics import matched
from interp.sae.split import seen_generations, training_generations, unit_hash
from interp.store import write_store
from tests.sae.stores import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def sae(store, tmp_path_factory):
    config = TrainConfig(n_latents=24, k=3, batch_size=64, steps=60, checkpoint_every=0)
    return train(store, config, point="mid", out=tmp_path_factory.mktemp("run")).sae


def test_the_sums_are_those_of_all_rows_at_once(sae, store):
    found = evaluate(sae, store, "mid", allow_train=True)
    x = store.rows("mid").double()
    call = torch.from_numpy(store.coords("mid")["call"])
    with torch.no_grad():
        code = sae.encode(x.float())
        error = (x - sae.decode(code).double()).square().sum(1)
    assert found.n_rows == 320
    assert found.n_generations == 20
    assert found.fvu == pytest.approx(float(error.sum() / (x - x.mean(0)).square().sum()))
    assert found.l0 == pytest.approx(float((code.values > 0).sum(1).double().mean()))
    assert found.dead == pytest.approx(float((~code.fired()).double().mean()))
    spread = x.var(0, unbiased=False).sum().sqrt()
    assert found.severity == pytest.approx(float(x.mean(0).norm() / spread))
    for line in found.per_call:
        rows = x[call == line.call]
        own = error[call == line.call].sum() / (rows - rows.mean(0)).square().sum()
        assert line.fvu == pytest.approx(float(own))
        assert (line.n_rows, line.t) == (160, 900.0 - 400 * line.call)


def test_only_unseen_images_are_judged_by_default(sae, store):
    found = evaluate(sae, store, "mid", baselines=False)
    assert found.n_rows == 32
    assert found.n_generations == 2
    assert not found.trained_rows
    assert found.baselines == ()


def test_rows_of_trained_images_are_refused_with_the_way_out(sae, store):
    with pytest.raises(SAEError, match=r"288 of 320 rows come from .* allow_train=True"):
        evaluate(sae, store, "mid", rows=np.arange(320))
    assert evaluate(sae, store, "mid", rows=np.arange(320), allow_train=True).trained_rows


def test_another_image_of_a_trained_cluster_is_refused(sae, tmp_path):
    other = make_store(tmp_path, first=1, n=39, seed=3)
    found = evaluate(sae, other, "mid", baselines=False)
    # Images 1..19 are in clusters 0..9, of which one was held out; images 20..39 are new.
    assert found.n_generations in (21, 22)


def test_an_sae_that_does_not_know_its_training_rows_is_judged_on_request_only(store, tmp_path):
    config = TrainConfig(n_latents=24, k=3, steps=5, checkpoint_every=0)
    blind = train([store.rows("mid")] * 5, config, out=tmp_path).sae
    for sae in (blind, TopK(6, 24, 3)):
        with pytest.raises(SAEError, match=r"no record of its training images .* allow_train=True"):
            evaluate(sae, store, "mid", baselines=False)
        found = evaluate(sae, store, "mid", baselines=False, allow_train=True)
        assert found.trained_rows is None
        assert found.n_rows == 320


def test_a_store_of_trained_images_only_is_refused(sae, store):
    import copy

    everything = copy.deepcopy(sae)
    names = [unit_hash("image", f"image{i}") for i in range(20)]
    everything.trained_units = torch.tensor(sorted(names))
    with pytest.raises(SAEError, match=r"no row to judge: the images of all 320 rows"):
        evaluate(everything, store, "mid")


@pytest.mark.parametrize("rows", [np.ones(7, bool), np.array([400]), np.array([-1])])
def test_rows_that_do_not_fit_the_store_are_refused(sae, store, rows, tmp_path):
    with pytest.raises(InputError, match="mid"):
        evaluate(sae, store, "mid", rows=rows)
    with pytest.raises(InputError, match="mid"):
        train(store, TrainConfig(), point="mid", rows=rows, out=tmp_path)
    with pytest.raises(InputError, match="mid"):
        describe(sae, store, "mid", rows=rows)


def test_the_record_is_json(sae, store):
    values = json.loads(json.dumps(evaluate(sae, store, "mid").as_dict()))
    assert {line["name"] for line in values["baselines"]} == {
        "sae",
        "k-sparse PCA",
        "random dictionary",
    }
    assert values["sae"] == sae.digest
    assert values["store"] == store.hash


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"point": {"name": "up.1"}}, "trained on up.1, not on mid"),
        (
            {"point": {"name": "mid"}, "model": {"spec": "zoo:x", "weights_sha256": "cd" * 32}},
            "trained on zoo:x with weights cdcdcdcdcdcd, .* come from test with weights ababab",
        ),
    ],
)
def test_an_sae_of_another_point_or_model_is_refused(store, provenance, message):
    sae = TopK(6, 24, 3)
    sae.provenance = provenance
    with pytest.raises(SAEError, match=message):
        evaluate(sae, store, "mid")
    sae.provenance = {}
    evaluate(sae, store, "mid", baselines=False, allow_train=True)


def test_an_sae_of_another_width_is_refused(store):
    sae = TopK(7, 24, 3)
    sae.provenance = {"point": {"name": "up.1"}}
    with pytest.raises(SAEError, match=r"width 6 != SAE d_in 7 at mid; was it trained on up.1"):
        evaluate(sae, store, "mid")


def test_an_unknown_point_is_refused(sae, store):
    with pytest.raises(PointError, match="closest: mid"):
        evaluate(sae, store, "mad")


def test_nan_rows_are_refused(sae, store, monkeypatch):
    monkeypatch.setattr(
        store, "chunks", lambda *_: iter([(np.arange(320), torch.full((320, 6), torch.nan))])
    )
    with pytest.raises(SAEError, match=r"hold NaN"):
        evaluate(sae, store, "mid", baselines=False)


def _fvu(baseline):
    assert baseline.fvu is not None
    return baseline.fvu


def test_sparse_pca_leaves_the_smallest_scores(generator):
    x = torch.randn(200, 5, generator=generator, dtype=torch.float64) * torch.arange(1.0, 6)
    assert _fvu(sparse_pca(x, x, 5, "")) == pytest.approx(0, abs=1e-12)
    values = [_fvu(sparse_pca(x, x, k, "")) for k in (1, 2, 3, 4)]
    assert values == sorted(values, reverse=True)
    axes = torch.linalg.eigh(torch.cov(x.T)).eigenvectors
    scores = ((x - x.mean(0)) @ axes).square()
    expected = 1 - scores.max(1).values.sum() / scores.sum()
    assert values[0] == pytest.approx(float(expected))


def test_a_random_dictionary_is_fitted_by_least_squares(generator):
    x = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    few = _fvu(random_dictionary(x, x.mean(0), 32, 2, 0))
    more = _fvu(random_dictionary(x, x.mean(0), 32, 4, 0))
    assert 0 < more < few < 1
    assert _fvu(random_dictionary(x, x.mean(0), 32, 8, 0)) == 0


def _generations(n, **columns):
    names = [f"i{k}" for k in range(n)]
    return {"image_id": names, "cluster": names, "split": [""] * n, **columns}


def test_the_split_of_a_cluster_does_not_depend_on_the_order():
    table = _generations(50)
    flipped = {name: values[::-1] for name, values in table.items()}
    mask = training_generations(table, 0.2, 3)
    assert (~mask).sum() == 10
    assert (mask[::-1] == training_generations(flipped, 0.2, 3)).all()
    assert (mask != training_generations(table, 0.2, 4)).any()


# Beside the SAE: the untrained twin, a second seed, labels


def _labeled(out, seed=0, **model):
    """A store whose categories are told by one planted atom each."""
    g = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(12, 8, generator=g), dim=1)
    kind = torch.arange(60) % 3
    mixture = torch.rand(60, 1, 10, 12, generator=g) * (
        torch.rand(60, 1, 10, 12, generator=g) < 0.15
    )
    mixture[torch.arange(60), :, :5, kind] += 1.0
    return write_store(
        out,
        {"mid": mixture @ atoms},
        generations={
            "image_id": [f"image{i}" for i in range(60)],
            "cluster": [f"cluster{i}" for i in range(60)],
            "category": [f"kind{k}" for k in kind.tolist()],
        },
        model={"spec": "test", "weights_sha256": "ab" * 32, "untrained": False, **model},
        shard_size=30,
    )


CONFIG = TrainConfig(n_latents=12, k=2, batch_size=64, steps=200, held_out=0.6, checkpoint_every=0)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    return _labeled(tmp_path_factory.mktemp("labeled"))


@pytest.fixture(scope="module")
def runs(labeled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first = train(labeled, CONFIG, point="mid", out=folder / "first")
    mask = ~seen_mask(labeled, first.sae)
    config = dataclasses.replace(CONFIG, seed=1)
    second = train(labeled, config, point="mid", out=folder / "second", rows=~mask)
    return first, second


def seen_mask(store, sae):
    seen = seen_generations(store.generations, sae.trained_units)
    return seen[store.coords("mid")["generation"]]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    store = _labeled(
        tmp_path_factory.mktemp("twin"), seed=7, untrained=True, weights_sha256="cd" * 32
    )
    run = train(store, CONFIG, point="mid", out=tmp_path_factory.mktemp("twin_run"))
    return run, store


def test_twin_and_second_seed_stand_beside_the_baselines(labeled, runs, twin):
    first, second = runs
    found = evaluate(first.sae, labeled, "mid", twin=(twin[0].sae, twin[1]), second=second.sae)
    names = [one.name for one in found.controls]
    assert names == ["SAE of the untrained twin", "SAE of a second seed"]
    assert all(one.fvu is not None and 0 < one.fvu < 1 for one in found.controls)
    assert found.matched is not None
    assert 0 < found.matched <= 1
    assert found.matched == matched(first.sae.dictionary(), second.sae.dictionary())
    alone = evaluate(second.sae, labeled, "mid")
    assert found.controls[1].fvu == alone.baselines[0].fvu
    assert json.loads(json.dumps(found.as_dict()))["controls"][0]["labels"]["n_categories"] >= 2


def test_run_directories_and_stores_may_be_paths(labeled, runs, twin):
    given = {"twin": (twin[0].path, str(twin[1].path)), "second": runs[1].path}
    found = evaluate(runs[0].sae, labeled, "mid", baselines=False, **given)
    same = evaluate(
        runs[0].sae, labeled, "mid", baselines=False, twin=(twin[0].sae, twin[1]),
        second=runs[1].sae,
    )  # fmt: skip
    assert found == same


def test_a_second_seed_that_has_seen_all_judged_rows_is_matched_only(labeled, runs, tmp_path):
    everything = np.ones(600, dtype=bool)
    config = dataclasses.replace(CONFIG, seed=2)
    other = train(labeled, config, point="mid", out=tmp_path, rows=everything).sae
    found = evaluate(runs[0].sae, labeled, "mid", baselines=False, second=other)
    assert found.controls[0].fvu is None
    assert found.controls[0].fitted_on == "all of these rows"
    assert found.matched is not None


def test_what_is_no_twin_and_no_second_is_refused(labeled, runs, twin):
    sae = runs[0].sae
    with pytest.raises(SAEError, match="is of test with its trained weights"):
        evaluate(sae, labeled, "mid", twin=(sae, labeled))
    with pytest.raises(SAEError, match=r"second is the same SAE \(.*another TrainConfig.seed"):
        evaluate(sae, labeled, "mid", second=sae)
    with pytest.raises(SAEError, match="trained on test with weights cdcdcd"):
        evaluate(sae, labeled, "mid", second=twin[0].sae)


def test_labels_are_told_by_latents_better_than_by_random_directions(labeled, runs):
    found = evaluate(runs[0].sae, labeled, "mid")
    labels = {one.name: one.labels for one in found.baselines if one.labels is not None}
    assert len(labels) == 3
    assert labels["sae"].n_images == 36
    assert labels["sae"].per_category > 0.85
    assert labels["sae"].per_category > labels["random dictionary"].per_category
    assert all(0 <= one.per_latent <= 1 for one in labels.values())


def test_an_auc_counts_pairs_and_halves_ties():
    scores = torch.tensor([[0.0], [1.0], [1.0], [3.0]])
    members = torch.tensor([[False], [False], [True], [True]])
    # Pairs of a member and another: 1 > 0, 1 = 1, 3 > 0, 3 > 1.
    assert auc_table(scores, members).item() == pytest.approx(3.5 / 4)
    assert auc_table(-scores, members).item() == pytest.approx(0.5 / 4)


def test_chosen_on_one_half_and_measured_on_the_other_noise_has_an_auc_of_one_half(generator):
    scores = torch.randn(240, 400, generator=generator)
    category = np.array([f"c{i % 4}" for i in range(240)], dtype=object)
    cluster = np.array([f"k{i // 2}" for i in range(240)])
    found = label_auc(scores, category, cluster, 0)
    assert found is not None
    assert found.per_latent == pytest.approx(0.5, abs=0.02)
    assert found.per_category == pytest.approx(0.5, abs=0.1)
    scores[:, 3] = torch.tensor([i % 4 == 2 for i in range(240)]).float()
    found = label_auc(scores, category, cluster, 0)
    assert found is not None
    assert found.per_category > 0.55


def test_without_two_categories_in_both_halves_there_is_no_auc(generator):
    scores = torch.rand(20, 3, generator=generator)
    cluster = np.array([f"k{i}" for i in range(20)])
    for names in ([""] * 20, ["a"] * 20, ["a"] * 18 + ["b"] * 2):
        assert label_auc(scores, np.array(names, dtype=object), cluster, 0) is None
