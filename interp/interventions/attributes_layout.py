"""Where things are: low-pass luminance and the orientation of coarse edges."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from interp.interventions.attributes_pixels import average_cells, on_images, spread, to_luminance

# A grid of 8 x 8 is what is left of an image at a glance: coarser than any texture of 32 pixels.
LAYOUT = 8
# HOG's cells and unsigned orientations, on a grid of SIFT's size: Lowe 2004, sec. 6 (4 x 4 x 8).
EDGE_CELLS, ORIENTATIONS = 4, 8
# Edges finer than 1/64 of the image are texture, not layout.
COARSE = 64


@on_images
def luminance_layout(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 64"]:
    """Averages of L* / 100 over 8 x 8 equal cells, row-major, whatever the image's size.

    Images are uint8 [n, h, w, 3] or float in [0, 1]; h, w >= 16.
    """
    return average_cells(to_luminance(x), LAYOUT, LAYOUT).flatten(1)


@on_images
def edge_layout(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 128"]:
    """Mean gradient magnitude of L* / 100 by orientation and place: 8 orientations x 4 x 4 cells.

    Images with more than 64 pixels on a side are averaged to 64 on it first. Gradients are central
    differences of inner pixels, times the number of pixels per side over 16, so that they are per
    1/16 of the image whatever its size; orientation is modulo pi, shared by the two nearest of
    eight centers (period kept). A contrast-reversed edge is the same edge.
    Images are uint8 [n, h, w, 3] or float in [0, 1]; h, w >= 16.
    Source: Dalal and Triggs 2005, sec. 6 (unsigned gradients, linear votes), without block norms.
    """
    light = to_luminance(x)
    rows, columns = (min(size, COARSE) for size in light.shape[1:])
    if (rows, columns) != tuple(light.shape[1:]):
        light = average_cells(light, rows, columns)
    dx = (light[:, 1:-1, 2:] - light[:, 1:-1, :-2]) * (columns / 32)
    dy = (light[:, 2:, 1:-1] - light[:, :-2, 1:-1]) * (rows / 32)
    energy = dx.square() + dy.square()
    flat = energy == 0
    # Angle and length have no derivative at 0: flat pixels get those of (1, 0) and weight 0.
    dx = torch.where(flat, torch.ones_like(dx), dx)
    length = torch.where(flat, torch.zeros_like(dx), torch.where(flat, dx, energy).sqrt())
    turn = torch.atan2(dy, dx) * (ORIENTATIONS / math.pi)
    turn = turn - ORIENTATIONS * torch.floor(turn / ORIENTATIONS)
    votes = spread(turn, 0, 1, ORIENTATIONS + 1)
    votes = torch.cat([votes[..., :1] + votes[..., -1:], votes[..., 1:-1]], -1)
    maps = (length[..., None] * votes).permute(0, 3, 1, 2)
    return average_cells(maps, EDGE_CELLS, EDGE_CELLS).flatten(1)
