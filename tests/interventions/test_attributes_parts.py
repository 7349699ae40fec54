"""Parts of attributes: what moves colors, layout, texture and bands, and what does not."""

import math

import pytest
import torch
import torch.nn.functional as F

from interp.interventions import attributes_pixels as pixels
from interp.interventions.attributes_layout import edge_layout, luminance_layout
from interp.interventions.attributes_surface import (
    _count_patterns,
    color_histogram,
    frequency_bands,
    gram,
    lbp,
)
from interp.zoo import load_images


@pytest.fixture(scope="module")
def glyphs():
    return load_images(split="heldout").pixels[::90]


def _noise(n=2, h=16, w=20, seed=0, dtype=torch.float64):
    source = torch.Generator().manual_seed(seed)
    return torch.rand(n, h, w, 3, generator=source, dtype=dtype)


def _gray(lightness):
    """sRGB images [n, h, w, 3] whose L* / 100 is as given."""
    root = (100 * lightness + 16) / 116
    linear = torch.where(root > 6 / 29, root**3, 3 * (6 / 29) ** 2 * (root - 4 / 29))
    value = torch.where(
        linear > 0.0031308,
        1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055,
        12.92 * linear,
    )
    return value[..., None].expand(*value.shape, 3)


def _distance(embed, one, other):
    return float((embed(one) - embed(other)).norm())


# Color.


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_is_that_of_the_standard(rgb, lab):
    x = torch.tensor(rgb, dtype=torch.float64)[None, :, None, None]
    assert pixels.to_lab(x).flatten() == pytest.approx(torch.tensor(lab).double(), abs=0.03)


def test_a_change_of_hue_moves_colors_and_leaves_luminance_and_its_texture():
    red = torch.tensor([0.8, 0.3, 0.3], dtype=torch.float64)
    lightness = pixels.to_luminance(red[None, :, None, None])
    green = torch.tensor([0.3, 0.7, 0.3], dtype=torch.float64)
    # Mixed with black until it is as light: equal L*, another hue.
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        light = pixels.to_luminance((middle * green)[None, :, None, None])
        low, high = (middle, high) if light < lightness else (low, middle)
    images = torch.full((2, 32, 32, 3), 0.9, dtype=torch.float64)
    images[0, 8:24, 8:24], images[1, 8:24, 8:24] = red, low * green
    for part in (luminance_layout, edge_layout, lbp, gram, frequency_bands):
        assert _distance(part, images[:1], images[1:]) < 1e-9
    assert _distance(color_histogram, images[:1], images[1:]) > 0.3


def test_the_color_histogram_is_on_a_sphere_and_one_color_between_bins_is_in_eight_at_most():
    x = _noise(3)
    found = color_histogram(x).square().sum(1)
    assert found == pytest.approx(torch.full((3,), 1 + 150 * 3 / 8 / 320), rel=1e-9)
    # L* = 60, a* = b* = 0 is a center: one bin holds everything.
    one = color_histogram(_gray(torch.full((1, 16, 16), 0.6, dtype=torch.float64))).square()
    assert one.max() == pytest.approx(1 + 3 / 8 / 256, abs=1e-3)
    found = color_histogram(x[:, :1, :1].expand(-1, 16, 16, -1)).square() - 3 / 8 / 256
    assert ((found > 1e-9).sum(1) <= 8).all()


# Places.


def test_a_shift_by_half_the_image_moves_the_layout_and_nothing_of_the_surface(glyphs):
    moved = glyphs.roll((16, 16), (1, 2))
    # 32-bit sums of other order.
    for part in (color_histogram, gram, frequency_bands):
        assert _distance(part, glyphs, moved) < 1e-4
    other = glyphs.roll(1, 0)
    for part in (luminance_layout, edge_layout):
        assert _distance(part, glyphs, moved) > 0.5 * _distance(part, glyphs, other)


@pytest.mark.parametrize("part", [color_histogram, lbp])
def test_a_quarter_turn_changes_no_color_and_no_pattern(part, glyphs):
    x = glyphs.double() / 255
    assert torch.allclose(part(x.rot90(1, (1, 2))), part(x), atol=1e-9)
    assert _distance(luminance_layout, x.rot90(1, (1, 2)), x) > 1


def test_the_luminance_layout_is_the_mean_of_cells():
    x = _noise(2, 16, 24)
    light = pixels.to_luminance(x.permute(0, 3, 1, 2))
    expected = light.reshape(2, 8, 2, 8, 3).mean((2, 4)).flatten(1)
    assert torch.allclose(luminance_layout(x), expected)
    # Cells that cut pixels: the weights of each cell still add up, and every pixel counts alike.
    cells = pixels.average_cells(torch.eye(18, dtype=torch.float64), 18, 8)
    assert torch.allclose(cells.sum(0), torch.ones(8, dtype=torch.float64))
    assert torch.allclose(cells.sum(1) * 18 / 8, torch.ones(18, dtype=torch.float64))


@pytest.mark.parametrize("part", [luminance_layout, edge_layout])
def test_a_layout_does_not_depend_on_the_resolution(part):
    small = F.interpolate(_noise(2, 16, 16).permute(0, 3, 1, 2), (64, 64), mode="bicubic")
    small = small.clamp(0, 1).permute(0, 2, 3, 1)
    large = small.repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert torch.allclose(part(large), part(small), atol=1e-9)


