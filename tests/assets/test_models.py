"""Every asset: a complete entry, a card, and a network whose blocks are typed points."""

import re
from dataclasses import replace

import pytest
import torch

import interp
from interp.assets import ASSETS, LEFT_OUT, card, is_fetched, verify
from interp.assets.licenses import TEXTS
from interp.errors import InputError
from interp.models import EncodeBatch, GenerateBatch, Generation, Model, editing, reading

# Largest difference to the original, relative to the largest number: rounding in another order.
ROUNDING = 1e-5


@pytest.mark.parametrize("name", list(ASSETS))
def test_an_entry_is_complete(name: str) -> None:
    asset = ASSETS[name]
    assert asset.name == name
    assert re.fullmatch(r"[0-9a-f]{64}", asset.wheel_sha256)
    assert re.fullmatch(r"[\d.]+", asset.version)
    assert asset.license in TEXTS
    assert asset.copyright in asset.terms
    assert asset.rights in asset.terms
    assert "{" not in asset.terms


def test_unclear_rights_are_said() -> None:
    assert "rights to those images are unclear" in ASSETS["cdcgan-eyes"].terms
    assert set(LEFT_OUT) == {"generateme", "galaxygrad"}


@pytest.mark.parametrize("name", list(ASSETS))
def test_a_card_is_of_this_package_and_its_differences_are_rounding(name: str) -> None:
    measured, asset = card(name), ASSETS[name]
    assert measured["wheel_sha256"] == asset.wheel_sha256
    assert measured["package"] == f"{asset.package} {asset.version}"
    assert measured["parameters"] == asset.parameters
    assert measured["cases"]
    for case in measured["cases"].values():
        assert case["max_value"] > 0.1
        assert case["max_difference"] <= ROUNDING * case["max_value"]


# Points that an untrained twin must have, with stream, width and grid.
POINTS = {
    "dcgan-faces": {"z": ("entry", 100, ()), "layers.3": ("image", 64, (32, 32))},
    "cdcgan-eyes": {"z": ("entry", 100, ()), "layers.4": ("image", 64, (64, 64))},
    "terrain-unet": {
        "x_T": ("entry", 1, (128, 128)),
        "embedding": ("context", 128, ()),
        "input_blocks.11.attention": ("image", 64, (32, 32)),
        "middle": ("image", 128, (8, 8)),
        "skip.24": ("skip", 128, (8, 8)),
        "output_blocks.24": ("image", 32, (128, 128)),
    },
    "efficientnet-lite0": {
        "embed": ("image", 32, (112, 112)),
        "blocks.15": ("image", 320, (7, 7)),
    },
    "dinov2-small": {"encoder.layer.11": ("image", 384, (257,))},
    "minilm": {"layers.5": ("text", 384, (8,)), "sentence": ("text", 384, ())},
}


def _twin(name: str) -> Model:
    return interp.load(f"asset:{name}", untrained=True, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ASSETS))
def test_the_untrained_twin_has_the_points_and_the_size(name: str) -> None:
    before = torch.get_rng_state()
    model = _twin(name)
    assert torch.equal(before, torch.get_rng_state())
    assert sum(p.numel() for p in model.root.parameters()) == ASSETS[name].parameters
    for point, (stream, width, grid) in POINTS[name].items():
        found = model.points[point]
        assert (found.stream, found.width, found.grid) == (stream, width, grid)


@pytest.mark.slow
def test_every_attention_layer_and_skip_of_the_terrain_net_can_be_read_and_edited() -> None:
    model = _twin("terrain-unet")
    attention = [n for n in model.points if n.endswith("attention")]
    skips = [n for n in model.points if n.startswith("skip.") and ":" not in n]
    assert len(attention) == 28
    assert len(skips) == 25
    batch = GenerateBatch(seeds=(0,), classes=(7,))
    plain = model.generate(batch)
    with reading(model, [*attention, *skips]) as reads:
        assert torch.equal(model.generate(batch), plain)
    assert len(reads.calls) == 53
    assert {(read.call, read.t) for read in reads.calls} == {(0, 80.0)}
    first = {read.point: read.value for read in reads.calls}
    assert first["skip.0"].shape == (1, 32, 128, 128)
    with editing(model, {"skip.0": lambda x, call: x.flip(1)}):
        assert not torch.equal(model.generate(batch), plain)


