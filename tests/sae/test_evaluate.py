"""Evaluation: its sums, who may be judged, and the baselines."""

import json

import numpy as np
import pytest
import torch

from interp.errors import InputError, PointError, SAEError
from interp.features import describe
from interp.sae import TopK, TrainConfig, evaluate, train
from interp.sae.baselines import random_dictionary, sparse_pca
from interp.sae.split import training_generations, unit_hash
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


def test_sparse_pca_leaves_the_smallest_scores(generator):
    x = torch.randn(200, 5, generator=generator, dtype=torch.float64) * torch.arange(1.0, 6)
    assert sparse_pca(x, x, 5, "").fvu == pytest.approx(0, abs=1e-12)
    values = [sparse_pca(x, x, k, "").fvu for k in (1, 2, 3, 4)]
    assert values == sorted(values, reverse=True)
    axes = torch.linalg.eigh(torch.cov(x.T)).eigenvectors
    scores = ((x - x.mean(0)) @ axes).square()
    expected = 1 - scores.max(1).values.sum() / scores.sum()
    assert values[0] == pytest.approx(float(expected))


def test_a_random_dictionary_is_fitted_by_least_squares(generator):
    x = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    few = random_dictionary(x, x.mean(0), 32, 2, 0).fvu
    more = random_dictionary(x, x.mean(0), 32, 4, 0).fvu
    assert 0 < more < few < 1
    assert random_dictionary(x, x.mean(0), 32, 8, 0).fvu == 0


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
