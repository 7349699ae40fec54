"""Judging transcoders and crosscoders on joined rows of other images, against plain formulas."""

import numpy as np
import pytest
import torch

from interp.errors import SAEError
from interp.sae import TrainConfig, evaluate, evaluate_joined, join, rejoin, train
from tests.sae.stores import make_pair

SETTINGS = {"batch_size": 32, "steps": 60, "lr": 1e-2, "checkpoint_every": 0}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module", params=["transcoder", "crosscoder"])
def sae(request, store, tmp_path_factory):
    config = TrainConfig(request.param, 24, 3, **SETTINGS)
    pair = join([(store, "early"), (store, "late")])
    return train(pair, config, out=tmp_path_factory.mktemp("run")).sae


def _held_out(sae, pair):
    from interp.sae.split import seen_generations

    store = pair.sites[0].store
    seen = seen_generations(store.generations, sae.trained_units)
    return ~seen[np.searchsorted(store.generations["generation"], pair.generation())]


def test_it_is_the_formula_on_rows_of_images_that_were_held_out(sae, store):
    pair = rejoin(sae, store)
    found = evaluate_joined(sae, pair)
    x = pair.rows(_held_out(sae, pair))
    assert (found.n_rows, found.n_generations) == (len(x), 2) == (32, 2)
    inputs = x[:, :6] if sae.separate else x
    targets = [x[:, 6:]] if sae.separate else [x[:, :6], x[:, 6:]]
    with torch.no_grad():
        made = sae(inputs).split([part.shape[1] for part in targets], dim=1)
        l0 = (sae.encode(inputs).values > 0).sum() / len(x)
    for site, y, rebuilt in zip(found.sites, targets, made, strict=True):
        fvu = (y - rebuilt).square().sum() / (y - y.mean(0)).square().sum()
        assert site.fvu == pytest.approx(fvu.item(), rel=1e-4)
    assert found.l0 == pytest.approx(l0.item())
    assert [site.name for site in found.sites] == (["late"] if sae.separate else ["early", "late"])


def test_a_transcoder_stands_beside_the_best_linear_map(sae, store):
    pair = rejoin(sae, store)
    found = evaluate_joined(sae, pair)
    if not sae.separate:
        assert found.linear is None
        assert all(0 <= (site.private or 0) <= 1 for site in found.sites)
        return
    mask = _held_out(sae, pair)
    x = pair.rows().double()
    design = torch.cat([x[:, :6], torch.ones(len(x), 1).double()], dim=1)
    solution = torch.linalg.lstsq(design[~mask], x[~mask, 6:]).solution
    y = x[mask, 6:]
    fvu = (y - design[mask] @ solution).square().sum() / (y - y.mean(0)).square().sum()
    assert found.linear == pytest.approx(fvu.item(), rel=1e-6)


def test_rows_of_trained_images_are_judged_on_request_only(sae, store):
    pair = rejoin(sae, store)
    with pytest.raises(SAEError, match="288 of 320 rows come from images"):
        evaluate_joined(sae, pair, rows=np.arange(320))
    assert evaluate_joined(sae, pair, allow_train=True).n_rows == 320


def test_other_sites_are_refused(sae, store):
    wrong = join([(store, "late"), (store, "early")])
    with pytest.raises(SAEError, match=r"sites of widths \(4, 6\) do not fit"):
        evaluate_joined(sae, wrong)


def test_one_point_is_not_what_it_reconstructs(sae, store):
    with pytest.raises(SAEError, match="of early, late does not reconstruct early"):
        evaluate(sae, store, "early")
