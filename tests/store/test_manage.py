"""Merging and removing whole stores."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from interp.errors import InputError, StoreError
from interp.store import ActivationStore, merge_stores, open_store, remove_store

Tree = Callable[[Path], dict[str, bytes]]


def _keep(store: ActivationStore, folder: Path, shards: list[int]) -> Path:
    """Copy a store with some of its shards, as a process that wrote only those would leave it."""
    target = folder / store.path.name
    shutil.copytree(store.path, target)
    for entry in store.shards:
        if entry.shard not in shards:
            (target / f"shards/{entry.shard:05d}.json").unlink()
            (target / f"points/000-half/{entry.shard:05d}.safetensors").unlink()
    return target


def test_parts_of_one_capture_merge_to_the_bytes_of_the_whole(
    store: ActivationStore, tmp_path: Path, tree_of: Tree
) -> None:
    parts = [_keep(store, tmp_path / "b", [2, 0]), _keep(store, tmp_path / "c", [1])]
    merged = merge_stores(parts, tmp_path / "out")
    assert merged.hash == store.hash
    assert tree_of(merged.path) == tree_of(store.path)


def test_stores_of_one_model_are_appended(
    make: Callable[..., ActivationStore], tmp_path: Path
) -> None:
    ids = [[f"{name}{i}" for i in range(10)] for name in "ab"]
    stores = [
        make(seed=seed, generations={"image_id": ids[seed]}, shard_size=size)
        for seed, size in ((0, 4), (1, 3))
    ]
    merged = merge_stores([store.path for store in stores], tmp_path / "out")
    assert merged.verify() == []
    assert merged.manifest.n_shards == 7
    assert merged.recipe == {"kind": "merged", "stores": [store.hash for store in stores]}
    assert merged.generations["generation"].tolist() == list(range(20))
    assert merged.generations["image_id"].tolist() == [*ids[0], *ids[1]]
    both = torch.cat([store.rows("half") for store in stores])
    assert torch.equal(merged.rows("half"), both)
    assert torch.equal(merged.maps("half", 13, 2), stores[1].maps("half", 3, 2))
    assert torch.equal(merged.images([12]), stores[1].images([2]))
    assert merged.statistics("half").count == 960


def test_stores_that_do_not_belong_together_are_not_merged(
    make: Callable[..., ActivationStore], tmp_path: Path
) -> None:
    one = make()
    with pytest.raises(InputError, match="two or more stores, got 1"):
        merge_stores([one.path], tmp_path)
    with pytest.raises(InputError, match="differ in their model"):
        merge_stores([one.path, make(model={"spec": "b"}).path], tmp_path / "out")
    with pytest.raises(InputError, match="10 generations are in more than one store, such as imag"):
        merge_stores([one.path, make(seed=1).path], tmp_path / "out")


def test_a_damaged_store_is_not_merged(store: ActivationStore, tmp_path: Path) -> None:
    other = _keep(store, tmp_path / "b", [0, 1, 2])
    file = store.path / "points/000-half/00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match=r"00001.safetensors is damaged"):
        merge_stores([store.path, other], tmp_path / "out")


def test_merging_is_refused_where_the_disk_cannot_hold_it(
    store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = _keep(store, tmp_path / "b", [0])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(StoreError, match=r"merging needs 0\.00 GB"):
        merge_stores([store.path, other], tmp_path / "out")


def test_removing_frees_the_bytes(store: ActivationStore, tree_of: Tree) -> None:
    size = sum(map(len, tree_of(store.path).values()))
    assert remove_store(store.path) == size
    assert not store.path.exists()


def test_what_is_no_store_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match="is not an activation store; nothing was deleted"):
        remove_store(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "another"}')
    with pytest.raises(StoreError, match="is not the manifest of an activation store"):
        remove_store(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_store_with_files_of_others_is_not_removed(store: ActivationStore) -> None:
    (store.path / "notes.txt").write_text("")
    with pytest.raises(StoreError, match=r"also holds notes\.txt"):
        remove_store(store.path)
    (store.path / "notes.txt").unlink()
    shutil.move(store.path / "images", store.path.parent / "images")
    (store.path / "images").symlink_to(store.path.parent / "images")
    with pytest.raises(StoreError, match="also holds images"):
        remove_store(store.path)
    assert open_store(store.path).n_rows("half") == 480
