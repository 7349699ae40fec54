"""Every kind of damage is an error with a name; nothing outside the folder can be reached."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from interp.errors import InterpError, StoreError
from interp.store import ActivationStore, open_store, remove_store
from interp.store.files import inside, point_folder, tensor_header

SHARD = "points/000-half/00001.safetensors"
FILES = [
    SHARD,
    "points/002-single/00002.safetensors",
    "coords/00000-001.parquet",
    "generations/00001.parquet",
    "images/00002.safetensors",
    "statistics/00000.safetensors",
]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_found(store: ActivationStore, name: str) -> None:
    file = store.path / name
    data = bytearray(file.read_bytes())
    for place in (20, len(data) // 2, len(data) - 1):
        data[place] ^= 4
        file.write_bytes(data)
        problems = open_store(store.path).verify()
        assert len(problems) == 1
        assert Path(problems[0].path).name == file.name
        data[place] ^= 4
    file.write_bytes(data)
    assert open_store(store.path).verify() == []


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_and_a_missing_file_are_found(store: ActivationStore, name: str) -> None:
    file = store.path / name
    os.truncate(file, file.stat().st_size - 1)
    assert "truncated" in str(open_store(store.path).verify()[0])
    file.unlink()
    assert "is missing" in str(open_store(store.path).verify()[0])


def test_reading_a_truncated_shard_raises_instead_of_giving_zeros(store: ActivationStore) -> None:
    file = store.path / SHARD
    size = file.stat().st_size
    os.truncate(file, size - 2)
    with pytest.raises(StoreError, match=rf"{size - 2} bytes where the manifest says {size}"):
        open_store(store.path).rows("half")
    with pytest.raises(StoreError, match="truncated"):
        list(open_store(store.path).chunks("half", 64))
    with pytest.raises(StoreError, match="truncated"):
        list(open_store(store.path).read("half", 64))


def test_a_shard_cut_after_it_was_opened_raises(store: ActivationStore) -> None:
    store.rows("half", [200])
    os.truncate(store.path / SHARD, 300)
    with pytest.raises(StoreError, match="is truncated: 300 bytes"):
        store.rows("half", slice(192, 384))


def test_a_header_of_another_dtype_is_refused(store: ActivationStore) -> None:
    file = store.path / SHARD
    data = file.read_bytes()
    file.write_bytes(tensor_header("BF16", (192, 8)) + data[256:])
    with pytest.raises(StoreError, match=r"header of .* is not that of F16 \[192, 8\]"):
        store.rows("half")


def _edit(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=[2, 0]), r"format 2.0, this library reads up to 1.x: upgrade"),
        (lambda m: m.update(version="1"), "version '1'"),
        (lambda m: m.update(format="zarr"), "is not the manifest of an activation store"),
        (lambda m: m.update(hash="0" * 64), "was altered"),
        (lambda m: m["recipe"].update(sha256="0" * 64), "was altered"),
        (lambda m: m.update(points=[]), "one or more points"),
        (lambda m: m["points"][0].update(width=-3), "is damaged"),
        (lambda m: m["points"].append(m["points"][0]), "distinct names"),
        (lambda m: m["points"][0].pop("kind"), "is damaged"),
        (lambda m: m.update(n_generations=10**30), "is not a count"),
        (lambda m: m.update(n_generations=True), "is not a count"),
        (lambda m: m.update(shard_size=0), "shard_size >= 1"),
        (lambda m: m.update(starts=[0, 8, 4]), "shards start at"),
        (lambda m: m.pop("model"), "KeyError"),
    ],
)
def test_a_damaged_manifest_is_refused(
    store: ActivationStore, change: Callable[[dict], object], message: str
) -> None:
    _edit(store.path / "manifest.json", change)
    with pytest.raises(StoreError, match=message):
        open_store(store.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(shard=0), "does not belong to this store"),
        (lambda e: e.update(generations=[0, 4]), "does not belong to this store"),
        (lambda e: e["points"].pop("half"), "does not belong to this store"),
        (lambda e: e["points"]["half"].update(rows=-1), "is not a count"),
        (lambda e: e["points"]["half"].update(rows=191), "191 rows with 192 coordinates"),
        (lambda e: e["points"]["half"].update(dtype="pickle"), "dtype pickle"),
        (lambda e: e["points"]["half"].update(coords=7), "coords 7"),
        (lambda e: e["points"]["half"].update(sha256="../../x"), "is not a sha256"),
        (lambda e: e["images"].update(shape=[4, 4]), "images of shape"),
        (lambda e: e.pop("table"), "KeyError"),
    ],
)
def test_a_damaged_entry_is_refused(
    store: ActivationStore, change: Callable[[dict], object], message: str
) -> None:
    _edit(store.path / "shards/00001.json", change)
    with pytest.raises(StoreError, match=message):
        open_store(store.path)


def test_what_a_newer_minor_version_adds_is_ignored(store: ActivationStore) -> None:
    def add(value: dict) -> None:
        value["version"] = [1, 9]
        value["points"][0]["novelty"] = value["novelty"] = 1

    _edit(store.path / "manifest.json", add)
    _edit(store.path / "shards/00000.json", lambda e: e.update(novelty=1))
    assert torch.equal(open_store(store.path).rows("half"), store.rows("half"))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_manifest_that_is_no_json_is_refused(store: ActivationStore, data: bytes) -> None:
    (store.path / "manifest.json").write_bytes(data)
    with pytest.raises(StoreError, match=r"not valid JSON|is not the manifest"):
        open_store(store.path)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "..", "a\0b", "é" * 300])
def test_a_point_name_cannot_leave_the_folder(name: str) -> None:
    folder = point_folder(0, name)
    assert folder.startswith("points/000-")
    assert folder.count("/") == 1
    assert len(folder) < 120


@pytest.mark.parametrize("name", [SHARD, "points/000-half", "shards", "manifest.json"])
def test_links_inside_a_store_are_refused(
    store: ActivationStore, tmp_path: Path, name: str
) -> None:
    real = tmp_path / "elsewhere"
    shutil.move(store.path / name, real)
    (store.path / name).symlink_to(real)
    with pytest.raises(StoreError, match="is a symbolic link"):
        open_store(store.path).rows("half")


def test_a_store_may_itself_be_reached_through_a_link(
    store: ActivationStore, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(store.path)
    assert open_store(tmp_path / "link").n_rows("half") == 480
    with pytest.raises(StoreError, match="is a symbolic link; give the folder itself"):
        remove_store(tmp_path / "link")


def test_a_path_through_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/")
    with pytest.raises(StoreError, match="symbolic link"):
        inside(tmp_path, "out/etc")


def test_what_is_no_store_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not an activation store: it has no manifest"):
        open_store(tmp_path)


def test_an_unfinished_store_names_its_missing_shards(store: ActivationStore) -> None:
    (store.path / "shards/00001.json").unlink()
    with pytest.raises(StoreError, match=r"1 of 3 shards of .* are missing \(1\)"):
        open_store(store.path)
    partial = open_store(store.path, partial=True)
    assert not partial.complete
    assert partial.generations["generation"].tolist() == [0, 1, 2, 3, 8, 9]
    assert partial.coords("half", [192])["generation"].tolist() == [8]


def test_every_error_of_a_store_is_one_of_ours(store: ActivationStore) -> None:
    (store.path / SHARD).chmod(stat.S_IRUSR)
    for name in ("shards/00000.json", "manifest.json"):
        file = store.path / name
        good = file.read_bytes()
        for cut in range(0, len(good), 97):
            file.write_bytes(good[:cut])
            with pytest.raises(InterpError):
                open_store(store.path)
        file.write_bytes(good)
