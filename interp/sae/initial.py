"""Where a run's weights start, beyond what the variant itself decides: center and tied encoder."""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.sae.base import SAE
from interp.sae.losses import normalize_rows_
from interp.sae.options import Common

# Weiszfeld's iteration is linear; 100 rounds reach the tolerance on all activations tried.
ROUNDS = 100
TOLERANCE = 1e-9


def geometric_median(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The point with the least mean distance to the rows, by Weiszfeld's iteration in float64.

    y <- sum_r w_r x_r / sum_r w_r,  w_r = 1 / ||x_r - y||, from the mean until y moves less than
    1e-9 of the rows' spread. A y that falls on a row leaves it by the step of Vardi and Zhang.

    Args:
        x: [n, d] rows.

    Source: Weiszfeld 1937; Vardi and Zhang 2000, PNAS 97:1423, equation 2.6.
    """
    rows = x.double()
    y = rows.mean(dim=0)
    spread = torch.linalg.vector_norm(rows - y, dim=1).mean()
    for _ in range(ROUNDS):
        distance = torch.linalg.vector_norm(rows - y, dim=1)
        apart = distance > TOLERANCE * spread
        weight = torch.where(apart, 1 / distance.where(apart, 1.0), 0.0)
        if not bool(apart.any()):
            break
        step = weight @ (rows - y)
        # Rows at y hold it with their number, the others pull with the length of the sum of units.
        pull = torch.linalg.vector_norm(step)
        held = (~apart).sum()
        if bool(pull <= held):
            break
        move = step / weight.sum() * (1 - held / pull)
        y = y + move
        if bool(torch.linalg.vector_norm(move) <= TOLERANCE * spread):
            break
    return y


@torch.no_grad()
def start_from(sae: SAE, rows: Tensor, common: Common) -> None:
    """Set in place what the first batch decides: b_dec as the geometric median of its rows.

    Args:
        sae: with a parameter `b_dec` in the normalized units of its input.
        rows: [n, d] raw rows of the first batch.
        common: its `center`.
    """
    if common.center == "median":
        center = sae.get_parameter("b_dec")
        center.copy_(geometric_median(sae.normalize(rows)))


@torch.no_grad()
def untie(sae: SAE, seed: int) -> None:
    """Draw the directions of the encoders' rows anew, keeping their norms.

    Args:
        sae: changed.
        seed: of the run; the directions are not those that the decoder had from it.
    """
    # Beyond the seeds of runs, which are never negative.
    generator = torch.Generator().manual_seed(-1 - seed)
    for name in sae.encoders:
        weight = sae.get_parameter(name)
        norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        fresh = torch.randn(weight.shape, generator=generator).to(weight)
        normalize_rows_(fresh)
        weight.copy_(fresh * norm)
