"""Latents read from stores: pooling, calls, draws, trained images; planted atoms in two spaces."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.alignment.matching import FeatureMatches, match_features, read_latents
from interp.cli.main import main
from interp.errors import InputError, SAEError
from interp.sae import TopK
from interp.sae.split import unit_hash
from interp.store import ActivationStore, write_store

N, SIDE, M, D = 60, 4, 10, 16


def rotation(seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(seed)))[0]


def planted(
    out: Path, seed: int, codes: torch.Tensor, calls: int = 1, **generations
) -> tuple[TopK, ActivationStore]:
    """Activations = codes in atoms of a random rotation, and the SAE that knows the atoms."""
    n, atoms = len(codes), rotation(seed)[:M]
    x = codes @ atoms
    table = {
        "image_id": [f"i{i:03d}" for i in range(n)],
        "cluster": [f"c{i // 2}" for i in range(n)],
        "source": ["ab"[i // 2 % 2] for i in range(n)],
    } | generations
    store = write_store(
        out,
        {"map": x.reshape(n, calls, SIDE * SIDE, D)},
        generations=table,
        images=torch.zeros(n, 8, 8, 3, dtype=torch.uint8),
        t=tuple(float(c) for c in range(calls)),
        log_snr=tuple(float(c) for c in range(calls)),
        model={"spec": f"zoo:model{seed}", "weights_sha256": f"{seed:02d}" * 32},
        shard_size=16,
    )
    sae = TopK(D, M, 3)
    with torch.no_grad():
        sae.W_dec.copy_(atoms)
        sae.W_enc.copy_(atoms)
    sae.provenance = {"point": store.points["map"].as_dict(), "model": store.model}
    return sae, store


def draw_codes(seed: int, calls: int = 1, n: int = N) -> torch.Tensor:
    """Three of ten atoms at each position; each image has favorites."""
    g = torch.Generator().manual_seed(seed)
    taste = torch.rand(n, 1, 1, M, generator=g).square()
    chance = taste * torch.rand(n, calls, SIDE * SIDE, M, generator=g)
    top = chance.topk(3, dim=-1)
    return torch.zeros_like(chance).scatter_(-1, top.indices, 0.5 + top.values)


def test_atoms_seen_through_two_rotations_are_matched_one_to_one(tmp_path: Path) -> None:
    codes = draw_codes(0)
    first, second = (planted(tmp_path / str(seed), seed, codes) for seed in (1, 2))
    found = match_features(first, second, allow_train=True, n_folds=10)
    assert set(found.latent_first) == {*range(M)}
    assert found.latent_first == found.latent_second
    assert found.n_shared == M
    assert min(found.universality) > 0.99
    for pooling in ("max", "positions"):
        other = match_features(
            first, second, pooling=pooling, allow_train=True, n_permutations=0, n_folds=0
        )
        assert other.latent_first == other.latent_second
        assert min(other.r) > 0.99
        assert (other.threshold, other.low) == (None, None)
    assert found.first.name == "model1/map"
    assert found.strata == "within strata, whole clusters"


def test_other_atoms_on_the_same_images_give_nothing_beyond_the_null(tmp_path: Path) -> None:
    first = planted(tmp_path / "1", 1, draw_codes(0))
    second = planted(tmp_path / "2", 2, draw_codes(7))
    found = match_features(first, second, allow_train=True, n_folds=10)
    assert found.n_shared == 0
    assert found.p_mean is not None
    assert found.p_mean > 0.05


def test_pooling_is_the_definition_over_draws_calls_and_positions(tmp_path: Path) -> None:
    codes = draw_codes(3, calls=2, n=8)
    draws = {
        "image_id": [f"i{i // 2}" for i in range(8)],
        "cluster": [""] * 8,
        "source": ["a"] * 8,
        "draw": [i % 2 for i in range(8)],
    }
    sae, store = planted(tmp_path / "s", 1, codes, calls=2, **draws)
    per_image = codes.reshape(4, 2, 2, SIDE * SIDE, M)
    read = {
        pooling: read_latents(sae, store, pooling=pooling, allow_train=True)
        for pooling in ("mean", "max", "positions")
    }
    mean, most, places = (
        torch.from_numpy(read[pooling].x.toarray()) for pooling in ("mean", "max", "positions")
    )
    torch.testing.assert_close(mean, per_image.mean((1, 2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(most, per_image.amax((1, 2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(places, per_image.mean((1, 2)).reshape(-1, M), atol=1e-5, rtol=1e-5)
    assert read["positions"].positions == SIDE * SIDE
    one = read_latents(sae, store, call=1, allow_train=True)
    torch.testing.assert_close(
        torch.from_numpy(one.x.toarray()), per_image[:, :, 1].mean((1, 2)), atol=1e-5, rtol=1e-5
    )
    assert (one.name, read["mean"].name) == ("model1/map@1", "model1/map")
    with pytest.raises(InputError, match=r"has calls \[0, 1\], not 5"):
        read_latents(sae, store, call=5, allow_train=True)


def test_images_that_trained_an_sae_are_left_out_of_both(tmp_path: Path) -> None:
    codes = draw_codes(0)
    sides = [planted(tmp_path / str(seed), seed, codes) for seed in (1, 2)]
    with pytest.raises(InputError, match="no record of its training images"):
        read_latents(*sides[0])
    sides[0][0].trained_units = torch.tensor([unit_hash("cluster", "c3")])
    sides[1][0].trained_units = torch.tensor([unit_hash("image", "i011")])
    first, second = (read_latents(*side) for side in sides)
    assert first.left_out == ("i006", "i007")
    assert second.left_out == ("i011",)
    found = match_features(first, second, n_folds=10)
    assert found.n_found + found.n_scored == N - 3
    sides[0][0].trained_units = torch.tensor([unit_hash("cluster", f"c{i}") for i in range(30)])
    sides[0][0].trained_units = sides[0][0].trained_units.sort().values
    with pytest.raises(InputError, match="trained on all 60 images"):
        read_latents(*sides[0])


def test_examples_show_the_maps_of_both_latents_on_held_out_images(tmp_path: Path) -> None:
    codes = draw_codes(0)
    first, second = (planted(tmp_path / str(seed), seed, codes) for seed in (1, 2))
    found = match_features(first, second, allow_train=True, n_folds=10, shown=(3, 4))
    assert len(found.examples) == 3
    one = found.examples[0]
    assert one.shape_first == one.shape_second == (SIDE, SIDE)
    place, latent = int(one.ids[0][1:]), one.latent_first
    shown = np.array(one.map_first[0])
    truth = codes[place, 0, :, latent].numpy()
    images = [int(name[1:]) for name in one.ids]
    scale = codes[images, 0, :, latent].max()
    np.testing.assert_allclose(shown / 254 * float(scale), truth, atol=0.005)
    assert one.value_first[0] == max(one.value_first[:2])
    assert np.isclose(one.value_first[0], truth.mean(), atol=1e-5)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    codes = draw_codes(0)
    (sae, store), (other, _) = (planted(tmp_path / str(seed), seed, codes) for seed in (1, 2))
    with pytest.raises(SAEError, match="was trained on zoo:model2"):
        read_latents(other, store, allow_train=True)
    with pytest.raises(InputError, match="pooling 'sum' is one of"):
        read_latents(sae, store, pooling="sum")
    with pytest.raises(InputError, match=r"\(sae, store\) or \(sae, store, call\) is needed"):
        match_features(sae, (sae, store))  # pyright: ignore[reportArgumentType]


def test_the_command_writes_a_match_that_loads(tmp_path: Path, capsys) -> None:
    codes = draw_codes(0)
    words = ["sae", "match"]
    for seed in (1, 2):
        sae, store = planted(tmp_path / f"store{seed}", seed, codes)
        words += [str(sae.save(tmp_path / f"sae{seed}")), str(store.path)]
    out = tmp_path / "found.json"
    twins = [words[2], words[3], words[4], words[5]]
    more = [
        "--twins",
        *twins,
        "--second-seeds",
        words[2],
        words[4],
        "--allow-train",
        "--folds",
        "10",
    ]
    assert main([*words, *more, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "10 mutual matches of 10 and 10 features counted: mean r 1.000" in said
    assert "untrained twins: mean r 1.000, difference 0.000" in said
    found = FeatureMatches.load(out)
    assert found.ceiling_second[0] == pytest.approx(1)
    assert json.loads(out.read_text())["format"] == "interp-matches 1"
    assert main([*words, "--method", "mutual"]) == 2
    assert "--allow-train" in capsys.readouterr().err
