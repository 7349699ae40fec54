"""Stores into an Alignment: pooling, draws, tokens, pixels, what a store lacks."""

from pathlib import Path

import pytest
import torch

from interp.alignment import (
    compare,
    compare_layers,
    load_representations,
    pixel_representation,
)
from interp.errors import InputError
from interp.store import ActivationStore, write_store


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_store(
    path: Path, seed: int = 0, draws: int = 1, calls: int = 2, **more
) -> ActivationStore:
    n = 24
    data = draw(n * draws, calls, 16, 6, seed=seed) + draw(n, 1, 16, 6).repeat_interleave(draws, 0)
    table = {
        "image_id": [f"glyph{i:03d}" for i in range(n) for _ in range(draws)],
        "cluster": [f"c{i // 2}" for i in range(n) for _ in range(draws)],
        "source": ["ab"[i % 4 // 2] for i in range(n) for _ in range(draws)],
        "draw": [j for _ in range(n) for j in range(draws)],
    } | more.pop("generations", {})
    images = (draw(n, 32, 32, 3, seed=3) * 40 + 128).clamp(0, 255).byte()
    return write_store(
        path,
        {"block": data},
        generations=table,
        images=images.repeat_interleave(draws, 0),
        t=tuple(range(900, 900 - 100 * calls, -100)),
        log_snr=tuple(float(-2 + 2 * c) for c in range(calls)),
        model={"spec": "zoo:test"},
        shard_size=10,
        **more,
    )


def test_a_store_is_pooled_over_positions_and_draws(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", draws=2)
    found = load_representations(store, model="unet")
    assert [(one.call, one.log_snr) for one in found] == [(0, -2.0), (1, 0.0)]
    rows = store.rows("block").double()
    coords = store.coords("block")
    ids = store.generations["image_id"][coords["generation"]]
    mask = torch.as_tensor((ids == "glyph007") & (coords["call"] == 1))
    place = found[1].ids.index("glyph007")
    assert torch.allclose(found[1].x[place], rows[mask].mean(0).float(), atol=1e-6)
    assert found[0].clusters[place] == "c3"
    assert found[0].strata[place] == "b"
    assert found[0].preprocessing == "mean over positions, mean over 2 noise draws"
    assert load_representations(store, model="unet", calls=[1])[0].call == 1


def test_token_features_lose_the_mean_of_their_position(tmp_path: Path) -> None:
    (one,) = load_representations(
        make_store(tmp_path / "s", calls=1), model="unet", pooling="tokens"
    )
    assert one.x.shape == (24, 16, 6)
    assert torch.allclose(one.x.mean(0), torch.zeros(16, 6), atol=1e-6)
    assert one.call is None


def test_a_pure_position_code_has_no_geometry(tmp_path: Path) -> None:
    code = draw(1, 1, 16, 6).expand(24, 1, 16, 6)
    table = {"image_id": [f"i{i}" for i in range(24)]}
    store = write_store(tmp_path / "s", {"p": code}, generations=table, t=(0,), log_snr=(0.0,))
    (one,) = load_representations(store, model="m", pooling="tokens")
    with pytest.raises(InputError, match="constant"):
        compare(one.x, one.x)


def test_stores_of_two_models_and_their_twins_in_one_call(tmp_path: Path) -> None:
    a, b, c = (make_store(tmp_path / str(s), seed=s, draws=2) for s in (1, 2, 3))
    one = make_store(tmp_path / "vae", seed=4, calls=1)
    lines: list[str] = []
    result = compare_layers(
        {"unet": (a, "block", [0]), "other": (b, ["bl*"]), "vae": one},
        twins={"unet": c},
        n_neighbors=0.1,
        progress=lines.append,
        n_folds=6,
    )
    names = ["unet/block@0", "other/block@0", "other/block@1", "vae/block", "pixels/rgb"]
    assert [layer.name for layer in result.layers] == names
    assert [layer.twin for layer in result.layers] == [True, False, False, False, False]
    assert result.sample_set == "real images"
    assert result.strata == "within source, whole clusters"
    assert result.cell("unet/block@0", "vae/block").twin_value is not None
    assert result.cell("other/block@0", "vae/block").twin_value is None
    assert lines[0] == "cka: unet x other, 1 x 2 layers"
    assert result.n == 24
    assert result.layers[-1].width == 768


def test_pixels_follow_the_pooling(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", draws=2)
    assert pixel_representation(store).x.shape == (24, 768)
    cells = pixel_representation(store, pooling="tokens").x
    assert cells.shape == (24, 16, 48)
    image = store.images([6])[0].float() / 255
    small_image = image.view(16, 2, 16, 2, 3).mean((1, 3))
    plain = pixel_representation(store).x
    assert torch.allclose(plain[3], small_image.permute(2, 0, 1).flatten(), atol=1e-6)
    corner = small_image[:4, 12:].permute(2, 0, 1).flatten()
    everything = torch.stack(
        [
            store.images([2 * i])[0].float().view(16, 2, 16, 2, 3).mean((1, 3)) / 255
            for i in range(24)
        ]
    )
    mean = everything.mean(0)[:4, 12:].permute(2, 0, 1).flatten()
    assert torch.allclose(cells[3, 3], corner - mean, atol=1e-5)


def test_what_a_store_lacks_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    with pytest.raises(InputError, match=r"no point .* matches 'blok': block"):
        load_representations(store, ["blok"], model="m")
    with pytest.raises(InputError, match=r"has calls \[0, 1\], not \[7\]"):
        load_representations(store, model="m", calls=[7])
    with pytest.raises(InputError, match="no column 'country' to permute within"):
        load_representations(store, model="m", strata="country")
    with pytest.raises(InputError, match="pooling 'max' is mean or tokens"):
        load_representations(store, model="m", pooling="max")
    twice = make_store(tmp_path / "t", generations={"image_id": ["glyph000"] * 24})
    with pytest.raises(InputError, match="1 images more than once: glyph000"):
        load_representations(twice, model="m")


def test_a_vector_has_no_token_features(tmp_path: Path) -> None:
    table = {"image_id": [f"i{i}" for i in range(8)]}
    store = write_store(
        tmp_path / "s", {"w": draw(8, 1, 1, 6)}, generations=table, t=(0,), log_snr=(0.0,)
    )
    with pytest.raises(InputError, match=r'tokens need a map of at least 4 x 4.*pooling="mean"'):
        load_representations(store, model="m", pooling="tokens")


def _samples(path: Path, weights: str, seed: int, **more) -> ActivationStore:
    names = [f"{weights}@seed{i}" for i in range(24)]
    table = {"image_id": names, "cluster": names, "source": ["zoo:gan"] * 24}
    return make_store(path, seed=seed, calls=1, generations=table, **more)


def test_a_generators_twin_pairs_by_seed_and_never_as_the_same_image(tmp_path: Path) -> None:
    gan, twin = _samples(tmp_path / "a", "a" * 12, 1), _samples(tmp_path / "b", "b" * 12, 2)
    shown = _samples(tmp_path / "c", "a" * 12, 3)
    models, options = {"gan": gan, "vit": shown}, {"n_permutations": 0, "n_folds": 0}
    result = compare_layers(models, twins={"gan": twin}, measures=("cka",), **options)
    assert result.sample_set == "samples of zoo:gan"
    with pytest.raises(InputError, match=r'24 samples of zoo:gan \(a{12}\), .*pairing="seed"'):
        compare_layers({"gan": twin, "vit": shown}, pixels=False, measures=("cka",), **options)
    both = compare_layers(
        {"gan": twin, "vit": shown},
        images=gan.generations["image_id"].tolist()[:20],
        pairing="seed",
        measures=("cka",),
        **options,
    )
    assert both.n == 20
    assert "paired by seed with samples of zoo:gan" in both.preprocessing
    with pytest.raises(InputError, match="pairing 'noise' is image or seed"):
        compare_layers(models, pairing="noise", **options)


def test_samples_of_other_options_do_not_pair(tmp_path: Path) -> None:
    gan = _samples(tmp_path / "a", "a" * 12, 1)
    names = [f"{'b' * 12}@seed{i},truncation=0.2" for i in range(24)]
    twin = _samples(tmp_path / "b", "b" * 12, 2)
    cut = make_store(tmp_path / "c", calls=1, generations={"image_id": names})
    options = {"n_permutations": 0, "n_folds": 0, "measures": ("cka",)}
    with pytest.raises(InputError, match="mixes sample sets"):
        compare_layers({"gan": gan}, twins={"gan": cut}, **options)
    assert compare_layers({"gan": gan}, twins={"gan": twin}, **options).n == 24


def test_one_id_for_different_images_of_one_size_is_refused(tmp_path: Path) -> None:
    a = make_store(tmp_path / "a", calls=1)
    other = write_store(
        tmp_path / "b",
        {"block": draw(24, 1, 1, 6)},
        generations={k: a.generations[k] for k in ("image_id", "cluster", "source")},
        images=a.images().flip(1),
    )
    options = {"n_permutations": 0, "n_folds": 0, "pixels": False, "measures": ("cka",)}
    with pytest.raises(InputError, match=r"b/block and a/block show different images under 24 ids"):
        compare_layers({"a": a, "b": other}, **options)
    smaller = write_store(
        tmp_path / "c",
        {"block": draw(24, 1, 1, 6)},
        generations={k: a.generations[k] for k in ("image_id", "cluster", "source")},
        images=a.images()[:, ::2, ::2].contiguous(),
    )
    assert compare_layers({"a": a, "b": smaller}, **options).n == 24
