"""Stores know how they were made: hashes, ids, and rows that can be rendered again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import InputError, StoreError
from interp.harvest import capture, rerender
from interp.models import Encoding, Generation, Model, Rows
from interp.store import merge_stores
from interp.zoo import Images

BLOCK = "down_blocks.1.resnets.0"
MAKE = Generation(n=5, seed=7, steps=3, guidance=2.0, batch_size=2)
SHIFT = "mid_block.attentions.0"


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("positions", ["all", "mean", 5])
def test_a_stored_row_is_rendered_again_from_its_provenance(
    model: Model, tmp_path: Path, positions: Any, exact: bool
) -> None:
    store = capture(model, [BLOCK], MAKE, out=tmp_path, shard_size=3, rows=Rows(positions))
    ids = np.random.default_rng(0).permutation(store.n_rows(BLOCK))[:9]
    again = rerender(store, BLOCK, ids, model, exact=exact)
    if exact:
        assert torch.equal(again, store.rows(BLOCK, ids))
    else:
        _assert_rounding(again, store.rows(BLOCK, ids))


def test_an_encoded_row_is_rendered_again_from_the_stored_images(
    model: Model, pictures: Images, tmp_path: Path
) -> None:
    recipe = Encoding(log_snr=(0.0,), draws=2, condition="class")
    store = capture(model, [BLOCK], recipe, out=tmp_path, images=pictures)
    again = rerender(store, BLOCK, [3, 170, 60], model)
    _assert_rounding(again, store.rows(BLOCK, [3, 170, 60]))


def _assert_rounding(a: torch.Tensor, b: torch.Tensor) -> None:
    """Other batches sum in another order: what differs is small beside the largest entry."""
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_rendering_again_needs_the_same_weights_and_one_capture(
    model: Model, vae: Model, tmp_path: Path
) -> None:
    store = capture(model, [BLOCK], Generation(n=1, steps=1), out=tmp_path)
    with pytest.raises(InputError, match=r"has weights \w{12}, the store was captured from test:u"):
        rerender(store, BLOCK, [0], vae)
    other = capture(model, [BLOCK], Generation(n=1, steps=1, seed=9), out=tmp_path)
    merged = merge_stores([store.path, other.path], tmp_path)
    with pytest.raises(StoreError, match="was not written by one capture"):
        rerender(merged, BLOCK, [0], model)


def test_the_images_of_a_store_keep_their_ids_and_clusters(model: Model, tmp_path: Path) -> None:
    made = capture(model, [BLOCK], MAKE, out=tmp_path)
    recipe = Encoding(images=str(made.path), limit=4, draws=2, log_snr=(0.0,))
    read = capture(model, [BLOCK], recipe, out=tmp_path, rows=Rows("mean"))
    expected = made.generations["image_id"][:4].tolist()
    weights = model.identity()["weights_sha256"][:12]
    assert read.generations["image_id"].tolist()[::2] == expected
    assert read.generations["cluster"].tolist()[::2] == [f"{weights}@seed{s}" for s in range(7, 11)]
    assert (
        read.generations["image_hash"].tolist()[::2] == made.generations["image_hash"][:4].tolist()
    )
    assert torch.equal(read.images([0, 6]), made.images([0, 3]))
    assert str(tmp_path) not in (read.path / "manifest.json").read_text()
    again = capture(model, [BLOCK], Encoding(images=str(read.path), log_snr=(0.0,)), out=tmp_path)
    assert again.generations["image_id"].tolist() == expected


def test_the_hash_says_what_was_asked_and_not_where(
    model: Model, pictures: Images, tmp_path: Path
) -> None:
    def run(folder: str, points: Any = BLOCK, recipe: Any = None, **more: Any) -> str:
        recipe = recipe or Generation(n=2, steps=1)
        return capture(model, points, recipe, out=tmp_path / folder, **more).hash

    first = run("a")
    assert run("b") == first
    assert run("a", points=[BLOCK, BLOCK]) == first
    others = [
        run("a", points=[BLOCK, SHIFT]),
        run("a", recipe=Generation(n=2, steps=1, seed=1)),
        run("a", rows=Rows("mean")),
        run("a", shard_size=1),
        run("a", recipe=Encoding(), images=pictures),
        run("a", recipe=Encoding(), images=pictures.select([1, 0, 2, 3, 4, 5])),
    ]
    assert len({first, *others}) == 7


def test_the_store_says_how_it_was_made(model: Model, tmp_path: Path) -> None:
    store = capture(model, [BLOCK], MAKE, out=tmp_path)
    assert store.model["weights_sha256"] == model.identity()["weights_sha256"]
    assert store.recipe["kind"] == "generation"
    assert (store.recipe["steps"], store.recipe["seed"]) == (3, 7)
    environment = json.loads((store.path / "shards/00000.json").read_text())["environment"]
    assert environment["device"] == "cpu"
    assert environment["threads"] == torch.get_num_threads()
    assert environment["versions"]["torch"] == torch.__version__
    table = store.generations
    assert table["seed"].tolist() == [7, 8, 9, 10, 11]
    # Three classes, taken in turn by seed.
    assert table["label"].tolist() == [1, 2, 0, 1, 2]
    assert table["category"][1] == "class 2"
