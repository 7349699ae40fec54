"""Trackers follow a run; the log needs none of them."""

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.errors import SAEError
from interp.sae.config import TrainConfig
from interp.sae.trackers import TRACKERS, make_tracker
from interp.sae.train import train

CONFIG = TrainConfig(n_latents=8, k=2, steps=6, batch_size=16, log_every=2, checkpoint_every=2)
BATCHES = [torch.randn(16, 4, generator=torch.Generator().manual_seed(i)) for i in range(6)]


class Notes:
    """A plain callable that keeps what it hears."""

    def __init__(self, fail_at: int = 0) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.fail_at = fail_at

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        self.heard.append((event, dict(values)))
        if event == "line" and values["step"] == self.fail_at:
            raise OSError("the service is gone")


def test_a_tracker_hears_the_settings_every_line_and_the_end(tmp_path: Path) -> None:
    one, two = Notes(), Notes()
    run = train(BATCHES, CONFIG, out=tmp_path / "run", progress=False, trackers=[one, two])
    assert one.heard == two.heard
    (first, begin), *lines, last = one.heard
    assert first == "start"
    assert begin["config"] == CONFIG.as_dict()
    assert (begin["run"], begin["step"]) == ("run", 0)
    assert [values for event, values in lines if event == "line"] == run.log
    assert last == ("finish", {"ok": True})


def test_a_run_is_the_same_with_and_without_a_tracker(tmp_path: Path) -> None:
    alone = train(BATCHES, CONFIG, out=tmp_path / "a", progress=False)
    followed = train(BATCHES, CONFIG, out=tmp_path / "b", progress=False, trackers=[Notes()])
    for name, tensor in alone.sae.state_dict().items():
        assert torch.equal(tensor, followed.sae.state_dict()[name])
    assert [line["fvu"] for line in alone.log] == [line["fvu"] for line in followed.log]


def test_a_tracker_that_fails_stops_the_run_and_the_rerun_tells_where_it_continues(
    tmp_path: Path,
) -> None:
    notes, other = Notes(fail_at=4), Notes()
    with pytest.raises(OSError, match="the service is gone"):
        train(BATCHES, CONFIG, out=tmp_path, progress=False, trackers=[notes, other])
    assert notes.heard[-1] == ("finish", {"ok": False})
    assert other.heard[-1] == ("finish", {"ok": False})
    # The line was in the log before the tracker heard of it.
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    again = Notes()
    run = train(BATCHES, CONFIG, out=tmp_path, progress=False, trackers=[again])
    assert again.heard[0][1]["step"] == 2
    assert [values["step"] for event, values in again.heard if event == "line"] == [4, 6]
    assert [line["step"] for line in run.log] == [2, 4, 6]


def test_a_finished_run_starts_no_tracker(tmp_path: Path) -> None:
    train(BATCHES, CONFIG, out=tmp_path, progress=False)
    notes = Notes()
    train(BATCHES, CONFIG, out=tmp_path, progress=False, trackers=[notes])
    assert notes.heard == []


def test_what_cannot_be_called_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match="'wandb' cannot be called"):
        train(BATCHES, CONFIG, out=tmp_path, progress=False, trackers=["wandb"])  # type: ignore


@pytest.mark.parametrize(
    ("name", "module"),
    [("wandb", "wandb"), ("trackio", "trackio"), ("tensorboard", "torch.utils.tensorboard")],
)
def test_a_missing_package_names_the_command(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None in sys.modules is how Python itself marks a module that cannot be imported.
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SAEError, match=rf"{name} needs a package .*'interp\[{name}\]'"):
        make_tracker(name)


def test_an_unknown_tracker_says_what_there_is() -> None:
    with pytest.raises(SAEError, match="no tracker 'mlflow'; there are wandb, trackio, tensor"):
        make_tracker("mlflow")


def test_each_tracker_has_an_extra(root: Path) -> None:
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert set(TRACKERS) <= set(project["optional-dependencies"])


HERE = [name for name in TRACKERS if importlib.util.find_spec(name)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HERE)
def test_the_services_that_are_installed_keep_the_lines(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("TRACKIO_DIR", "WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "service"))
    out = tmp_path / "run"
    run = train(BATCHES, CONFIG, out=out, progress=False, trackers=[make_tracker(name)])
    assert KEPT[name](out, tmp_path / "service") == [line["fvu"] for line in run.log]


def _tensorboard(out: Path, service: Path) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore
        EventAccumulator,
    )

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return [pytest.approx(event.value) for event in events.Scalars("train/fvu")]


def _wandb(out: Path, service: Path) -> list[float]:
    # The format has no public reader; numbers stand in it as JSON.
    (file,) = out.glob("wandb/offline-run-*/run-*.wandb")
    data = file.read_bytes()
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line["fvu"] for line in lines if json.dumps(line["fvu"]).encode() in data]


def _trackio(out: Path, service: Path) -> list[float]:
    import sqlite3

    (file,) = service.rglob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select metrics from metrics order by step").fetchall()
    return [json.loads(text)["fvu"] for (text,) in rows]


KEPT = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}


def test_a_tracker_that_fails_at_the_end_does_not_hide_the_runs_own_error(tmp_path: Path) -> None:
    def broken(event: str, values: Mapping[str, Any]) -> None:
        if event == "finish":
            raise ValueError("no connection")

    heard, stop = Notes(), Notes(fail_at=2)
    trackers = [broken, stop, heard]
    with pytest.raises(OSError, match="the service is gone") as caught:
        train(BATCHES, CONFIG, out=tmp_path, progress=False, trackers=trackers)
    assert "no connection" in caught.value.__notes__[0]
    assert heard.heard[-1] == ("finish", {"ok": False})
