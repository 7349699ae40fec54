"""What every attribute starts from: checked images in rows, and their CIE Lab values."""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError

# images uint8 [n, h, w, 3], or float [n, h, w, 3] in [0, 1] -> float [n, d]
Attribute = Callable[[Tensor], Tensor]
# The same of checked float images.
Embed = Callable[[Float[Tensor, "n 3 h w"]], Float[Tensor, "n d"]]

# Sixteen pixels hold one period of the coarsest band and 4 x 4 cells of four pixels.
MIN_SIZE = 16
# How far rounding may carry a float image out of [0, 1].
_SLACK = 1e-3
# Pixels embedded at once: 0.6 GB for the 144 maps of the local binary patterns.
_CHUNK = 2**20
# Variance of rounding to 8 bits, in units of the full range: below it nothing is told.
QUANTIZATION = 1 / (12 * 255**2)
# IEC 61966-2-1 (sRGB): linear RGB to XYZ, and the D65 white that RGB = 1 gives.
_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
# CIE 15:2004, eq. 8.3-8.8: Lab's cube root turns linear below (6 / 29)^3.
_DELTA = 6 / 29


def on_images(embed: Embed) -> Attribute:
    """Make an attribute of a function of checked float images in channels-first layout.

    uint8 is divided by 255 in float32, so that an image and its float32 copy give the same bits.
    Many images are embedded in parts whose size depends on that of one image alone.
    """

    @functools.wraps(embed)
    def attribute(images: Tensor) -> Tensor:
        x = to_channels(images)
        rows = max(1, _CHUNK // (x.shape[2] * x.shape[3]))
        return torch.cat([embed(part) for part in x.split(rows)])

    return attribute


def to_channels(images: Tensor) -> Float[Tensor, "n 3 h w"]:
    """Check images and return them as floats in [0, 1], channels first.

    Raises InputError for other shapes and types, no image, fewer than 16 pixels on a side, NaN or
    infinite values, and floats outside [0, 1].
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[-1] != 3:
        shape = tuple(getattr(images, "shape", ()))
        raise InputError(f"images {shape}: a tensor [n, h, w, 3] is needed")
    n, h, w, _ = images.shape
    if n == 0 or min(h, w) < MIN_SIZE:
        raise InputError(
            f"{n} images of {h} x {w} pixels: one or more of at least {MIN_SIZE} x {MIN_SIZE} are "
            "needed; enlarge smaller ones"
        )
    if images.dtype == torch.uint8:
        return images.permute(0, 3, 1, 2).to(torch.float32) / 255
    if not images.dtype.is_floating_point:
        raise InputError(f"images are {images.dtype}: uint8, or floats in [0, 1], are needed")
    low, high = (float(value) for value in images.detach().aminmax())
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise InputError(
            f"float images range from {low:.4g} to {high:.4g}: finite values in [0, 1] are needed; "
            "give 0..255 as uint8"
        )
    kept = images if images.dtype == torch.float64 else images.to(torch.float32)
    return kept.permute(0, 3, 1, 2)


def to_lab(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """CIE L*a*b* of sRGB pixels in [0, 1]: L in 0..100; D65 white, where a = b = 0.

    Source: IEC 61966-2-1 (sRGB to XYZ), CIE 15:2004 (XYZ to L*a*b*).
    """
    # Where the other branch holds, the base is kept away from 0 so that its gradient stays finite.
    curved = ((x.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    linear = torch.where(x > 0.04045, curved, x / 12.92)
    matrix = x.new_tensor(_XYZ)
    matrix = matrix / matrix.sum(1, keepdim=True)
    xyz = torch.einsum("ij,njhw->nihw", matrix, linear)
    root = xyz.clamp(min=_DELTA**3) ** (1 / 3)
    f = torch.where(xyz > _DELTA**3, root, xyz / (3 * _DELTA**2) + 4 / 29)
    fx, fy, fz = f.unbind(1)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], 1)


def to_luminance(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n h w"]:
    """L* / 100 of sRGB pixels: 0 black, 1 white."""
    return to_lab(x)[:, 0] / 100


def average_cells(
    x: Float[Tensor, "*n h w"], rows: int, columns: int
) -> Float[Tensor, "*n rows columns"]:
    """Averages over rows x columns equal rectangles; a pixel on a border counts with its share."""
    down, across = (
        _cell_weights(size, cells, x)
        for size, cells in ((x.shape[-2], rows), (x.shape[-1], columns))
    )
    return down @ x @ across.T


def _cell_weights(size: int, cells: int, like: Tensor) -> Float[Tensor, "cells size"]:
    """Share of each pixel's length in each cell; rows sum to 1."""
    step = size / cells
    edges = torch.arange(cells + 1, dtype=torch.float64) * step
    pixel = torch.arange(size, dtype=torch.float64)
    right = torch.minimum(edges[1:, None], pixel + 1)
    left = torch.maximum(edges[:-1, None], pixel)
    return ((right - left).clamp(min=0) / step).to(like)


def spread(
    values: Float[Tensor, "*n"], first: float, step: float, bins: int
) -> Float[Tensor, "*n bins"]:
    """Soft binning: each value is shared by the two nearest of `bins` centers, linearly.

    Centers are first + i step; values beyond the ends go to the end bins. Shares sum to 1.
    """
    place = ((values - first) / step).clamp(0, bins - 1)
    centers = torch.arange(bins, dtype=values.dtype, device=values.device)
    return (1 - (place[..., None] - centers).abs()).clamp(min=0)
