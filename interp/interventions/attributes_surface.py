"""What surfaces are like wherever they are: colors, texture, frequency bands."""

import functools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.interventions.attributes_pixels import (
    QUANTIZATION,
    on_images,
    spread,
    to_lab,
    to_luminance,
)

# Centers of the color histogram: L* 0, 20 .. 100; a* and b* -80, -40 .. 80. sRGB reaches
# a* -86..98 and b* -108..95, and what is beyond the last centers counts for them.
_LIGHT = (0.0, 20.0, 6)
_CHROMA = (-80.0, 40.0, 5)
# sqrt(count + 3/8) has the same variance for every expected count: Anscombe 1948, eq. 2.3.
_ANSCOMBE = 3 / 8
# Least difference in L*a*b* that is seen: Mahy et al. 1994, sec. 4 (2.3 units).
_JUST_SEEN = 2.3
# Points and radii of the local binary patterns: Ojala et al. 2002, table 1 (P = 8, R = 1; 2).
_POINTS, _RADII = 8, (1, 2)
# Centers of the octaves in cycles per pixel, and orientations: Portilla and Simoncelli 2000,
# sec. 2.1 (a steerable pyramid of K = 4 orientations); 1/16 is the coarsest in 16 pixels.
_OCTAVES, _TURNS = (1 / 4, 1 / 8, 1 / 16), 4
# Bands are half an octave apart: from one period in 16 pixels up to the corner, sqrt(2) / 2.
_BANDS, _LOWEST = 8, -4.0