def test_a_gan_makes_each_image_from_its_own_seed_and_class() -> None:
    model = _twin("dcgan-faces")
    both = model.generate(GenerateBatch(seeds=(3, 4)))
    assert both.shape == (2, 64, 64, 3)
    # One level of 255: batches of another size add in another order.
    alone = model.generate(GenerateBatch(seeds=(4,)))
    assert (alone[0].int() - both[1].int()).abs().max() <= 1
    assert not torch.equal(both[0], both[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dcgan-faces", "cdcgan-eyes", "terrain-unet"])
def test_images_are_made_of_latents_that_can_be_drawn_swapped_and_differentiated(name: str) -> None:
    model = _twin(name)
    classes = (0, 1) if model.n_classes else ()
    batch = GenerateBatch(seeds=(3, 4), classes=classes)
    plain, latents = model.generate(batch), model.draw_latents(batch)
    assert torch.equal(model.generate(replace(batch, latents=latents)), plain)
    assert not torch.equal(model.generate(replace(batch, latents=latents.flip(0))), plain)
    assert "latents" in model.sources(Generation(n=2)).values()
    asked = latents.clone().requires_grad_()
    model.render(replace(batch, latents=asked)).sum().backward()
    assert asked.grad is not None
    assert asked.grad.abs().sum() > 0
    with pytest.raises(InputError, match="need floats of shape"):
        model.generate(replace(batch, latents=latents[:, None]))


@pytest.mark.slow
def test_a_class_decides_the_eye_and_has_to_be_given() -> None:
    model = _twin("cdcgan-eyes")
    assert model.n_classes == 8
    eyes = [model.generate(GenerateBatch(seeds=(3,), classes=(c,))) for c in (0, 5)]
    assert not torch.equal(*eyes)
    for classes in ((), (8,)):
        with pytest.raises(InputError, match=r"needs one of 0\.\.7"):
            model.generate(GenerateBatch(seeds=(3,), classes=classes))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompts": ("a",)}, "prompts"),
        ({"classes": (0,)}, "classes"),
        ({"truncation": 0.5}, "truncation"),
        ({"guidance": 2.0}, "guidance"),
        ({"scheduler": "ddim"}, "a scheduler"),
        ({"height": 32, "width": 32}, "64"),
    ],
)
def test_a_gan_refuses_what_it_would_ignore(given: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        _twin("dcgan-faces").generate(GenerateBatch(seeds=(0,), **given))


@pytest.mark.slow
def test_the_terrain_net_encodes_at_the_noise_level_that_is_asked_for() -> None:
    model = _twin("terrain-unet")
    images = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    batch = EncodeBatch(images, noise_seeds=(1,), log_snr=2.0, call=3)
    with reading(model, ["x_t", "middle"]) as reads:
        model.encode(batch)
    x, middle = reads.calls
    assert x.log_snr == pytest.approx(2.0)
    assert x.call == 3
    # Black is -1; the noise has the deviation exp(-1).
    assert x.value.mean().item() == pytest.approx(-1, abs=0.02)
    assert x.value.std().item() == pytest.approx(0.3679, abs=0.01)
    assert middle.value.shape == (1, 128, 8, 8)
    with pytest.raises(InputError, match="takes classes"):
        model.encode(EncodeBatch(images, noise_seeds=(1,), log_snr=2.0, prompts=("a",)))
    with pytest.raises(InputError, match="class 100: difficulty takes"):
        model.encode(EncodeBatch(images, noise_seeds=(1,), log_snr=2.0, classes=(100,)))


@pytest.mark.slow
def test_a_text_model_without_its_tokenizer_cannot_encode(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERP_ASSETS", str(tmp_path))
    assert not _twin("minilm").capabilities


def _differ(model: Model) -> bool:
    classes = (0, 1) if model.n_classes else ()
    one, two = model.generate(GenerateBatch(seeds=(1, 2), classes=classes)).float()
    return bool(one.std() > 3 and two.std() > 3 and (one - two).abs().mean() > 3)


def _sees(model: Model, point: str) -> bool:
    """Whether a brighter picture is nearer to a picture than another one is."""
    g = torch.Generator().manual_seed(0)
    drawn = torch.rand(2, 4, 4, 3, generator=g).repeat_interleave(56, 1).repeat_interleave(56, 2)
    images = torch.cat([drawn, drawn[:1] * 0.8]).mul(255).to(torch.uint8)
    with reading(model, [point]) as reads:
        model.encode(EncodeBatch(images))
    x = torch.nn.functional.normalize(reads.calls[0].value.flatten(1), dim=1)
    return bool(x[0] @ x[2] > x[0] @ x[1] + 0.02)


def _understands(model: Model) -> bool:
    x = {}
    for word in ("cat", "kitten", "car"):
        with reading(model, ["sentence"]) as reads:
            images = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
            model.encode(EncodeBatch(images, prompts=(f"a photo of a {word}",)))
        x[word] = reads.calls[0].value[0]
    return bool(x["cat"] @ x["kitten"] > x["cat"] @ x["car"] + 0.1)


DOES = {
    "dcgan-faces": _differ,
    "cdcgan-eyes": _differ,
    "terrain-unet": _differ,
    "efficientnet-lite0": lambda model: _sees(model, "blocks.15"),
    "dinov2-small": lambda model: _sees(model, "encoder.layer.11"),
    "minilm": _understands,
}


@pytest.mark.asset
@pytest.mark.slow
@pytest.mark.parametrize("name", list(ASSETS))
def test_a_fetched_asset_is_sound_and_does_what_it_is_for(name: str) -> None:
    if not is_fetched(name):
        pytest.skip(f"{name} is not in the asset cache: interp assets fetch {name}")
    assert verify(name) == []
    model = interp.load(f"asset:{name}")
    assert set(POINTS[name]) <= set(model.points)
    assert DOES[name](model)
