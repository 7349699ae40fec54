"""Attributes of images: what moves them, what does not, and what is refused."""

import numpy as np
import pytest
import torch

from interp import load
from interp.errors import InputError, PointError
from interp.interventions import ATTRIBUTES, join, make_attributes, make_encoder
from interp.interventions import attributes_pixels as pixels
from interp.interventions.attributes_layout import edge_layout, luminance_layout
from interp.interventions.attributes_surface import (
    color_histogram,
    frequency_bands,
    gram,
    lbp,
)
from interp.zoo import load_images

PARTS = [luminance_layout, edge_layout, color_histogram, lbp, gram, frequency_bands]


@pytest.fixture(scope="module")
def glyphs():
    return load_images(split="heldout").pixels[::90]


@pytest.fixture(scope="module")
def vit():
    return load("zoo:vit")


@pytest.fixture(scope="module")
def attributes(glyphs, vit):
    return make_attributes(glyphs, tuple(ATTRIBUTES), encoder=vit)


def _noise(n=2, h=16, w=20, seed=0, dtype=torch.float64):
    source = torch.Generator().manual_seed(seed)
    return torch.rand(n, h, w, 3, generator=source, dtype=dtype)


# What every entry of ATTRIBUTES has to do.


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_is_one_finite_float_row_per_image(attributes, glyphs, name):
    found = attributes[name](glyphs)
    assert found.shape == (len(glyphs), found.shape[1])
    assert 1 < found.shape[1] <= 256
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert not found.requires_grad


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_bytes_and_floats_of_one_image_give_the_same_bits(attributes, glyphs, name):
    embed = attributes[name]
    assert torch.equal(embed(glyphs), embed(glyphs.float() / 255))


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_row_of_an_image_does_not_depend_on_its_batch(attributes, glyphs, name):
    embed = attributes[name]
    whole = embed(glyphs)
    assert torch.allclose(embed(glyphs[3:4]), whole[3:4], atol=1e-5)
    assert torch.allclose(embed(glyphs.flip(0)), whole.flip(0), atol=1e-5)


@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_gradients_are_finite_also_where_an_image_is_flat(attributes, glyphs, name, level):
    flat = torch.full((1, 32, 32, 3), level)
    x = torch.cat([glyphs[:1].float() / 255, flat]).requires_grad_()
    found = attributes[name](x)
    assert found.isfinite().all()
    found.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad[0].abs().max() > 0


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_tells_images_apart_and_has_length_one_on_average(attributes, glyphs, name):
    found = attributes[name](glyphs).double()
    length = (found - found.mean(0)).square().sum(1).mean()
    parts = {"composition": 2, "surface": 4}.get(name, 1)
    assert length == pytest.approx(parts, rel=1e-5)
    assert torch.pdist(found).min() > 0


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_images_that_hold_no_number_are_refused(attributes, glyphs, name):
    x = glyphs[:2].float() / 255
    x[1, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="range from nan to nan: finite values"):
        attributes[name](x)


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (96, 40)])
@pytest.mark.parametrize("part", PARTS)
def test_any_size_from_16_pixels_on_gives_the_same_number_of_columns(part, size):
    assert part(_noise(2, *size)).shape == part(_noise(2, 32, 32)).shape


