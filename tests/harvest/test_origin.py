"""An image id stands for one image: the weights and all that they were given, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import StoreError
from interp.harvest import capture, rerender
from interp.loading import load
from interp.models import Encoding, Generation, Model, Rows, UNet, find_origin
from interp.sae.split import seen_generations, units_of
from interp.store import open_store
from interp.zoo import load_images

BLOCK = "down_blocks.1.resnets.0"


def _ids(model: Model, **recipe: Any) -> list[str]:
    made = Generation(**{"n": 3, "seed": 5, "steps": 2} | recipe)
    batch = made.batch(0, made.n, n_classes=model.n_classes)
    return find_origin(made, model, model.identity()).image_ids(batch)


def test_an_id_is_readable(model: Model) -> None:
    weights = model.identity()["weights_sha256"][:12]
    start = f"{weights}@seed5,class=2,steps=2,sampler=DDIM-"
    assert _ids(model)[0].startswith(start)
    assert _ids(model, guidance=2.5)[0].endswith(",guidance=2.5")


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 3},
        {"scheduler": "ddpm"},
        {"guidance": 2.0},
        {"classes": (3,)},
        {"height": 16, "width": 16},
        {"seed": 9},
        {"prompts": ("a", "b")},
    ],
)
def test_what_changes_an_image_changes_its_id(model: Model, change: dict) -> None:
    assert not set(_ids(model)) & set(_ids(model, **change))


@pytest.mark.parametrize("change", [{"batch_size": 1}, {"truncation": 0.5}, {"height": 8}])
def test_what_changes_no_image_changes_no_id(model: Model, change: dict) -> None:
    assert _ids(model) == _ids(model, **change)


def test_truncation_changes_a_gans_images_and_steps_do_not() -> None:
    gan = load("zoo:gan")
    assert _ids(gan) == _ids(gan, steps=9, guidance=3.0)
    assert not set(_ids(gan)) & set(_ids(gan, truncation=0.2))
    # The name is not the model.
    assert _ids(gan) == _ids(load("zoo:gan/0"))
    twin = _ids(load("zoo:gan", untrained=True))
    assert not set(_ids(gan)) & set(twin)
    assert [one.partition("@")[2] for one in twin] == ["seed5", "seed6", "seed7"]


def test_a_sample_is_a_function_of_its_seed_not_of_its_place(model: Model, tmp_path: Path) -> None:
    first = capture(model, [BLOCK], Generation(n=9, seed=0, steps=2), out=tmp_path)
    later = capture(model, [BLOCK], Generation(n=2, seed=7, steps=2), out=tmp_path)
    assert first.generations["image_id"][7:].tolist() == later.generations["image_id"].tolist()
    assert first.generations["label"][7:].tolist() == later.generations["label"].tolist() == [1, 2]
    assert torch.equal(first.images([7, 8]), later.images())


def test_prompts_are_taken_in_turn_by_seed() -> None:
    recipe = Generation(n=3, seed=4, prompts=("a", "b", "c"))
    assert recipe.batch(0, 3).prompts == ("b", "c", "a")


def test_samples_of_trained_seeds_are_seen_under_any_name_and_option(
    fresh_unet: Callable[[str], UNet], tmp_path: Path
) -> None:
    model, alias = fresh_unet("test:unet"), fresh_unet("test:alias")
    store = capture(model, [BLOCK], Generation(n=4, steps=1), out=tmp_path)
    units = units_of(store.generations, np.ones(4, dtype=bool))
    for recipe in (Generation(n=6, steps=1), Generation(n=6, steps=2, guidance=2.0)):
        again = capture(alias, [BLOCK], recipe, out=tmp_path)
        seen = seen_generations(again.generations, units)
        assert seen.tolist() == [True] * 4 + [False] * 2


def test_a_sample_of_format_1_is_not_rendered_again(model: Model, tmp_path: Path) -> None:
    import dataclasses

    store = capture(model, [BLOCK], Generation(n=2, steps=1), out=tmp_path)
    old = dataclasses.replace(store.manifest, version=(1, 0))
    (store.path / "manifest.json").write_bytes(old.encode())
    with pytest.raises(StoreError, match=r"has format 1, .* capture again to re-render"):
        rerender(open_store(store.path), BLOCK, [0], model)


def _folder(path: Path, clusters: list[str], seed: int) -> Path:
    from PIL import Image

    path.mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (len(clusters), 8, 8, 3), dtype=np.uint8)
    lines = ["file,id,cluster"]
    for i, (image, cluster) in enumerate(zip(pixels, clusters, strict=True)):
        Image.fromarray(image).save(path / f"{i}.png")
        lines.append(f"{i}.png,{path.name}-{i},{cluster}")
    (path / "images.csv").write_text("\n".join(lines) + "\n")
    return path


def test_near_duplicates_in_another_folder_are_seen_and_other_clusters_are_not(
    model: Model, tmp_path: Path
) -> None:
    a = _folder(tmp_path / "a", [f"template-{i}" for i in range(6)], seed=0)
    other = [f"template-{i}" for i in (6, 7, 8, 0, 1, 2)]
    b = _folder(tmp_path / "b", other, seed=1)
    # An exact copy under another id and cluster.
    (b / "2.png").write_bytes((a / "5.png").read_bytes())
    stores = [
        capture(
            model, [BLOCK], Encoding(images=str(f), log_snr=(0.0,)), out=tmp_path, rows=Rows("mean")
        )
        for f in (a, b)
    ]
    assert stores[1].generations["cluster"].tolist() == other
    units = units_of(stores[0].generations, np.ones(6, dtype=bool))
    seen = seen_generations(stores[1].generations, units)
    assert seen.tolist() == [False, False, True, True, True, True]
    glyphs = load_images("glyphs", split="heldout", limit=2)
    assert all(cluster.startswith("glyphs/") for cluster in glyphs.clusters)


def test_a_file_in_place_of_the_folder_is_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        capture(model, [BLOCK], Generation(n=1, steps=1), out=tmp_path / "out")
