"""What goes in comes out: rows, coordinates, images, statistics, maps."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from interp.errors import InputError, PointError, StoreError
from interp.store import ActivationStore, open_store, store_info, write_store
from interp.store.statistics import RunningStatistics, Statistics, merge_statistics


@pytest.mark.parametrize("point", ["half", "brain", "single"])
def test_rows_come_back_bit_for_bit_in_their_own_dtype(
    store: ActivationStore, values: dict[str, torch.Tensor], point: str
) -> None:
    rows, coords = store.rows(point), store.coords(point)
    width = values[point].shape[-1]
    flat = values[point].reshape(10, 3, -1, width)
    place = np.maximum(coords["y"], 0) * 4 + np.maximum(coords["x"], 0)
    place = np.maximum(place, coords["token"])
    assert rows.dtype == values[point].dtype
    assert torch.equal(rows, flat[coords["generation"], coords["call"], place])


def test_a_shard_is_a_plain_safetensors_file(store: ActivationStore) -> None:
    file = load_file(store.path / "points/000-half/00001.safetensors")
    assert torch.equal(file["x"], store.rows("half", slice(4 * 48, 8 * 48)))


def test_rows_are_picked_by_ids_masks_and_slices_in_the_order_asked(
    store: ActivationStore,
) -> None:
    whole = store.rows("half")
    ids = np.random.default_rng(0).permutation(len(whole))[:77]
    mask = np.zeros(len(whole), dtype=bool)
    mask[ids] = True
    assert torch.equal(store.rows("half", ids), whole[ids])
    assert torch.equal(store.rows("half", ids.tolist()), whole[ids])
    assert torch.equal(store.rows("half", mask), whole[mask])
    assert torch.equal(store.rows("half", slice(180, 210, 3)), whole[180:210:3])
    assert store.rows("half", []).shape == (0, 8)
    assert store.coords("half", ids, ("call",))["call"].tolist() == [
        store.coords("half")["call"][i] for i in ids
    ]


def test_the_rows_of_a_map_are_consecutive_and_maps_are_assembled(
    store: ActivationStore, values: dict[str, torch.Tensor]
) -> None:
    for generation, call in ((0, 0), (5, 2), (9, 1)):
        ids = store.map_rows("half", generation, call)
        assert (np.diff(ids) == 1).all()
        expected = values["half"][generation, call].float().reshape(4, 4, 8)
        assert torch.equal(store.maps("half", generation, call), expected)
    with pytest.raises(StoreError, match="no map of half for generation 3, call 7"):
        store.maps("half", 3, 7)


def test_chunks_cover_the_rows_in_order_and_hold_whole_maps(store: ActivationStore) -> None:
    parts = list(store.chunks("half", 40))
    assert all(len(ids) % 16 == 0 for ids, _ in parts)
    assert np.array_equal(np.concatenate([ids for ids, _ in parts]), np.arange(480))
    x = torch.cat([x for _, x in parts])
    assert x.dtype == torch.float32
    assert torch.equal(x, store.rows("half").float())
    with pytest.raises(InputError, match="size 0"):
        next(store.chunks("half", 0))


def test_coordinates_say_where_a_row_stands(store: ActivationStore) -> None:
    coords = store.coords("single")
    assert set(coords) == {
        *("generation", "call", "t", "log_snr", "cfg_half"),
        *("y", "x", "frame", "token", "draw"),
    }
    assert coords["token"][:7].tolist() == list(range(7))
    assert (coords["y"] == -1).all()
    assert (coords["cfg_half"] == 1).all()
    assert np.isnan(coords["log_snr"]).all()
    assert set(coords["t"]) == {900.0, 500.0, 100.0}
    with pytest.raises(InputError, match=r"unknown columns \['z'\]"):
        store.coords("half", columns=("z",))


def test_images_lie_beside_the_rows(store: ActivationStore, images: torch.Tensor) -> None:
    assert torch.equal(store.images(), images)
    assert torch.equal(store.images([9, 0, 4, 4]), images[[9, 0, 4, 4]])
    with pytest.raises(InputError, match="generation 11 is not in the store"):
        store.images([11])


def test_statistics_agree_with_float64_whatever_the_mean(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, 9, 6, generator=draw) * 1e-2 + 1e3 * torch.arange(6)
    x[..., 0] = 0.1
    store = write_store(tmp_path, {"x": x}, shard_size=7)
    found = store.statistics("x")
    flat = x.double().reshape(-1, 6)
    assert found.count == 720
    torch.testing.assert_close(found.mean, flat.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.var, flat.var(0, unbiased=False), rtol=1e-7, atol=0)
    assert found.var[0] == 0


def test_statistics_of_nothing_are_not_a_number() -> None:
    empty = RunningStatistics(3).result()
    one = Statistics(2, torch.ones(3).double(), torch.ones(3).double())
    assert torch.isnan(empty.mean).all()
    assert merge_statistics([empty]).count == 0
    assert torch.equal(merge_statistics([empty, one]).mean, one.mean)


def test_the_hash_depends_on_the_recipe_and_not_on_the_place(
    make: Callable[..., ActivationStore],
) -> None:
    first = make("here")
    assert make("there").hash == first.hash
    assert first.path.name == first.hash[:12]
    assert make("here", seed=1).hash != first.hash
    assert make("here", shard_size=5).hash != first.hash
    assert make("here", model={"spec": "other"}).hash != first.hash
    assert make("here", model={"spec": "arrays", "device": "cuda"}).hash == first.hash


def test_points_have_the_grid_that_was_captured(store: ActivationStore) -> None:
    grids = {name: point.grid for name, point in store.points.items()}
    assert grids == {"half": (4, 4), "brain": (), "single": (7,)}


def test_info_counts_rows_and_bytes(store: ActivationStore) -> None:
    info = store_info(store.path)
    assert info["generations"] == 10
    assert (info["shards"], info["shards_expected"]) == (3, 3)
    assert info["points"]["half"]["bytes"] == 480 * 8 * 2
    assert info["bytes"] == 480 * 16 + 30 * 10 + 210 * 16


def test_an_unknown_point_names_the_closest_ones(store: ActivationStore) -> None:
    with pytest.raises(PointError, match=r"no point 'hlaf'; closest: half .*3 in all"):
        store.rows("hlaf")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (np.array([480]), "row ids 480 to 480 of half, which has rows 0 to 479"),
        (np.array([-1]), "row ids -1"),
        (np.zeros(5, dtype=bool), r"a mask of shape \(5,\) for the 480 rows"),
        (np.array([0.5]), "row ids must be integers"),
    ],
)
def test_bad_row_ids_are_refused(store: ActivationStore, index: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        store.rows("half", index)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"x": torch.zeros(4, 2, 3)}, r"values must be \[g, calls, p, d\]"),
        ({"x": torch.zeros(4, 1, 1, 3, dtype=torch.float64)}, r"float64; .*Rows\(dtype"),
        ({"x": torch.zeros(4, 1, 1, 3, dtype=torch.int32)}, "int32; a store holds float16"),
    ],
)
def test_wrong_shapes_and_dtypes_are_refused(
    tmp_path: Path, bad: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_store(tmp_path, bad)


def test_nan_is_refused_with_point_generation_and_count_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    x = torch.zeros(8, 2, 4, 3)
    x[6, 1, 2, :2] = float("nan")
    x[7, 1, 0, 0] = float("inf")
    message = (
        "3 of 24 activations at x, call 1, are NaN or inf: generation 6 and 1 more of 2; finished"
    )
    with pytest.raises(InputError, match=message):
        write_store(tmp_path, {"x": x}, shard_size=2)
    partial = open_store(next(tmp_path.iterdir()), partial=True)
    assert [entry.shard for entry in partial.shards] == [0, 1, 2]
    assert partial.verify() == []


def test_overflow_in_float16_says_what_to_do(tmp_path: Path) -> None:
    x = torch.full((1, 1, 1, 2), 7e4).half()
    with pytest.raises(InputError, match="float16 ends at 65504"):
        write_store(tmp_path, {"x": x})


def test_the_generations_table_needs_known_columns_of_one_length(tmp_path: Path) -> None:
    x = {"x": torch.zeros(2, 1, 1, 3)}
    with pytest.raises(InputError, match="column label has 1 values for 2 generations"):
        write_store(tmp_path, x, generations={"image_id": ["a", "b"], "label": [1]})
    with pytest.raises(InputError, match=re.escape("columns ['colour'] are not among")):
        write_store(tmp_path, x, generations={"image_id": ["a", "b"], "colour": [1, 2]})


def test_captions_with_markup_are_kept_as_they_are(tmp_path: Path) -> None:
    text = "<script>alert('é\n\0')</script>"
    store = write_store(
        tmp_path,
        {"x": torch.zeros(1, 1, 1, 3)},
        generations={"image_id": ["a"], "caption": [text]},
    )
    assert store.generations["caption"].tolist() == [text]
    assert store.generations["cluster"].tolist() == ["a"]
