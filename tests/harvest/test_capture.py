"""What a capture reads is what manual hooks see, split into rows and keyed by coordinates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp.errors import InputError
from interp.harvest import capture, rerender, stream
from interp.loading import load
from interp.models import Encoding, Generation, Model, Rows, noise_seed
from interp.store import ActivationStore
from interp.zoo import Images

BLOCK = "down_blocks.1.resnets.0"
MAKE = Generation(n=5, seed=7, steps=3, guidance=2.0, batch_size=2)
SHIFT = "mid_block.attentions.0"


class Manual:
    """Forward hooks written by hand, independent of the library: module -> outputs."""

    def __init__(self, root: nn.Module, paths: tuple[str, ...]) -> None:
        self.seen: dict[str, list[Tensor]] = {path: [] for path in paths}
        self.times: list[float] = []
        self._handles = [
            root.get_submodule(path).register_forward_hook(self._keep(path)) for path in paths
        ]
        self._handles.append(root.register_forward_pre_hook(self._note, with_kwargs=True))

    def _keep(self, path: str) -> Callable:
        return lambda module, args, output: self.seen[path].append(output.detach().clone())

    def _note(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.times.append(float((*args, *kwargs.values())[1].reshape(-1)[0]))

    def __enter__(self) -> "Manual":
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()


def _manual_rows(manual: Manual, point: str, batches: list[int], calls: int) -> Tensor:
    """Order the outputs of manual hooks as a store does: batch, call, half, generation, y, x."""
    assert len(manual.seen[point]) == len(batches) * calls
    return torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in manual.seen[point]])


def test_capture_equals_manual_hooks_bit_for_bit(model: Model, tmp_path: Path) -> None:
    store = capture(model, [BLOCK, SHIFT], MAKE, out=tmp_path, shard_size=4)
    batches = [2, 2, 1]
    with Manual(model.root, (BLOCK, SHIFT)) as manual:
        made = [
            model.generate(MAKE.batch(start, start + size, n_classes=3))
            for start, size in zip((0, 2, 4), batches, strict=True)
        ]
    assert torch.equal(store.images(), torch.cat(made))
    for point in (BLOCK, SHIFT):
        assert torch.equal(store.rows(point), _manual_rows(manual, point, batches, 3))
    coords = store.coords(BLOCK)
    assert (
        coords["t"].reshape(-1, 16)[:, 0].tolist()
        == np.repeat(manual.times, np.repeat([4, 4, 2], 3)).tolist()
    )
    # One batch: call, half, generation, position.
    first = {name: values[: 2 * 16 * 2 * 3] for name, values in coords.items()}
    assert np.array_equal(first["call"], np.repeat([0, 1, 2], 64))
    assert np.array_equal(first["cfg_half"], np.tile(np.repeat([0, 1], 32), 3))
    assert np.array_equal(first["generation"], np.tile(np.repeat([0, 1], 16), 6))
    assert np.array_equal(first["y"] * 4 + first["x"], np.tile(np.arange(16), 12))
    assert store.verify() == []


def test_every_point_that_fires_can_be_captured(model: Model, tmp_path: Path) -> None:
    points = model.points_in("generate")
    store = capture(model, points, Generation(n=2, steps=2, batch_size=2), out=tmp_path)
    assert tuple(store.points) == points
    calls = {name: len(set(store.coords(name)["call"])) for name in points}
    assert calls.pop("x_T") == 1
    assert set(calls.values()) == {2}


@pytest.mark.parametrize("name", ["gan", "vae"])
def test_zoo_models_are_captured_and_rendered_again(name: str, tmp_path: Path) -> None:
    zoo = load(f"zoo:{name}", untrained=True)
    store = capture(zoo, "all", Generation(n=3, batch_size=2), out=tmp_path, rows=Rows(positions=3))
    assert store.verify() == []
    for point in list(store.points)[:: max(1, len(store.points) // 4)]:
        again = rerender(store, point, None, zoo)
        torch.testing.assert_close(again, store.rows(point), rtol=1e-5, atol=1e-6)


def test_an_encoder_is_captured_on_glyphs(tmp_path: Path) -> None:
    vit = load("zoo:vit", untrained=True)
    recipe = Encoding(images="glyphs/heldout", limit=3)
    store = capture(vit, "blocks.*", recipe, out=tmp_path, rows=Rows("mean"))
    assert store.recipe["images"] == "glyphs/heldout"
    assert set(store.generations["split"]) == {"heldout"}
    assert all(store.generations["category"])
    assert store.n_rows(next(iter(store.points))) == 3
    assert store.images().shape == (3, 32, 32, 3)


def test_noise_levels_are_calls_and_draws_are_generations(
    model: Model, pictures: Images, tmp_path: Path
) -> None:
    recipe = Encoding(log_snr=(1.0, -1.0), draws=2, seed=5, condition="class", batch_size=4)
    store = capture(model, [BLOCK], recipe, out=tmp_path, images=pictures, rows=Rows("mean"))
    table, coords = store.generations, store.coords(BLOCK)
    assert table["image_id"].tolist() == [f"im{i}" for i in range(6) for _ in range(2)]
    assert table["draw"].tolist() == [0, 1] * 6
    own = model.identity()["weights_sha256"]
    seeds = [noise_seed(5, f"im{i}", j, own) for i in range(6) for j in (0, 1)]
    assert table["seed"].tolist() == seeds
    assert table["cluster"].tolist() == [f"c{i // 4}" for i in range(12)]
    assert table["category"][4] == "<b>cow</b>"
    assert table["caption"][4] == "<script>"
    assert torch.equal(store.images([0, 1, 11]), pictures.pixels[[0, 0, 5]])
    assert set(coords["call"]) == {0, 1}
    assert set(coords["cfg_half"]) == {1}
    high, low = (coords["log_snr"][coords["call"] == call] for call in (0, 1))
    np.testing.assert_allclose(high, 1.0, atol=0.1)
    np.testing.assert_allclose(low, -1.0, atol=0.1)
    assert np.array_equal(coords["draw"], table["draw"][coords["generation"]])
    rows = store.rows(BLOCK, coords["call"] == 0)
    assert not torch.equal(rows[0], rows[1])


def _place(store: ActivationStore, point: str) -> dict[str, set]:
    coords, table = store.coords(point), store.generations
    places: dict[str, set] = {}
    for generation, y, x in zip(coords["generation"], coords["y"], coords["x"], strict=True):
        places.setdefault(table["image_id"][generation], set()).add((int(y), int(x)))
    return places


def test_random_positions_depend_on_the_seed_and_the_image_alone(
    model: Model, tmp_path: Path
) -> None:
    def run(rows: Rows, **changes: Any) -> ActivationStore:
        recipe = Generation(**{"n": 4, "steps": 2, "batch_size": 3} | changes)
        return capture(model, [BLOCK, "mid_block.resnets.0"], recipe, out=tmp_path, rows=rows)

    first = run(Rows(positions=3, seed=1))
    places = _place(first, BLOCK)
    assert {len(found) for found in places.values()} == {3}
    assert len({frozenset(found) for found in places.values()}) > 1
    assert _place(first, "mid_block.resnets.0") == places
    assert first.entries(BLOCK)[0].rate == 3 / 16
    # Sample seed+1 is the same image in another place of another batch.
    shifted = _place(run(Rows(positions=3, seed=1), seed=1, batch_size=1), BLOCK)
    assert {k: v for k, v in shifted.items() if k in places} == {
        k: v for k, v in places.items() if k in shifted
    }
    assert _place(run(Rows(positions=3, seed=2)), BLOCK) != places


def test_kept_positions_and_means_are_those_of_the_whole_map(model: Model, tmp_path: Path) -> None:
    whole = capture(model, [BLOCK], MAKE, out=tmp_path)
    some = capture(model, [BLOCK], MAKE, out=tmp_path, rows=Rows(positions=3))
    mean = capture(model, [BLOCK], MAKE, out=tmp_path, rows=Rows("mean"))
    key = ("generation", "call", "cfg_half", "y", "x")
    row = {k: i for i, k in enumerate(zip(*whole.coords(BLOCK, None, key).values(), strict=True))}
    ids = [row[k] for k in zip(*some.coords(BLOCK, None, key).values(), strict=True)]
    assert torch.equal(some.rows(BLOCK), whole.rows(BLOCK, ids))
    maps = whole.rows(BLOCK).reshape(-1, 16, 16)
    torch.testing.assert_close(mean.rows(BLOCK), maps.mean(1))
    assert (mean.coords(BLOCK)["y"] == -1).all()
    assert torch.isnan(some.maps(BLOCK, 2, 1)).any(-1).sum() == 13


def test_guidance_halves_are_told_apart_and_chosen(model: Model, tmp_path: Path) -> None:
    both = capture(model, [BLOCK], MAKE, out=tmp_path)
    half = both.coords(BLOCK)["cfg_half"]
    for name, number in (("uncond", 0), ("cond", 1)):
        one = capture(model, [BLOCK], MAKE, out=tmp_path, rows=Rows(cfg=name))
        assert set(one.coords(BLOCK)["cfg_half"]) == {number}
        assert torch.equal(one.rows(BLOCK), both.rows(BLOCK, half == number))
    alone = Generation(n=2, steps=2)
    plain = capture(model, [BLOCK], alone, out=tmp_path)
    assert set(plain.coords(BLOCK)["cfg_half"]) == {1}
    with pytest.raises(InputError, match="without guidance: there is one half"):
        capture(model, [BLOCK], alone, out=tmp_path, rows=Rows(cfg="uncond"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_are_stored_in_the_dtype_asked(model: Model, tmp_path: Path, dtype: str) -> None:
    native = capture(model, [BLOCK], MAKE, out=tmp_path).rows(BLOCK)
    store = capture(model, [BLOCK], MAKE, out=tmp_path, rows=Rows(dtype=dtype))
    assert store.dtype(BLOCK) == getattr(torch, dtype)
    assert torch.equal(store.rows(BLOCK), native.to(getattr(torch, dtype)))


def test_a_stream_yields_what_a_capture_stores(
    model: Model, tmp_path: Path, pictures: Images
) -> None:
    cases: list[tuple[Any, Any]] = [(MAKE, None), (Encoding(batch_size=4), pictures)]
    for recipe, images in cases:
        store = capture(model, [BLOCK, "conv_in"], recipe, out=tmp_path, images=images)
        seen = list(stream(model, [BLOCK, "conv_in"], recipe, images=images))
        assert torch.equal(torch.cat([b["rows"][BLOCK] for b in seen]), store.rows(BLOCK))
        for name, values in store.coords(BLOCK).items():
            if name != "draw":
                found = np.concatenate([b["coords"][BLOCK][name] for b in seen])
                np.testing.assert_array_equal(found, values)
        ids = [i for b in seen for i in b["generations"]["image_id"]]
        assert ids == store.generations["image_id"].tolist()
        assert torch.equal(torch.cat([b["images"] for b in seen]), store.images())
