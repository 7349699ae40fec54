"""Several SAEs over one pass: each as if trained alone, resumed together to the bit."""

import dataclasses
import sys

import pytest
import torch

from interp.errors import SAEError
from interp.sae import Job, TrainConfig, train, train_many
from interp.sae.checkpoint import CHECKPOINT
from interp.sae.synthetic import PlantedDictionary
from tests.sae.stores import make_store

CONFIG = TrainConfig(
    n_latents=24, k=3, batch_size=16, steps=20, checkpoint_every=5, log_every=10, dead_window=2
)


def _with(**changes):
    return dataclasses.replace(CONFIG, **changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"))


def _weights(sae):
    return torch.cat([tensor.flatten() for tensor in sae.state_dict().values()])


def _close(mine, alone):
    torch.testing.assert_close(_weights(mine.sae), _weights(alone.sae), rtol=0, atol=1e-4)
    for line, other in zip(mine.log, alone.log, strict=True):
        for name in ("step", "fvu", "aux", "l0", "penalty", "dead", "lr"):
            assert line[name] == pytest.approx(other[name], abs=1e-4)


def test_seeds_and_sizes_over_one_store_end_as_each_alone(store, tmp_path):
    jobs = {
        "a": Job(CONFIG, "mid"),
        "b": Job(_with(log_every=5), "mid"),
        "wide": Job(_with(n_latents=40, k=2), "mid"),
        "other-order": Job(_with(seed=1), "mid"),
        "some-rows": Job(_with(seed=1), "mid", store.coords("mid")["generation"] < 6),
    }
    runs = train_many(store, jobs, out=tmp_path / "many", backend="eager")
    assert list(runs) == list(jobs)
    for name, job in jobs.items():
        alone = train(
            store, job.config, point="mid", rows=job.rows, out=tmp_path / name, backend="eager"
        )
        _close(runs[name], alone)
        assert runs[name].sae.provenance["recipe"] == job.config.as_dict()


def test_seeds_share_one_pass_of_batches(tmp_path):
    class Counted(PlantedDictionary):
        passes = 0

        def __iter__(self):
            type(self).passes += 1
            return super().__iter__()

    data = Counted(20, 6, 2, batch_size=16, steps=20)
    jobs = {f"seed{seed}": Job(_with(seed=seed)) for seed in range(3)}
    runs = train_many(data, jobs, out=tmp_path / "many")
    assert Counted.passes == 1
    for name, job in jobs.items():
        _close(runs[name], train(data, job.config, out=tmp_path / name))
    assert len({float(_weights(run.sae).sum()) for run in runs.values()}) == 3


def test_one_order_serves_all_seeds_of_a_store(store, tmp_path):
    jobs = {f"seed{seed}": Job(_with(seed=seed), "mid") for seed in (0, 1)}
    draws = []
    reader = sys.modules["interp.store.reader"].ShuffledReader
    draw = reader.__next__

    def counted(self):
        draws.append(self)
        return draw(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "__next__", counted)
        runs = train_many(store, jobs, out=tmp_path / "many", order_seed=0)
    assert len(draws) == CONFIG.steps
    _close(runs["seed0"], train(store, CONFIG, point="mid", out=tmp_path / "alone"))
    assert runs["seed1"].sae.provenance["order_seed"] == 0


def test_members_keep_nothing_of_the_stack(tmp_path):
    data = PlantedDictionary(20, 6, 2, batch_size=16, steps=20)
    runs = train_many(data, {"a": Job(CONFIG), "b": Job(_with(seed=1))}, out=tmp_path)
    before = _weights(runs["b"].sae).clone()
    with torch.no_grad():
        runs["a"].sae.W_enc.add_(1)
    assert (_weights(runs["b"].sae) == before).all()
    assert runs["a"].sae.W_enc.untyped_storage().nbytes() == runs["a"].sae.W_enc.nbytes


class Stop(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("stop", [3, 13])
def test_a_stopped_pass_continues_to_the_same_bits(store, tmp_path, monkeypatch, stop):
    jobs = {"a": Job(CONFIG, "mid"), "b": Job(_with(seed=1), "mid"), "c": Job(CONFIG, "mid")}
    whole = train_many(store, jobs, out=tmp_path / "whole")
    module = sys.modules["interp.sae.many"]
    step = module._step

    def crash(trainings, groups):
        if trainings[0].state.step == stop:
            raise Stop
        step(trainings, groups)

    monkeypatch.setattr(module, "_step", crash)
    with pytest.raises(Stop):
        train_many(store, jobs, out=tmp_path / "run")
    monkeypatch.undo()
    assert (tmp_path / "run" / CHECKPOINT).exists() == (stop >= 5)
    resumed = train_many(store, jobs, out=tmp_path / "run")
    assert not (tmp_path / "run" / CHECKPOINT).exists()
    for name in jobs:
        assert (_weights(resumed[name].sae) == _weights(whole[name].sae)).all()
        assert [line["fvu"] for line in resumed[name].log] == [
            line["fvu"] for line in whole[name].log
        ]


def test_finished_runs_are_returned_and_others_refused(store, tmp_path, monkeypatch):
    jobs = {"a": Job(CONFIG, "mid")}
    first = train_many(store, jobs, out=tmp_path)
    monkeypatch.setattr(sys.modules["interp.sae.many"], "_run", None)
    assert (
        _weights(train_many(store, jobs, out=tmp_path)["a"].sae) == _weights(first["a"].sae)
    ).all()
    with pytest.raises(SAEError, match=r"another run \(config.k: 3 there, 2 asked"):
        train_many(store, {"a": Job(_with(k=2), "mid")}, out=tmp_path)


def test_jobs_that_do_not_fit_are_refused(tmp_path):
    data = [torch.eye(6)] * 20
    with pytest.raises(SAEError, match="no jobs"):
        train_many(data, {}, out=tmp_path)
    with pytest.raises(SAEError, match=r"run name '\.\./a' is not the name of a folder"):
        train_many(data, {"../a": Job(CONFIG)}, out=tmp_path)
    with pytest.raises(SAEError, match=r"need the same steps, got \{'a': 20, 'b': 5\}"):
        train_many(data, {"a": Job(CONFIG), "b": Job(_with(steps=5))}, out=tmp_path)
