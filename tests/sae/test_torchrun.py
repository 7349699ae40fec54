"""The command `interp train` under torchrun: one rank speaks, a killed one ends the job."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from interp.cli import main
from interp.sae import SAE, TrainConfig, train
from interp.sae.log import read_log
from interp.sae.sharded_checkpoint import newest_shards, step_of
from interp.store import write_store
from tests.sae.stores import make_store
from tests.sae.test_distributed import LIMIT, close, environment, same_lines, timeless

SMALL = TrainConfig(n_latents=24, k=3, batch_size=16, steps=12, log_every=6, dead_window=2)


def options(config, out):
    names = ("n_latents", "k", "batch_size", "steps", "log_every", "dead_window")
    words = [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in names]
    return [*words, f"--checkpoint-every={config.checkpoint_every}", "--out", str(out)]


def torchrun(root, *command):
    """Start two ranks of the command."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*launcher, "--nproc-per-node", "2", "-m", "interp", "train", *command],
        cwd=root,
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_the_command_trains_under_torchrun_and_one_rank_speaks(root, tmp_path):
    store = make_store(tmp_path / "store")
    job = torchrun(root, str(store.path), "mid", *options(SMALL, tmp_path / "run"))
    said, errors = job.communicate(timeout=LIMIT)
    assert job.returncode == 0, errors
    path, line = said.splitlines()
    assert path == str(tmp_path / "run")
    assert json.loads(line)["step"] == 12
    one = train(store, SMALL, point="mid", out=tmp_path / "one")
    close(SAE.load(tmp_path / "run" / "sae").state_dict(), one.sae.state_dict())
    same_lines(timeless(read_log(tmp_path / "run")), one.log)
    for name in ("point", "model", "store", "split"):
        assert SAE.load(path + "/sae").provenance[name] == one.sae.provenance[name]


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_rank_killed_under_torchrun_ends_the_job_and_one_process_finishes_it(root, tmp_path):
    store, out = make_store(tmp_path / "store"), tmp_path / "run"
    config = TrainConfig(
        **{**SMALL.as_dict(), "steps": 400, "checkpoint_every": 20, "log_every": 100}
    )
    job = torchrun(root, str(store.path), "mid", *options(config, out))
    ends = time.monotonic() + LIMIT
    while newest_shards(out) is None and job.poll() is None and time.monotonic() < ends:
        time.sleep(0.05)
    os.kill(children(job.pid)[-1], signal.SIGKILL)
    said, errors = job.communicate(timeout=LIMIT)
    assert job.returncode != 0
    assert said == ""
    assert "Signal 9 (SIGKILL) received" in errors
    kept = newest_shards(out)
    assert kept is not None
    assert 20 <= step_of(kept) < 400
    assert main(["train", str(store.path), "mid", *options(config, out)]) == 0
    whole = train(store, config, point="mid", out=tmp_path / "whole")
    found = [line["step"] for line in read_log(out)]
    assert found == [line["step"] for line in whole.log]
    # 400 steps apart in rounding, the runs agree in what they reach.
    assert read_log(out)[-1]["fvu"] == pytest.approx(whole.log[-1]["fvu"], rel=0.05)


@pytest.fixture
def two_points(tmp_path):
    g = torch.Generator().manual_seed(0)
    x = {name: torch.randn(6, 2, 8, 6, generator=g) for name in ("mid", "top", "up")}
    ids = {"image_id": [f"image{i}" for i in range(6)]}
    return write_store(
        tmp_path / "store", x, generations=ids, t=(900.0, 500.0), log_snr=(0.0, 1.0), shard_size=8
    )


def announce(monkeypatch, rank, world):
    for name, value in {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, str(value))


def test_each_rank_of_the_command_takes_points_of_its_own(
    two_points, tmp_path, monkeypatch, capsys
):
    command = ["train", str(two_points.path), "mid", "top", "up", "--layout", "each"]
    command += options(SMALL, tmp_path / "runs")
    for rank, names in enumerate([["mid", "up"], ["top"]]):
        announce(monkeypatch, rank, 2)
        assert main(command) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[::2] == [str(tmp_path / "runs" / name) for name in names]
    for name in ("mid", "top", "up"):
        assert SAE.load(tmp_path / "runs" / name / "sae").point["name"] == name


def test_more_ranks_than_points_are_refused(two_points, tmp_path, monkeypatch, capsys):
    announce(monkeypatch, 0, 4)
    command = ["train", str(two_points.path), "mid", "top", "--layout", "each"]
    assert main([*command, *options(SMALL, tmp_path / "runs")]) == 2
    assert "4 ranks share 2 jobs: start at most 2" in capsys.readouterr().err


def test_several_points_of_one_process_train_one_after_another(two_points, tmp_path, capsys):
    command = ["train", str(two_points.path), "mid", "top"]
    assert main([*command, *options(SMALL, tmp_path / "runs")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"mid", "top"}


def test_a_layout_that_does_not_fit_is_refused(two_points, tmp_path, capsys):
    command = ["train", str(two_points.path), "mid", *options(SMALL, tmp_path / "runs")]
    assert main([*command, "--layout", "2x2"]) == 2
    assert "layout 2x2 needs 4 ranks, but 1 run" in capsys.readouterr().err
    assert main([*command, "--layout", "rows"]) == 2
    assert "unknown layout 'rows'" in capsys.readouterr().err