@on_images
def color_histogram(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 150"]:
    """Square root of the soft Lab histogram, 6 x 5 x 5 bins: sqrt(p + 3 / (8 h w)).

    Each pixel is shared linearly by the eight nearest bins. Euclidean distances of square roots are
    Hellinger distances; the term inside, 3/8 of a pixel, evens out the noise of small counts and
    keeps the derivative finite. No pixel's place matters.
    Images are uint8 [n, h, w, 3] or float in [0, 1]; h, w >= 16.
    """
    lab = to_lab(x).flatten(2)
    light = spread(lab[:, 0], *_LIGHT)
    red, blue = (spread(lab[:, i], *_CHROMA) for i in (1, 2))
    pairs = (light[..., :, None] * red[..., None, :]).flatten(2)
    p = (pairs.mT @ blue).flatten(1) / lab.shape[-1]
    return (p + _ANSCOMBE / lab.shape[-1]).sqrt()


@on_images
def lbp(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 20"]:
    """Square root of soft histograms of rotation-invariant uniform binary patterns of L*.

    Eight points on circles of radius 1 and 2 pixels; bit i is clip(1 + (L_i - L_c) / 2.3, 0, 1): 1
    where the point is no darker than the center, 0 where it is darker by what is just seen, so that
    flat regions have all bits, and noise far below sight hardly counts. A pattern counts with the
    product of its bits' shares. Ten bins per radius: a single run of j = 0..8 bits, and all others.
    The ramp in place of a step gives floats a gradient, and 8-bit images the same value.
    Images are uint8 [n, h, w, 3] or float in [0, 1]; h, w >= 16.
    Source: Ojala et al. 2002, eq. 9 (patterns); Ahonen and Pietikainen 2007, eq. 4 (soft bits);
    Heikkila and Pietikainen 2006, sec. 2.1 (offset for flat regions).
    """
    light = to_lab(x)[:, :1]
    found = []
    for radius in _RADII:
        kernels = _circle(radius).to(light)
        bits = (1 + F.conv2d(light, kernels) / _JUST_SEEN).clamp(0, 1)
        counts = _count_patterns(bits)
        found.append((counts.mean((2, 3)) + _ANSCOMBE / bits[0, 0].numel()).sqrt())
    return torch.cat(found, 1)


@functools.cache
def _circle(radius: int) -> Float[Tensor, "8 1 k k"]:
    """Kernels of (point - center), points between pixels interpolated bilinearly."""
    size = 2 * radius + 1
    grid = torch.arange(size, dtype=torch.float64) - radius
    kernels = torch.zeros(_POINTS, 1, size, size, dtype=torch.float64)
    for i in range(_POINTS):
        angle = 2 * math.pi * i / _POINTS
        y, x = -radius * math.sin(angle), radius * math.cos(angle)
        down, across = ((1 - (grid - at).abs()).clamp(min=0) for at in (y, x))
        kernels[i, 0] = down[:, None] * across[None, :]
        kernels[i, 0, radius, radius] -= 1
    return kernels


def _count_patterns(bits: Float[Tensor, "n 8 h w"]) -> Float[Tensor, "n 10 h w"]:
    """Share of each pixel in a run of j bits (0..8), and in patterns with several runs."""
    ones, zeros = [torch.ones_like(bits)], [torch.ones_like(bits)]
    # ones[j][:, i] is the product of bits i .. i + j - 1 around the circle.
    for j in range(_POINTS):
        ahead = bits.roll(-j, 1)
        ones.append(ones[-1] * ahead)
        zeros.append(zeros[-1] * (1 - ahead))
    runs = [(ones[j] * zeros[_POINTS - j].roll(-j, 1)).sum(1) for j in range(1, _POINTS)]
    counts = torch.stack([zeros[-1][:, 0], *runs, ones[-1][:, 0]], 1)
    return torch.cat([counts, 1 - counts.sum(1, keepdim=True)], 1)


@on_images
def gram(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 78"]:
    """Square roots of the normalized Gram matrix of 12 filters' moduli, entries i <= j.

    G_ij = mean of m_i m_j, m_i = |L* / 100 filtered by a one-sided steerable filter|, 3 octaves x 4
    orientations, in the frequency domain, where borders wrap; sqrt((G_ij + q) / (tr G + 12 q)),
    entries off the diagonal times sqrt(2), since the full matrix has them twice. Divided by the
    trace because contrast is in the frequency bands already; q, the variance of rounding to 8 bits,
    lets flat images have no texture. Moduli, since the Gram matrix of the responses themselves says
    no more than the spectrum.
    Images are uint8 [n, h, w, 3] or float in [0, 1]; h, w >= 16.
    Source: Gatys et al. 2015, eq. 1 (Gram); Portilla and Simoncelli 2000, sec. 2.1 (filters).
    """
    light = to_luminance(x)
    bank = _make_bank(light)
    moduli = torch.fft.ifft2(torch.fft.fft2(light)[:, None] * bank).abs().flatten(2)
    products = moduli @ moduli.mT / moduli.shape[-1] + QUANTIZATION
    total = products.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    i, j = torch.triu_indices(len(bank), len(bank), device=x.device)
    twice = torch.where(i == j, 1.0, math.sqrt(2)).to(x)
    return (products[:, i, j] / total).sqrt() * twice


def _frequencies(like: Float[Tensor, "*n h w"]) -> tuple[Tensor, Tensor]:
    """Vertical and horizontal frequency in cycles per pixel, [h, 1] and [1, w]."""
    h, w = like.shape[-2:]
    options = {"dtype": like.dtype, "device": like.device}
    return torch.fft.fftfreq(h, **options)[:, None], torch.fft.fftfreq(w, **options)[None, :]


def _octaves_above(like: Tensor, center: float) -> Float[Tensor, "h w"]:
    """log2 of radial frequency over `center`; the constant is as far below as needed."""
    fy, fx = _frequencies(like)
    radius = (fy.square() + fx.square()).sqrt()
    return torch.where(radius > 0, radius, 1e-9).log2() - math.log2(center)


def _make_bank(like: Float[Tensor, "n h w"]) -> Float[Tensor, "12 h w"]:
    """Transfer functions cos(pi/2 log2 r/r0) cos^3(angle), one-sided."""
    fy, fx = _frequencies(like)
    angle = torch.atan2(fy, fx)
    found = []
    for center in _OCTAVES:
        radial = torch.cos(math.pi / 2 * _octaves_above(like, center).clamp(-1, 1))
        for turn in range(_TURNS):
            facing = torch.cos(angle - math.pi * turn / _TURNS).clamp(min=0)
            found.append(radial * facing ** (_TURNS - 1))
    return torch.stack(found)


@on_images
def frequency_bands(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 8"]:
    """Log energies of L* / 100 in eight radial bands, half an octave apart, without the mean.

    log(sum over f of w_j(f) |F(f)|^2 / (h w)^2 + q): band j is centered at 2^(j / 2 - 4) cycles per
    pixel, w_j are linear in the octave and sum to 1, all below 1/16 belongs to the first; without q
    the energies add up to the variance of the image. q is the variance of rounding to 8 bits:
    less than that is no energy. Borders wrap, so that a circular shift changes nothing.
    Images are uint8 [n, h, w, 3] or float in [0, 1]; h, w >= 16.
    """
    light = to_luminance(x)
    place = _octaves_above(light, 1.0)
    weights = spread(place, _LOWEST, 0.5, _BANDS)
    weights[0, 0] = 0
    power = torch.fft.fft2(light, norm="forward").abs().square()
    return (torch.einsum("nhw,hwj->nj", power, weights) + QUANTIZATION).log()