@pytest.mark.parametrize("part", PARTS)
def test_the_gradient_is_the_slope(part):
    x, along = _noise(1), _noise(1, seed=1) - 0.5
    x = (0.1 + 0.8 * x).requires_grad_()
    weights = torch.randn(part(x).shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    (slope,) = torch.autograd.grad((part(x) * weights).sum(), x)
    ahead, behind = (part(x.detach() + s * along) for s in (1e-6, -1e-6))
    measured = ((ahead - behind) * weights).sum() / 2e-6
    assert (slope * along).sum() == pytest.approx(float(measured), rel=1e-3, abs=1e-5)


def test_many_images_are_embedded_in_parts(monkeypatch):
    x = _noise(7, dtype=torch.float32)
    whole = [part(x) for part in PARTS]
    monkeypatch.setattr(pixels, "_CHUNK", 2 * 16 * 20)
    for part, expected in zip(PARTS, whole, strict=True):
        assert torch.allclose(part(x), expected, atol=1e-5)


# Content, and how attributes are made.


def test_content_is_the_mean_of_the_last_block_of_an_encoder(vit, glyphs, attributes):
    from interp.models import EncodeBatch, reading

    with reading(vit, ["blocks.5"]) as reader:
        vit.encode(EncodeBatch(glyphs))
    expected = reader.calls[0].value.mean(1)
    plain = make_encoder(vit)(glyphs)
    assert torch.allclose(plain, expected, atol=1e-5)
    scale = (expected - expected.mean(0)).square().sum(1).mean().sqrt()
    assert torch.allclose(attributes["content"](glyphs), expected / scale, atol=1e-5)
    first, both = (make_encoder(vit, pool=pool)(glyphs) for pool in ("first", "both"))
    assert torch.allclose(both, torch.cat([first, plain], 1))


def test_any_function_of_images_is_an_encoder(glyphs):
    def encoder(images):
        return images.double().mean((1, 2))

    found = make_attributes(glyphs, ("content",), encoder=encoder)["content"](glyphs)
    expected = encoder(glyphs)
    scale = (expected - expected.mean(0)).square().sum(1).mean().sqrt()
    assert torch.allclose(found, expected / scale)


def test_the_weights_of_a_plugged_in_network_get_no_gradient(glyphs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)

    def encoder(images):
        values = images / 255 if images.dtype == torch.uint8 else images
        return net(values.mean((1, 2)))

    embed = make_attributes(glyphs, ("content",), encoder=encoder)["content"]
    assert not embed(glyphs).requires_grad
    x = (glyphs[:2].float() / 255).requires_grad_()
    embed(x).sum().backward()
    assert x.grad is not None


def test_an_autoencoder_is_read_at_a_point_of_its_own_without_gradient(glyphs):
    vae = load("zoo:vae")
    with pytest.raises(InputError, match=r"zoo:vae \(vae\) has no last block that stands for"):
        make_encoder(vae)
    code = make_encoder(vae, "code")
    assert torch.equal(code(glyphs[:2]), code(glyphs[:2].float() / 255))
    with pytest.raises(InputError, match="images of 8 bits, which have no gradient"):
        code((glyphs[:2].float() / 255).requires_grad_())
    with pytest.raises(PointError, match="encoder"):
        make_encoder(vae, "encoder.nowhere")


def test_a_new_attribute_is_one_function_and_one_line(monkeypatch, glyphs):
    @pixels.on_images
    def brightness(x):
        return x.mean((1, 2, 3))[:, None]

    monkeypatch.setitem(ATTRIBUTES, "brightness", join(brightness))
    found = make_attributes(glyphs, ("brightness",))["brightness"](glyphs)
    assert found.var(correction=0) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 15, 40, 3), "2 images of 15 x 40 pixels: one or more of at least 16 x 16"),
        (torch.zeros(0, 32, 32, 3), "0 images of 32 x 32"),
        (torch.zeros(2, 3, 32, 32), r"images \(2, 3, 32, 32\): a tensor \[n, h, w, 3\]"),
        (np.zeros((2, 32, 32, 3)), "a tensor"),
        (torch.zeros(1, 32, 32, 3, dtype=torch.int64), "torch.int64: uint8, or floats"),
        (torch.full((1, 32, 32, 3), 255.0), "range from 255 to 255: .*give 0..255 as uint8"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(InputError, match=message):
        luminance_layout(images)


def test_attributes_that_cannot_be_made_are_refused(glyphs, vit):
    with pytest.raises(InputError, match="content needs an encoder: give encoder=load"):
        make_attributes(glyphs)
    with pytest.raises(InputError, match=r"names \['style'\]: one or more of content, compos"):
        make_attributes(glyphs, ("style",))
    with pytest.raises(InputError, match="each once"):
        make_attributes(glyphs, ("surface", "surface"))
    with pytest.raises(InputError, match="luminance_layout is the same for all 2 reference"):
        make_attributes(glyphs[:1].repeat(2, 1, 1, 1), ("composition",))
    with pytest.raises(InputError, match=r"encoder gave \(13,\) for 13 images"):
        make_attributes(glyphs, ("content",), encoder=_flat_encoder)
    with pytest.raises(InputError, match="pool = 'max' is not one of mean, first, both"):
        make_encoder(vit, pool="max")
    with pytest.raises(InputError, match="zoo:gan cannot encode"):
        make_encoder(load("zoo:gan"))


def _flat_encoder(images):
    return images.double().mean((1, 2, 3))


@pytest.mark.slow
def test_the_three_attributes_are_not_the_same_thing(vit):
    images = load_images(split="heldout").pixels
    order = np.random.default_rng(0).permutation(len(images))
    names = ("content", "composition", "surface", "color_histogram")
    attributes = make_attributes(images[order[:200]], names, encoder=vit)
    chosen = images[order[200:500]]
    apart = torch.stack([torch.pdist(f(chosen).double()) for f in attributes.values()])
    found = torch.corrcoef(apart)
    # What the docstring of `make_attributes` says.
    expected = {(0, 1): 0.25, (0, 2): 0.35, (1, 2): 0.39, (0, 3): 0.55}
    for (i, j), value in expected.items():
        assert found[i, j] == pytest.approx(value, abs=0.015)
