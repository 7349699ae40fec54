"""A process may die at any moment and a disk may fill: the next run ends with the same bytes."""

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.errors import InputError, StoreError
from interp.models import HookPoint
from interp.store import ActivationStore, Manifest, open_store, write_store
from interp.store.coords import Segment
from interp.store.manage import complete_table
from interp.store.pipeline import Pipeline
from interp.store.staging import Staging, start_store
from interp.store.writer import ShardWriter

Tree = Callable[[Path], dict[str, bytes]]
# System calls of a writer, at each of which a process may die.
CALLS = ("write", "pwrite", "fsync", "replace", "mkdir", "rename", "rmdir", "unlink")


def _values() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(6, 2, 16, 8, generator=draw).half(),
        "b": torch.randn(6, 2, 1, 5, generator=draw),
    }


def _write(folder: Path) -> ActivationStore:
    images = torch.arange(6 * 12, dtype=torch.uint8).reshape(6, 2, 2, 3)
    return write_store(folder, _values(), images=images, shard_size=2)


class Interruption:
    """Calls `act` at the k-th of the calls above; a write is cut in half before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, moment: int, act: Callable) -> None:
        self.count, self.moment, self.act = 0, moment, act
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            self.count += 1
            if self.count == self.moment:
                if name == "write":
                    fd, data = args
                    real(fd, bytes(data)[: len(data) // 2])  # type: ignore[call-overload]
                self.act()
            return real(*args, **kwargs)

        return call


def _run_killed(folder: Path, moment: int) -> bool:
    """Write in a forked process that kills itself at a system call; tell whether it was killed."""
    child = os.fork()
    if not child:
        patch = pytest.MonkeyPatch()
        try:
            Interruption(patch, moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
            _write(folder)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _check_killed(folder: Path, moment: int, expected: dict[str, bytes], tree_of: Tree) -> bool:
    folder.mkdir()
    killed = _run_killed(folder, moment)
    for path in folder.iterdir():
        if list((path / "shards").glob("*.json")):
            # What has a manifest entry is whole.
            assert open_store(path, partial=True).verify() == []
    assert tree_of(_write(folder).path) == expected
    return killed


# Python 3.12 warns of forks beside threads: the child only writes files, and dies.
FORK = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@FORK
@pytest.mark.parametrize("moment", [1, 4, 9, 17, 30, 47, 71, 90])
def test_a_killed_write_continues_to_the_same_bytes(
    tmp_path: Path, tree_of: Tree, moment: int
) -> None:
    expected = tree_of(_write(tmp_path / "whole").path)
    assert _check_killed(tmp_path / "killed", moment, expected, tree_of)


@FORK
@pytest.mark.slow
def test_a_process_may_be_killed_at_every_system_call(tmp_path: Path, tree_of: Tree) -> None:
    expected = tree_of(_write(tmp_path / "whole").path)
    moment = 1
    while _check_killed(tmp_path / f"killed{moment}", moment, expected, tree_of):
        moment += 1
    assert moment > 90


@FORK
@pytest.mark.slow
def test_a_write_killed_again_and_again_ends_with_the_same_bytes(
    tmp_path: Path, tree_of: Tree
) -> None:
    expected = tree_of(_write(tmp_path / "whole").path)
    draw = np.random.default_rng(0)
    for _ in range(20):
        _run_killed(tmp_path / "killed", int(draw.integers(1, 60)))
    assert tree_of(_write(tmp_path / "killed").path) == expected


@pytest.mark.parametrize("moment", [6, 20, 45])
def test_a_full_disk_keeps_the_finished_shards_and_frees_the_rest(
    tmp_path: Path, tree_of: Tree, moment: int
) -> None:
    expected = tree_of(_write(tmp_path / "whole").path)

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        Interruption(patch, moment, full)
        with pytest.raises(StoreError, match=r"disk is full .*while writing .*same command"):
            _write(tmp_path / "full")
    path = next((tmp_path / "full").iterdir())
    assert not [f for f in (path / "tmp").rglob("*") if f.is_file() and f.stat().st_size]
    assert tree_of(_write(tmp_path / "full").path) == expected


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path, tree_of: Tree) -> None:
    expected = tree_of(_write(tmp_path / "whole").path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(StoreError, match="disk is full"):
            _write(tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree_of(_write(tmp_path / "full").path) == expected


def test_other_errors_of_the_disk_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    Interruption(monkeypatch, 20, broken)
    with pytest.raises(OSError, match="Input/output error"):
        _write(tmp_path)


def test_a_shard_has_one_writer(tmp_path: Path) -> None:
    first = Staging(tmp_path, 3)
    with pytest.raises(StoreError, match=r"shard 3 of .* is being written by another process"):
        Staging(tmp_path, 3)
    Staging(tmp_path, 4).close()
    first.close()
    Staging(tmp_path, 3).close()


def test_a_folder_of_something_else_is_not_written_into(tmp_path: Path) -> None:
    store = _write(tmp_path)
    other = write_store(tmp_path, {"a": torch.zeros(1, 1, 1, 1)})
    with pytest.raises(StoreError, match=r"holds another store \(hash"):
        start_store(store.path, other.manifest)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match="exists and is not an activation store"):
        start_store(tmp_path / "mine", store.manifest)


def test_finished_shards_are_not_written_again(tmp_path: Path) -> None:
    store = _write(tmp_path)
    before = {f: f.stat().st_mtime_ns for f in store.path.rglob("*")}
    assert {f: f.stat().st_mtime_ns for f in _write(tmp_path).path.rglob("*")} == before


def test_texts_of_several_lengths_fit_a_shard_where_as_many_rows_are_kept(tmp_path: Path) -> None:
    point = HookPoint("text", "", "text", "resid", 2, (4,), "btc", 0.0)
    manifest = Manifest((point,), {}, {}, {}, None, 2, 2)
    start_store(tmp_path / "a", manifest)
    with ShardWriter(tmp_path / "a", manifest, 0) as writer:
        for generation, (length, kept) in enumerate([(5, [0, 4]), (9, [3, 8])]):
            segment = Segment(np.array([generation]), 0, np.nan, np.nan, 1, np.array([kept]))
            writer.append("text", torch.ones(2, 2), segment, (length,))
        whole = segment._replace(positions=np.arange(9)[None])
        with pytest.raises(
            InputError, match=r"text changed within shard 0: .*keep the mean or a nu"
        ):
            writer.append("text", torch.ones(9, 2), whole, (9,))
        writer.finish(complete_table({"image_id": ["a", "b"]}, 2), None, {})
    store = open_store(tmp_path / "a")
    assert store.points["text"].grid == (9,)
    assert store.coords("text")["token"].tolist() == [0, 4, 3, 8]
    assert torch.isnan(store.maps("text", 0)[:, 0]).sum() == 7


def test_a_pipeline_runs_tasks_in_order_and_bounds_what_waits() -> None:
    seen: list[int] = []
    with Pipeline(limit=10) as pipeline:
        for number in range(50):
            pipeline.submit(lambda number=number: seen.append(number), size=7)
    assert seen == list(range(50))


def test_an_error_in_a_pipeline_reaches_the_caller_and_stops_the_rest() -> None:
    seen: list[int] = []

    def fail() -> None:
        raise StoreError("full")

    def run() -> None:
        with Pipeline(limit=1) as pipeline:
            pipeline.submit(fail)
            for _ in range(1000):
                pipeline.submit(lambda: seen.append(1), size=1)

    with pytest.raises(StoreError, match="full"):
        run()
    assert not seen


def test_the_callers_own_error_wins_over_waiting_tasks() -> None:
    def run() -> None:
        with Pipeline() as pipeline:
            pipeline.submit(lambda: None)
            raise KeyError

    with pytest.raises(KeyError):
        run()


@pytest.mark.parametrize("name", ["points/000-a/00001.safetensors", "coords/00001-000.parquet"])
def test_a_truncated_shard_of_an_array_store_is_written_again(
    tmp_path: Path, tree_of: Tree, name: str
) -> None:
    store = _write(tmp_path)
    expected = tree_of(store.path)
    os.truncate(store.path / name, 300)
    assert tree_of(_write(tmp_path).path) == expected


def test_a_file_where_a_folder_should_be_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match=r"the manifest of .* cannot be written: .*folder"):
        _write(tmp_path / "out")


def test_images_are_known_by_size_and_content(tmp_path: Path) -> None:
    images = torch.zeros(3, 2, 4, 3, dtype=torch.uint8)
    images[1] = 7
    x = {"x": torch.zeros(3, 1, 1, 2)}
    found = write_store(tmp_path, x, images=images).generations["image_hash"].tolist()
    assert found[0] == found[2] != found[1]
    assert all(one.startswith("2x4:") and len(one) == 20 for one in found)
    plain = write_store(tmp_path / "b", x).generations["image_hash"].tolist()
    assert plain == [""] * 3
