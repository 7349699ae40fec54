"""Captures of different kinds of models line up: a GAN's own samples, captions, real images."""

from pathlib import Path

import pytest
import torch

import interp
from interp.alignment import compare_layers, load_representations
from interp.errors import InputError, StoreError
from interp.harvest import rerender
from interp.store import ActivationStore
from interp.zoo import MODELS, card
from interp.zoo.leaks import LEAKS, known_leaks

N = 12
SMALL = {"measures": ("cka",), "n_permutations": 0, "n_folds": 4}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    gan = interp.load("zoo:gan", untrained=True)
    recipe = interp.Generation(n=N, seed=3)
    return interp.capture(
        gan,
        ["w", "layers.0"],
        recipe,
        out=tmp_path_factory.mktemp("gan"),
        rows=interp.Rows("mean"),
        progress=False,
    )


def encode(spec: str, points: list[str], recipe: interp.Encoding, out: Path) -> ActivationStore:
    model = interp.load(spec, untrained=True)
    rows = interp.Rows("mean")
    return interp.capture(model, points, recipe, out=out, rows=rows, progress=False)


def test_a_gan_is_compared_on_its_own_samples_shown_to_others(
    samples: ActivationStore, tmp_path: Path
) -> None:
    shown = encode("zoo:vit", ["blocks.0"], interp.Encoding(images=str(samples.path)), tmp_path)
    result = compare_layers({"gan": samples, "vit": shown}, **SMALL)
    assert result.sample_set == "samples of zoo:gan"
    assert result.n == N
    assert result.cell("gan/w", "vit/blocks.0").comparison.low is not None
    # Row by row the same image: the id that made it.
    gan, vit = (
        load_representations(store, model=m)[0] for m, store in (("g", samples), ("v", shown))
    )
    assert gan.ids == vit.ids
    assert gan.images == vit.images
    # One sample fewer on one side is an error that names it.
    fewer = interp.Encoding(images=str(samples.path), limit=N - 1)
    part = encode("zoo:vit", ["blocks.0"], fewer, tmp_path)
    with pytest.raises(InputError, match=r"vit/blocks.0 lacks 1 \(\w{12}@seed14\)"):
        compare_layers({"gan": samples, "vit": part}, **SMALL)


def test_a_gan_never_meets_real_images(samples: ActivationStore, tmp_path: Path) -> None:
    real = encode("zoo:vit", ["blocks.0"], interp.Encoding(limit=N), tmp_path)
    with pytest.raises(InputError, match=rf"mixes sample sets .*{N} real images"):
        compare_layers({"gan": samples, "vit": real}, pixels=False, **SMALL)


@pytest.mark.slow
def test_language_models_are_averaged_over_words_without_the_token_that_begins_all(
    tmp_path: Path,
) -> None:
    model = interp.load("zoo:text", untrained=True)
    assert model.identity()["lead_tokens"] == 1
    point = "blocks.1.hook_out"
    recipe = interp.Encoding(limit=3, condition="caption", batch_size=1)
    options = {"out": tmp_path, "progress": False}
    store = interp.capture(model, [point], recipe, rows=interp.Rows("mean"), **options)
    # Every token, in shards of one text each.
    whole = interp.capture(model, [point], recipe, rows=interp.Rows("all"), shard_size=1, **options)
    tokens, coords = whole.rows(point).float(), whole.coords(point)
    for g in range(3):
        words = tokens[torch.as_tensor((coords["generation"] == g) & (coords["token"] > 0))]
        assert len(words) > 0
        torch.testing.assert_close(store.rows(point)[g], words.mean(0), rtol=1e-4, atol=1e-5)
    # A store that kept every token gives the same mean.
    mean, same = (load_representations(s, model="text")[0] for s in (store, whole))
    torch.testing.assert_close(mean.x, same.x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rerender(store, point, [1], model), store.rows(point, [1]))
    model.provenance["lead_tokens"] = 0
    with pytest.raises(StoreError, match="averaged all but 1 leading tokens"):
        rerender(store, point, [1], model)


@pytest.mark.parametrize("name", MODELS)
def test_every_card_says_what_its_network_shares(name: str) -> None:
    assert card(f"zoo:{name}").leaks == known_leaks(f"zoo:{name}/3") == LEAKS[name]


def test_an_untrained_network_shares_nothing(tmp_path: Path) -> None:
    assert "leaks" not in interp.load("zoo:vit", untrained=True).identity()
    assert interp.load("zoo:vit").identity()["leaks"] == list(LEAKS["vit"])
    store = encode("zoo:vit", ["blocks.0"], interp.Encoding(limit=4), tmp_path)
    assert load_representations(store, model="vit")[0].leaks == ()


@pytest.mark.slow
def test_a_denoiser_of_codes_shares_the_network_that_makes_them(tmp_path: Path) -> None:
    recipe, rows = interp.Encoding(limit=6), interp.Rows("mean")
    vae = interp.capture(
        interp.load("zoo:vae"), ["code"], recipe, out=tmp_path, rows=rows, progress=False
    )
    (one,) = load_representations(vae, model="vae")
    assert one.leaks == ("training images: glyphs", "network: zoo:vae")
    assert set(one.leaks) <= set(card("ldm").leaks)
