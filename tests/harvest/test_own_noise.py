"""Whose noise a network is shown: its own, one that all share, or that of another image."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from interp.alignment import compare_layers, load_representations
from interp.errors import InputError, StoreError
from interp.harvest import capture, rerender
from interp.models import Encoding, Model, Rows, UNet, noise_seed
from interp.store import ActivationStore, open_store
from interp.zoo import Images

BLOCK = "down_blocks.1.resnets.0"
MIXED = {"pixels": False, "measures": ("cka",), "n_permutations": 0, "n_folds": 3}


@pytest.fixture
def other(fresh_unet) -> UNet:
    """The same architecture with other weights."""
    model = fresh_unet("test:other")
    with torch.no_grad():
        for parameter in model.root.parameters():
            parameter.mul_(0.9)
    return model


def encode(model: Model, images: Images, out: Path, **recipe) -> ActivationStore:
    made = Encoding(**{"log_snr": (0.0,), "draws": 2, **recipe})
    return capture(model, [BLOCK], made, out=out, images=images, rows=Rows("mean"))


def seeds(store: ActivationStore) -> list[int]:
    return store.generations["seed"].tolist()


def test_two_networks_have_no_noise_in_common_unless_asked(
    model: Model, other: UNet, pictures: Images, tmp_path: Path
) -> None:
    own = [set(seeds(encode(one, pictures, tmp_path))) for one in (model, other)]
    assert len(own[0]) == len(own[1]) == 12
    assert not own[0] & own[1]
    shared = [seeds(encode(one, pictures, tmp_path, noise="shared")) for one in (model, other)]
    assert shared[0] == shared[1]
    assert shared[0][:2] == [noise_seed(0, "im0", 0), noise_seed(0, "im0", 1)]


def test_a_copy_of_a_network_under_another_name_has_its_noise(
    model: Model, fresh_unet, pictures: Images, tmp_path: Path
) -> None:
    copy = fresh_unet("test:copy")
    assert seeds(encode(model, pictures, tmp_path)) == seeds(encode(copy, pictures, tmp_path))


def test_permuted_noise_is_the_shared_one_with_other_images(
    model: Model, other: UNet, pictures: Images, tmp_path: Path
) -> None:
    shared = seeds(encode(model, pictures, tmp_path, noise="shared"))
    found = [seeds(encode(one, pictures, tmp_path, noise="permuted")) for one in (model, other)]
    for one in found:
        assert sorted(one) == sorted(shared)
        assert one != shared
        # The draws of an image stay together.
        pairs = {tuple(shared[i : i + 2]) for i in range(0, 12, 2)}
        assert {tuple(one[i : i + 2]) for i in range(0, 12, 2)} == pairs
    assert found[0] != found[1]


def test_a_capture_with_noise_of_its_own_is_rendered_again(
    model: Model, pictures: Images, tmp_path: Path
) -> None:
    for noise in ("own", "permuted"):
        store = encode(model, pictures, tmp_path, noise=noise)
        again = rerender(store, BLOCK, [0, 3, 11], model)
        torch.testing.assert_close(again, store.rows(BLOCK, [0, 3, 11]), rtol=1e-4, atol=1e-5)


def test_a_store_from_before_the_choice_had_shared_noise(
    model: Model, pictures: Images, tmp_path: Path
) -> None:
    store = encode(model, pictures, tmp_path, noise="shared")
    recipe = {k: v for k, v in store.recipe.items() if k != "noise"}
    old = dataclasses.replace(store.manifest, recipe=recipe)
    (store.path / "manifest.json").write_bytes(old.encode())
    again = rerender(open_store(store.path), BLOCK, [5], model)
    torch.testing.assert_close(again, store.rows(BLOCK, [5]), rtol=1e-4, atol=1e-5)


def test_shared_noise_is_a_leak_and_permuted_noise_a_level(
    model: Model, other: UNet, pictures: Images, tmp_path: Path
) -> None:
    models, permuted, shared = (
        {
            name: encode(one, pictures, tmp_path, noise=noise)
            for name, one in (("a", model), ("b", other))
        }
        for noise in ("own", "permuted", "shared")
    )
    result = compare_layers(models, shared_noise=permuted, **MIXED)
    level = result.cell(0, 1).level("shared noise")
    assert level is not None
    assert level.stands_for == "both"
    assert result.shared_leaks == ()
    # By hand: rows of b that were shown the noise of a's rows.
    a, b = (load_representations(store, model=m)[0] for m, store in permuted.items())
    rows = [b.noise.index(noise) for noise in a.noise]
    by_hand = compare_layers(
        {"a": [a], "b": [dataclasses.replace(b, x=b.x[rows], images=())]}, **MIXED
    )
    assert level.value == pytest.approx(by_hand.cell(0, 1).comparison.value, abs=1e-6)
    assert compare_layers(shared, **MIXED).shared_leaks == (("noise: the same draws", ("a", "b")),)
    with pytest.raises(InputError, match=r"6 noise draws of b/.* are not among those of a/"):
        compare_layers(models, shared_noise=models, **MIXED)


def test_noise_is_refused_where_there_is_none(vae: Model, pictures: Images, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"takes no noise: .* noise 'shared' have no effect"):
        capture(vae, "all", Encoding(noise="shared"), out=tmp_path, images=pictures)
    with pytest.raises(InputError, match="noise = 'none' is not one of own, shared, permuted"):
        Encoding(noise="none")


def test_levels_of_noise_are_matched_by_log_snr_under_the_null_condition(
    model: Model, pictures: Images, tmp_path: Path
) -> None:
    store = encode(model, pictures, tmp_path, log_snr=(1.0, -1.0))
    assert store.recipe["condition"] == "null"
    found = load_representations(store, model="unet")
    assert [one.log_snr for one in found] == pytest.approx([1.0, -1.0], abs=0.1)
    assert all("mean over 2 noise draws" in one.preprocessing for one in found)


def test_leaks_are_no_part_of_what_a_store_is(
    model: Model, pictures: Images, tmp_path: Path
) -> None:
    store = encode(model, pictures, tmp_path)
    told = dict(store.manifest.model, leaks=["labels: cats"])
    other = dataclasses.replace(store.manifest, model=told)
    assert other.hash == store.hash
    (store.path / "manifest.json").write_bytes(other.encode())
    assert load_representations(open_store(store.path), model="m")[0].leaks == (
        "labels: cats",
        "network: test:unet",
    )
    broken = json.loads(other.encode())
    broken["model"]["weights_sha256"] = "0" * 64
    (store.path / "manifest.json").write_text(json.dumps(broken))
    with pytest.raises(StoreError, match="was altered"):
        open_store(store.path)
