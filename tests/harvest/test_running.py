"""Captures are planned, split among processes, stopped, continued and refused."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.errors import InputError, PointError, StoreError
from interp.harvest import capture, estimate
from interp.models import Encoding, Generation, Model, Rows, UNet
from interp.store import open_store
from interp.zoo import Images

BLOCK = "down_blocks.1.resnets.0"
MAKE = Generation(n=5, seed=7, steps=3, guidance=2.0, batch_size=2)

Tree = Callable[[Path], dict[str, bytes]]


def test_processes_that_split_the_shards_write_the_same_store(
    model: Model, tmp_path: Path, tree_of: Tree
) -> None:
    whole = capture(model, [BLOCK], MAKE, out=tmp_path / "one", shard_size=2)
    parts = [
        capture(model, [BLOCK], MAKE, out=tmp_path / "two", shard_size=2, rank=rank, world=2)
        for rank in (1, 0)
    ]
    assert not parts[0].complete
    assert [entry.shard for entry in parts[0].shards] == [1]
    assert tree_of(open_store(parts[1].path).path) == tree_of(whole.path)
    capture(model, [BLOCK], MAKE, out=tmp_path / "three", shard_size=2, shards=range(2, 3))
    rest = capture(model, [BLOCK], MAKE, out=tmp_path / "three", shard_size=2, shards=[0, 1])
    assert tree_of(rest.path) == tree_of(whole.path)


def test_a_damaged_or_missing_shard_is_captured_again(
    model: Model, tmp_path: Path, tree_of: Tree
) -> None:
    store = capture(model, [BLOCK], MAKE, out=tmp_path, shard_size=2)
    before = tree_of(store.path)
    file = next((store.path / "points").glob("*/00001.safetensors"))
    file.write_bytes(file.read_bytes()[:-5])
    (store.path / "shards/00002.json").unlink()
    assert tree_of(capture(model, [BLOCK], MAKE, out=tmp_path, shard_size=2).path) == before


def test_a_stopped_capture_continues_and_runs_the_model_only_for_the_rest(
    model: Model, tmp_path: Path, tree_of: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tree_of(capture(model, [BLOCK], MAKE, out=tmp_path / "a", shard_size=2).path)
    real, made = model.generate, []

    def generate(batch: Any) -> Tensor:
        made.append(batch.seeds)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(batch)

    monkeypatch.setattr(model, "generate", generate)
    with pytest.raises(KeyboardInterrupt):
        capture(model, [BLOCK], MAKE, out=tmp_path / "b", shard_size=2)
    path = next((tmp_path / "b").iterdir())
    finished = len(list((path / "shards").glob("*.json")))
    assert open_store(path, partial=True).verify() == [] if finished else True
    made.clear()
    made.extend([(), (), ()])
    store = capture(model, [BLOCK], MAKE, out=tmp_path / "b", shard_size=2)
    # The estimate looks at one call of the first sample.
    assert len(made) - 4 == 3 - finished
    assert tree_of(store.path) == expected


def test_resume_false_refuses_what_is_there(model: Model, tmp_path: Path) -> None:
    capture(model, [BLOCK], MAKE, out=tmp_path, resume=False)
    with pytest.raises(StoreError, match="already has 1 of 1 shards; resume=True keeps them"):
        capture(model, [BLOCK], MAKE, out=tmp_path, resume=False)


# diffusers' Euler and Heun schedulers call numpy in a way that numpy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("recipe", "rows"),
    [
        (MAKE, Rows()),
        (MAKE, Rows(positions=5, cfg="cond", dtype="float16")),
        (Generation(n=3, steps=4, scheduler="heun"), Rows("mean")),
        (Generation(n=3, steps=4, scheduler="pndm"), Rows(positions=1)),
        (Generation(n=3, steps=4, scheduler="euler"), Rows("all", dtype="bfloat16")),
    ],
)
def test_the_estimate_is_what_a_capture_holds(
    model: Model, tmp_path: Path, recipe: Generation, rows: Rows
) -> None:
    points = ["x_T", BLOCK, "conv_in"]
    plan = estimate(model, points, recipe, rows=rows)
    store = capture(model, points, recipe, out=tmp_path, rows=rows)
    for name, item in plan.per_point.items():
        entry = store.entries(name)[0]
        assert item.rows == store.n_rows(name)
        assert item.bytes == store.rows(name).nbytes
        assert (item.positions, item.rate) == (entry.positions, entry.rate)
    assert plan.bytes - plan.image_bytes == sum(store.rows(name).nbytes for name in plan.per_point)
    assert f"{plan.rows:,} rows at 3 points" in str(plan)


def test_a_capture_that_the_disk_cannot_hold_is_refused_before_it_starts(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(StoreError, match=r"needs 0\.00 GB .* has 0\.00 GB free: keep fewer posit"):
        capture(model, [BLOCK], MAKE, out=tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_nan_activations_are_refused_and_finished_shards_stay(
    tmp_path: Path, fresh_unet: Callable[[str], UNet]
) -> None:
    broken = fresh_unet("test:nan")
    bias: Any = broken.root.get_parameter("class_embedding.weight")
    with torch.no_grad():
        bias[2] = float("nan")
    recipe = Generation(n=4, steps=1, classes=(0, 1, 0, 2), batch_size=2)
    message = (
        rf"256 of 512 activations at {BLOCK}, call 0, are NaN or inf: generation 3 and 0 more of 2"
    )
    with pytest.raises(InputError, match=message):
        capture(broken, [BLOCK], recipe, out=tmp_path, shard_size=2)
    partial = open_store(next(tmp_path.iterdir()), partial=True)
    assert [entry.shard for entry in partial.shards] == [0]
    assert partial.verify() == []


def test_points_are_picked_by_patterns_and_typos_are_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(PointError, match=r"down_blocks\.1\.resnets\.0"):
        capture(model, ["down_blocks.1.resnet.0"], MAKE, out=tmp_path)
    with pytest.raises(InputError, match="no points given"):
        capture(model, [], MAKE, out=tmp_path)
    plan = estimate(model, ["mid_block.*", "conv_*"], Generation(n=1, steps=1))
    assert {"conv_in", "conv_out", "mid_block.resnets.0"} <= set(plan.per_point)
    assert len(estimate(model, "all", Generation(n=1, steps=1)).per_point) > 10


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"world": 9, "shard_size": 1}, "5 shards for 9 processes: some would idle"),
        ({"shards": [7]}, "shards 7 to 7 of a store with 1"),
        ({"images": "given"}, "images go with an Encoding"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    model: Model, pictures: Images, tmp_path: Path, more: dict, message: str
) -> None:
    if "images" in more:
        more = {"images": pictures}
    with pytest.raises(InputError, match=message):
        capture(model, [BLOCK], MAKE, out=tmp_path, **more)


def test_noise_for_a_model_without_noise_is_refused(
    vae: Model, pictures: Images, tmp_path: Path
) -> None:
    for recipe in (Encoding(draws=2), Encoding(log_snr=(0.0,))):
        with pytest.raises(InputError, match="takes no noise"):
            capture(vae, "code", recipe, out=tmp_path, images=pictures)
    with pytest.raises(InputError, match="no images 'glyphs/test': give one of glyphs/train"):
        capture(vae, "code", Encoding(images="glyphs/test"), out=tmp_path)


def test_the_bar_is_silent_without_a_terminal(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    capture(model, [BLOCK], MAKE, out=tmp_path)
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def hooks(model: Model) -> Iterator[None]:
    yield
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.root.modules())


@pytest.mark.usefixtures("hooks")
def test_no_hook_is_left_behind_by_an_estimate_or_an_error(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate(model, "all", MAKE)
    monkeypatch.setattr(
        "interp.store.writer.write_hashed", lambda *a: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(StoreError, match=r"disk is full \(full\) while writing shard 0"):
        capture(model, [BLOCK], MAKE, out=tmp_path)
