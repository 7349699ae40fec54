"""Every kind of damage is an error with a name; nothing outside the folder can be reached."""

import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from interp.errors import InterpError, StoreError
from interp.store import ActivationStore, open_store, remove_store
from interp.store.coords import COORDS, encode_table
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
        (lambda m: m.update(version=[3, 0]), r"format 3.0, this library reads up to 2.x: upgrade"),
        (lambda m: m.update(version=[-1, 0]), r"version \[-1, 0\]"),
        (lambda m: m.update(version=[True, 0]), "version"),
        (lambda m: m.update(version=[2, 0.5]), "version"),
        (lambda m: m.update(n_generations=4), "was altered"),
        (lambda m: m.update(starts=[0, 4, 9]), "was altered"),
        (lambda m: m["points"][0].update(depth=0.5), "was altered"),
        (lambda m: m["points"][0].update(layout=5), "layout 5 must be text"),
        (lambda m: m["points"][0].update(layout="bq"), "of the letters"),
        (lambda m: m["points"][0].update(grid=[-1, "a"]), "must be whole numbers"),
        (lambda m: m["points"][0].update(grid=[1, 1, 1, 1]), "at most three"),
        (lambda m: m["points"][0].update(depth="deep"), "depth 'deep' is not a number"),
        (lambda m: m["recipe"].update(t=math.inf), "Infinity is not a JSON number"),
        (lambda m: m["recipe"].update(t="\ud800"), "is damaged: UnicodeEncodeError"),
        (lambda m: m.update(images=7), "is not a sha256"),
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
        (lambda e: e["images"].update(shape=[5, 4, 6, 3]), "for generations 4 to 7"),
        (lambda e: e["points"]["half"].update(positions=0), "192 rows in maps of 0"),
        (lambda e: e["points"]["half"].update(positions=5), "192 rows in maps of 5"),
        (lambda e: e["points"]["half"].update(grid=[1, 4, 4, 1]), "of grid"),
        (lambda e: e["points"]["half"].update(rate=math.nan), "NaN is not a JSON number"),
        (lambda e: e["points"]["half"].update(rate=0), "rate 0"),
        (lambda e: e["points"]["half"].update(dtype="U8"), "dtype U8"),
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
        value["version"] = [2, 9]
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


def test_more_rows_than_the_file_holds_are_refused_before_memory_is_taken(
    store: ActivationStore,
) -> None:
    def grow(entry: dict) -> None:
        item = entry["points"]["half"]
        item["rows"] = entry["coords"][item["coords"]]["rows"] = 1 << 40

    _edit(store.path / "shards/00001.json", grow)
    for read in (ActivationStore.rows, ActivationStore.coords, ActivationStore.n_rows):
        with pytest.raises(StoreError, match="bytes where the manifest says"):
            read(open_store(store.path), "half")
    assert len(open_store(store.path).verify()) == 2


def test_entries_beyond_the_last_shard_are_refused(store: ActivationStore) -> None:
    shutil.copy(store.path / "shards/00001.json", store.path / "shards/00007.json")
    with pytest.raises(StoreError, match=r"00007.json, but the manifest names 3 shards"):
        open_store(store.path)


@pytest.mark.parametrize("name", ["manifest.json", "shards/00000.json", *FILES])
@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_plain_file_is_named_and_hides_nothing_else(
    store: ActivationStore, name: str, kind: str
) -> None:
    file = store.path / name
    file.unlink()
    if kind == "link":
        file.symlink_to("/dev/zero")
    else:
        file.mkdir() if kind == "folder" else os.mkfifo(file)
    (store.path / "points/001-brain/00000.safetensors").unlink()
    message = "is a symbolic link" if kind == "link" else "not a plain file|cannot be read"
    if name.endswith(".json"):
        with pytest.raises(StoreError, match=message):
            open_store(store.path)
        return
    problems = open_store(store.path).verify()
    assert {Path(problem.path).name for problem in problems} == {file.name, "00000.safetensors"}
    assert any(re.search(message, str(problem)) for problem in problems)


def _forge(store: ActivationStore, name: str, data: bytes, place: Callable[[dict], dict]) -> None:
    """Replace a file, and what its shard's entry says of it."""
    (store.path / name).write_bytes(data)
    file = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    shard = Path(name).stem[:5]
    _edit(store.path / f"shards/{shard}.json", lambda entry: place(entry).update(file))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *[("generation", n) for n in (3, 8)],
        *[("call", n) for n in (-5, 2**31 - 1)],
        *[("cfg_half", n) for n in (-1, 2)],
        *[("y", n) for n in (-2, 4)],
        *[("token", 0), ("frame", 0)],
    ],
)
def test_coordinates_that_no_row_can_have_are_refused(
    store: ActivationStore, column: str, value: int
) -> None:
    group = store.shards[1].points["half"].coords
    columns = {k: v for k, v in store.coords("half", slice(192, 384)).items() if k in COORDS}
    columns[column][7] = value
    name = f"coords/00001-{group:03d}.parquet"
    _forge(store, name, encode_table(columns, COORDS), lambda e: e["coords"][group])
    forged = open_store(store.path)
    with pytest.raises(StoreError, match=f"is damaged: {column} runs from"):
        forged.coords("half")
    assert [problem.path for problem in forged.verify()] == [name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generation": [4, 5, 6, 8]}, "does not list generations 4 to 7"),
        ({"draw": [0, -1, 0, 0]}, "draw runs from -1"),
        ({"cluster": None}, "holds 4 nulls"),
        ({"cluster": [1, 2, 3, 4]}, "holds int64, not text"),
    ],
)
def test_a_forged_generations_table_is_refused(
    store: ActivationStore, change: dict, message: str
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = "generations/00001.parquet"
    table = pq.read_table(store.path / name)
    for column, values in change.items():
        new = pa.nulls(4, pa.string()) if values is None else pa.array(values)
        table = table.set_column(table.column_names.index(column), column, new)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    _forge(store, name, sink.getvalue().to_pybytes(), lambda e: e["table"])
    with pytest.raises(StoreError, match=message):
        _ = open_store(store.path).generations
    assert [problem.path for problem in open_store(store.path).verify()] == [name]


@pytest.mark.parametrize(
    "data", [b"\0" * 8, save({"0.mean": torch.ones(8)}), save({"0.mean": torch.ones(2).double()})]
)
def test_forged_statistics_are_refused(store: ActivationStore, data: bytes) -> None:
    name = "statistics/00001.safetensors"
    _forge(store, name, data, lambda e: e["statistics"])
    with pytest.raises(StoreError, match="is damaged"):
        open_store(store.path).statistics("half")
    assert [problem.path for problem in open_store(store.path).verify()] == [name]


def test_a_store_of_format_1_is_read_by_its_own_hash(
    store: ActivationStore, images: torch.Tensor
) -> None:
    old = dataclasses.replace(store.manifest, version=(1, 0))
    assert old.hash != store.hash
    assert dataclasses.replace(old, n_generations=11, shard_size=4).hash == old.hash
    (store.path / "manifest.json").write_bytes(old.encode())
    found = open_store(store.path)
    assert found.hash == old.hash
    assert torch.equal(found.rows("half"), store.rows("half"))
    assert found.generations["image_hash"].tolist() == [""] * 10
    assert found.verify() == []