def test_an_edge_counts_for_its_orientation_and_place_whatever_its_sign():
    x = torch.linspace(0.2, 0.6, 33, dtype=torch.float64)[:32]
    across = _gray(x.expand(1, 32, 32))
    found = edge_layout(across).reshape(8, 4, 4)
    # A ramp of .4 over 32 pixels is .4 / 16 per sixteenth of the image.
    assert found[0] == pytest.approx(torch.full((4, 4), 0.4 / 16), rel=1e-6)
    assert found[1:].abs().max() < 1e-9
    down = edge_layout(across.transpose(1, 2)).reshape(8, 4, 4)
    assert down[4] == pytest.approx(torch.full((4, 4), 0.4 / 16), rel=1e-6)
    assert torch.allclose(edge_layout(across.flip(2)), edge_layout(across), atol=1e-9)
    corner = torch.full((1, 32, 32), 0.5, dtype=torch.float64)
    corner[:, :6, :6] += 0.3
    cells = edge_layout(_gray(corner)).reshape(8, 4, 4).sum(0)
    assert cells[0, 0] > 0
    assert cells.sum() == pytest.approx(float(cells[0, 0]))


# Texture and frequency.


def test_bands_add_up_to_the_variance_and_a_grating_is_in_its_own():
    x = _noise(2, 24, 32)
    light = pixels.to_luminance(x.permute(0, 3, 1, 2))
    energy = frequency_bands(x).exp().sum(1) - 8 * pixels.QUANTIZATION
    assert energy == pytest.approx(light.var((1, 2), correction=0), rel=1e-9)
    for period, band in ((16, 0), (8, 2), (4, 4), (2, 6)):
        wave = 0.5 + 0.2 * torch.cos(2 * math.pi * torch.arange(32.0).double() / period)
        found = frequency_bands(_gray(wave.expand(1, 32, 32)))[0].exp() - pixels.QUANTIZATION
        expected = 0.04 if period == 2 else 0.02
        assert found[band] == pytest.approx(expected, rel=1e-6)
        assert found.sum() == pytest.approx(expected, rel=1e-6)


def test_blur_takes_high_bands_and_leaves_low_ones_and_the_layout(glyphs):
    x = glyphs.double() / 255
    blurred = F.avg_pool2d(
        F.pad(x.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="circular"), 3, stride=1
    ).permute(0, 2, 3, 1)
    change = (frequency_bands(blurred) - frequency_bands(x)).mean(0)
    assert change[5:].max() < -1
    assert change[0].abs() < 0.2
    assert _distance(luminance_layout, x, blurred) < 0.1 * _distance(
        luminance_layout, x, x.roll(1, 0)
    )


def test_a_grating_is_in_the_filter_of_its_octave_and_orientation():
    wave = 0.5 + 0.2 * torch.cos(2 * math.pi * torch.arange(32.0).double() / 4)
    found = gram(_gray(wave.expand(1, 32, 32)))[0].square()
    diagonal = torch.triu_indices(12, 12)
    diagonal = found[diagonal[0] == diagonal[1]]
    assert diagonal.sum() == pytest.approx(1)
    # |cos filtered by one side| is half its amplitude: .01 of energy, cos^6 of the angle elsewhere.
    energy = 0.01 * torch.tensor([1, 0.125, 0, 0.125]).double() + pixels.QUANTIZATION
    total = energy.sum() + 8 * pixels.QUANTIZATION
    assert diagonal[:4] == pytest.approx(energy / total, rel=1e-5)
    assert diagonal[4:].max() < 1e-3


def test_the_same_texture_at_half_the_contrast_has_the_same_gram_matrix():
    x = 0.5 + 0.4 * (_noise(1, 32, 32)[..., 0] - 0.5)
    half = 0.5 + 0.5 * (x - x.mean())
    assert _distance(gram, _gray(x), _gray(half)) < 0.05
    assert _distance(frequency_bands, _gray(x), _gray(half)) > 1


def test_patterns_are_those_of_every_combination_of_bits():
    bits = torch.rand(1, 8, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.zeros(1, 10, 2, 3).double()
    for code in range(256):
        on = [(code >> i) & 1 for i in range(8)]
        share = torch.stack([b if o else 1 - b for b, o in zip(bits[0], on, strict=True)]).prod(0)
        jumps = sum(on[i] != on[i - 1] for i in range(8))
        expected[0, sum(on) if jumps <= 2 else 9] += share
    assert torch.allclose(_count_patterns(bits), expected)


def test_faint_noise_is_little_texture_and_flat_regions_have_all_bits():
    flat = torch.full((1, 32, 32), 0.6, dtype=torch.float64)
    found = lbp(_gray(flat)).square().reshape(2, 10) * torch.tensor([[900.0], [784.0]])
    assert found[:, 8] == pytest.approx(torch.tensor([900.375, 784.375]), rel=1e-9)
    noise = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)).double() - 0.5
    faint, strong = (_distance(lbp, _gray(flat), _gray(flat + s * noise)) for s in (0.002, 0.2))
    # A step in place of the ramp would see no difference between the two.
    assert faint < 0.35 * strong
