"""The training loop: splits, logs, resuming to the bit, and what it refuses."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from interp.errors import PointError, SAEError
from interp.sae import SAE, TrainConfig, train
from interp.sae.checkpoint import CHECKPOINT
from interp.sae.log import read_log
from interp.sae.synthetic import PlantedDictionary
from tests.sae.stores import make_store

CONFIG = TrainConfig(
    n_latents=24, k=3, batch_size=16, steps=30, checkpoint_every=5, log_every=10, dead_window=2
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return train(store, CONFIG, point="mid", out=tmp_path_factory.mktemp("run"))


def _weights(sae: SAE) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in sae.state_dict().values())


def test_a_run_directory_holds_config_log_and_sae(run):
    names = {path.name for path in run.path.iterdir()}
    assert names == {"config.json", "log.jsonl", "sae"}
    assert TrainConfig.load(run.path) == CONFIG
    assert _weights(SAE.load(run.path / "sae")) == _weights(run.sae)


def test_the_log_has_a_line_per_interval(run):
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert set(lines[0]) == {"step", "fvu", "aux", "l0", "penalty", "dead", "lr", "seconds"}
    assert lines[-1]["fvu"] < lines[0]["fvu"]
    assert lines == run.log


def test_the_sae_carries_where_it_comes_from(run, store):
    assert run.sae.point == store.points["mid"].as_dict()
    assert run.sae.model_hash == "ab" * 32
    assert run.sae.recipe == CONFIG.as_dict()
    assert run.sae.provenance["store"] == store.hash
    assert run.sae.provenance["split"]["rows_held_out"] == 32


def test_centering_and_scale_come_from_the_store(run, store):
    statistics = store.statistics("mid")
    torch.testing.assert_close(run.sae.mean, statistics.mean.float())
    torch.testing.assert_close(run.sae.scale, statistics.var.sum().sqrt().float())


def test_whole_clusters_are_held_out(run, store):
    from interp.sae.split import seen_generations

    seen = seen_generations(store.generations, run.sae.trained_units)
    assert seen.sum() == 18
    assert (seen[::2] == seen[1::2]).all()


def test_the_store_own_split_is_used(tmp_path):
    store = make_store(tmp_path / "store", n=8, split=["train", "heldout"] * 4)
    run = train(store, CONFIG, point="mid", out=tmp_path / "run")
    assert run.sae.provenance["split"]["generations"] == 4


def test_rows_choose_what_trains(store, tmp_path):
    mask = store.coords("mid")["generation"] < 3
    run = train(store, CONFIG, point="mid", rows=mask, out=tmp_path)
    assert run.sae.provenance["split"]["rows"] == mask.sum()
    assert run.sae.provenance["split"]["generations"] == 3


def test_the_same_arguments_give_the_same_bits(run, store, tmp_path):
    assert _weights(train(store, CONFIG, point="mid", out=tmp_path).sae) == _weights(run.sae)


def test_the_config_file_reruns_the_run(run, store, tmp_path):
    config = TrainConfig.load(run.path / "config.json")
    assert _weights(train(store, config, point="mid", out=tmp_path).sae) == _weights(run.sae)


def test_a_finished_run_is_returned_without_training(run, store, monkeypatch):
    monkeypatch.setattr(sys.modules["interp.sae.train"], "_run", None)
    again = train(store, CONFIG, point="mid", out=run.path)
    assert _weights(again.sae) == _weights(run.sae)
    assert again.log == run.log


def test_another_run_directory_is_not_overwritten(run, store):
    other = TrainConfig(**{**CONFIG.as_dict(), "steps": 31})
    with pytest.raises(SAEError, match=r"another run \(config.steps: 30 there, 31 asked"):
        train(store, other, point="mid", out=run.path)


def test_resume_false_starts_again(store, tmp_path):
    train(store, CONFIG, point="mid", out=tmp_path)
    other = TrainConfig(**{**CONFIG.as_dict(), "steps": 12})
    again = train(store, other, point="mid", out=tmp_path, resume=False)
    assert again.log[-1]["step"] == 12
    assert TrainConfig.load(tmp_path) == other


class Stop(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("source", ["store", "batches"])
@pytest.mark.parametrize("stop", [1, 7, 14, 29])
def test_a_stopped_run_continues_to_the_same_bits(run, store, tmp_path, monkeypatch, stop, source):
    data = store if source == "store" else PlantedDictionary(12, 6, 2, batch_size=16, steps=30)
    where = {"point": "mid"} if source == "store" else {}
    whole = run if source == "store" else train(data, CONFIG, out=tmp_path / "whole")
    step = sys.modules["interp.sae.train"]._step

    def crash(state, batch, config):
        if state.step == stop:
            raise Stop
        step(state, batch, config)

    monkeypatch.setattr(sys.modules["interp.sae.train"], "_step", crash)
    with pytest.raises(Stop):
        train(data, CONFIG, out=tmp_path / "run", **where)
    monkeypatch.undo()
    assert (tmp_path / "run" / CHECKPOINT).exists() == (stop >= 5)
    resumed = train(data, CONFIG, out=tmp_path / "run", **where)
    assert _weights(resumed.sae) == _weights(whole.sae)

    def timeless(lines):
        return [{key: line[key] for key in line if key != "seconds"} for line in lines]

    assert timeless(resumed.log) == timeless(whole.log)


_CHILD = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from interp.sae import TrainConfig, train
from interp.store import open_store
from tests.sae.test_train import CONFIG
import interp.sae.atomic as atomic
module = sys.modules["interp.sae.train"]
kill = sys.argv[3]
step, fsync = module._step, os.fsync
writes = [0]
def dying_step(state, batch, config):
    if kill.isdigit() and state.step == int(kill):
        os.kill(os.getpid(), signal.SIGKILL)
    step(state, batch, config)
def dying_fsync(fd):
    writes[0] += 1
    if kill == "write" and writes[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(fd)
module._step, atomic.os.fsync = dying_step, dying_fsync
train(open_store(sys.argv[1]), CONFIG, point="mid", out=sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_process_continues_to_the_same_bits(run, store, tmp_path, root):
    rng = np.random.default_rng()
    deaths = [str(step) for step in np.sort(rng.choice(np.arange(6, 30), 3, replace=False))]
    path = os.pathsep.join(map(str, [root, root / "kernels"]))
    # In the first process the third file to reach the disk is the second checkpoint.
    for kill in ["write", *deaths]:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(store.path), str(tmp_path), kill],
            cwd=root,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == -signal.SIGKILL, (kill, done.stderr)
    resumed = train(store, CONFIG, point="mid", out=tmp_path)
    assert _weights(resumed.sae) == _weights(run.sae), deaths


def test_a_truncated_checkpoint_is_refused_with_the_way_out(store, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["interp.sae.train"].SAE, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(store, CONFIG, point="mid", out=tmp_path)
    monkeypatch.undo()
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SAEError, match=r"is damaged .* delete it to start the run again"):
        train(store, CONFIG, point="mid", out=tmp_path)


def test_a_cut_last_log_line_is_left_out(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2]


def _nan_at(step: int):
    batches = list(PlantedDictionary(12, 6, 2, batch_size=16, steps=30))
    batches[step][3, 2] = torch.nan
    return batches


def test_nan_stops_the_run_names_the_rows_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(SAEError, match=r"step 23: 1 of 16 rows hold NaN .* \[3\]\)"):
        train(_nan_at(23), CONFIG, out=tmp_path)
    assert (tmp_path / CHECKPOINT).exists()
    repaired = list(PlantedDictionary(12, 6, 2, batch_size=16, steps=30))
    resumed = train(repaired, CONFIG, out=tmp_path)
    whole = train(repaired, CONFIG, out=tmp_path / "whole")
    assert _weights(resumed.sae) == _weights(whole.sae)


def test_nan_in_the_first_batches_is_refused(tmp_path):
    with pytest.raises(SAEError, match="step 2: 1 of 16 rows"):
        train(_nan_at(2), CONFIG, out=tmp_path)


def test_nan_rows_of_a_store_are_named_by_row_id(store, tmp_path, monkeypatch):
    draw = sys.modules["interp.store.reader"].ShuffledReader.__next__
    seen = []

    def poisoned(self):
        batch = draw(self)
        seen.append(batch.row_ids)
        batch.x[5, 0] = torch.inf
        return batch

    monkeypatch.setattr(sys.modules["interp.store.reader"].ShuffledReader, "__next__", poisoned)
    with pytest.raises(SAEError, match="step 0: 1 of 16 rows") as error:
        train(store, CONFIG, point="mid", out=tmp_path)
    assert f"row ids [{seen[0][5]}]" in str(error.value)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "source is empty"),
        ([torch.zeros(4, 6), torch.zeros(4, 5)], r"step 1 has shape \(4, 5\)"),
        ([torch.zeros(4, 6, dtype=torch.int64)], "dtype torch.int64; floating-point rows"),
        ([torch.zeros(6)], r"shape \(6,\)"),
        ([torch.zeros(4, 6)] * 30, "constant"),
        ([torch.eye(6)] * 10, "ended after 10 batches, at step 10"),
    ],
)
def test_unusable_batches_are_refused(tmp_path, batches, message):
    with pytest.raises(SAEError, match=message):
        train(batches, CONFIG, out=tmp_path)


def test_a_one_pass_iterator_trains_but_does_not_resume(tmp_path):
    data = PlantedDictionary(12, 6, 2, batch_size=16, steps=20)
    with pytest.raises(SAEError, match="ended after 20 batches"):
        train(iter(data), CONFIG, out=tmp_path)
    with pytest.raises(SAEError, match="one-pass iterator cannot be resumed"):
        train(iter(data), CONFIG, out=tmp_path)


def test_arguments_that_do_not_belong_together_are_refused(store, tmp_path):
    with pytest.raises(SAEError, match="name a point of the store: mid"):
        train(store, CONFIG, out=tmp_path)
    with pytest.raises(SAEError, match="the source is an iterable"):
        train([torch.eye(6)], CONFIG, point="mid", out=tmp_path)
    with pytest.raises(PointError, match="closest: mid"):
        train(store, CONFIG, point="midd", out=tmp_path)
    with pytest.raises(SAEError, match="none of the 320 rows of mid may train"):
        train(store, CONFIG, point="mid", rows=np.zeros(320, bool), out=tmp_path)


def test_one_cluster_cannot_be_split(tmp_path):
    store = make_store(tmp_path / "store", n=2)
    with pytest.raises(SAEError, match="nothing can be held out"):
        train(store, CONFIG, point="mid", out=tmp_path / "run")
    everything = TrainConfig(**{**CONFIG.as_dict(), "held_out": 0.0})
    train(store, everything, point="mid", out=tmp_path / "run")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "k = 0 must be at least 1"),
        ({"k": 2000}, "k = 2000 is not in"),
        ({"steps": 0}, "steps = 0"),
        ({"warmup": 1.0}, "warmup = 1.0 must be a share"),
        ({"lr": -1.0}, "lr = -1.0"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"lr": float("inf")}, "lr = inf must be a finite number"),
        ({"aux_coefficient": float("inf")}, "aux_coefficient = inf must be a finite number"),
        ({"lr": "0.1"}, "lr = '0.1' must be a number"),
        ({"lr": 1e30}, r"lr = 1e\+30 must be at most"),
        ({"k": 2.5}, "k = 2.5 must be a whole number"),
        ({"k": True}, "k = True must be a whole number"),
        ({"steps": 2.5}, "steps = 2.5 must be a whole number"),
        ({"n_latents": "5"}, "n_latents = '5' must be a whole number"),
        ({"seed": 2**70}, "seed = 1180591620717411303424 must be at most"),
        ({"batch_size": 10**9}, "batch_size = 1000000000 must be at most 16777216"),
        ({"variant": 3}, "variant = 3 must be a word"),
        ({"nonsense": 1}, r"no field \['nonsense'\]"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(SAEError, match=message):
        TrainConfig.from_dict(values)


def test_a_run_that_diverges_is_stopped_and_not_saved(tmp_path):
    config = TrainConfig(n_latents=24, k=3, steps=20, log_every=1)
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(SAEError, match=r"step 18: fvu = inf: the training has diverged at lr = "):
        train([x] * 17 + [x * 1e30] * 3, config, out=tmp_path)
    assert not (tmp_path / "sae").exists()
    assert read_log(tmp_path)[-1]["step"] == 17


def test_another_source_is_not_taken_for_the_finished_one(tmp_path):
    config = TrainConfig(n_latents=24, k=3, steps=20, checkpoint_every=0)
    one = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    first = train([one] * 20, config, out=tmp_path)
    assert train([one] * 20, config, out=tmp_path).sae.digest == first.sae.digest
    later = [one] * 15 + [one + 1] * 5
    for other in ([one * 100 + 7] * 20, [one.double()] * 20, [one.flip(0)] * 20, later):
        with pytest.raises(SAEError, match=r"holds another run \(provenance.fingerprint.sha256"):
            train(other, config, out=tmp_path)


def test_an_unknown_variant_is_refused(tmp_path):
    with pytest.raises(SAEError, match=r"unknown variant 'rleu'; known are \['.*'topk'"):
        train([torch.eye(6)], TrainConfig("rleu", 24, 3), out=tmp_path)


def test_a_config_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(SAEError, match="is not a training config"):
        TrainConfig.load(tmp_path)
    with pytest.raises(SAEError, match="cannot read a training config"):
        TrainConfig.load(tmp_path / "nowhere")


def test_the_rate_rises_stays_and_falls():
    config = TrainConfig(n_latents=512, steps=100, warmup=0.1, decay=0.2)
    rates = [config.lr_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(2e-4)
    assert rates[10:80] == pytest.approx([2e-3] * 70)
    assert rates[99] == pytest.approx(1e-4)


def test_the_dead_window_scales_with_the_run():
    assert TrainConfig(steps=100).window == 5
    assert TrainConfig(steps=30_000).window == 100
    assert TrainConfig(steps=30_000, dead_window=7).window == 7


def test_progress_is_quiet_off_a_terminal(store, tmp_path, capfd):
    train(store, CONFIG, point="mid", out=tmp_path)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
