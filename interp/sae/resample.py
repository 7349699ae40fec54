"""Dead latents that are drawn anew from rows which the autoencoder explains badly.

Source: Bricken et al. 2023, "Towards Monosemanticity", appendix "Neuron Resampling".
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from interp.sae.base import SAE
from interp.sae.config import TrainConfig
from interp.sae.losses import normalize_rows_
from interp.sae.options import Common

# Norm of a new encoder row over the mean norm of the alive ones (the source's appendix).
NORM = 0.2
# Resamplings of a run (the source: every 25,000 of 200,000 steps).
TIMES = 8


def is_due(config: TrainConfig, common: Common, step: int) -> bool:
    """Whether dead latents are drawn anew after a step, from 0.

    Never while the rate falls: what is drawn then has no time left to learn.
    """
    if common.dead != "resample":
        return False
    done = step + 1
    every = common.resample_every or max(1, config.steps // TIMES)
    return done % every == 0 and done < (1 - config.decay) * config.steps


def starts_of(sae: SAE) -> dict[str, Tensor]:
    """Copies of the parameters [m], biases and the like, of a fresh autoencoder."""
    # b_dec has the same shape where m = d, but its numbers belong to coordinates, not to latents.
    return {
        name: parameter.detach().clone()
        for name, parameter in sae.named_parameters()
        if name != "b_dec" and parameter.shape == (sae.n_latents,)
    }


@torch.no_grad()
def resample_(
    sae: SAE,
    optimizer: torch.optim.Optimizer,
    dead: Tensor,
    x: Tensor,
    starts: Mapping[str, Tensor],
    seed: int,
) -> Tensor:
    """Draw dead latents anew.

    A row r is drawn with probability ~ ||x_r - x_hat_r||^4, none twice. With u the unit vector of
    z_r - b_dec: decoder row <- u, encoder rows <- 0.2 u times the mean norm of the alive ones,
    parameters [m] <- their first values, Adam's moments of all of these <- 0. Latents beyond the
    number of rows wait for the next time.

    Args:
        sae: changed.
        optimizer: Adam of its parameters, changed.
        dead: [m] bool.
        x: [n, d] raw rows.
        starts: `starts_of` the fresh autoencoder.
        seed: of the draw; the global generator is left alone.

    Returns:
        [e] int64, the latents drawn.
    """
    rows = _draw_rows(sae, x, int(dead.sum()), seed)
    latents = dead.nonzero().flatten()[: len(rows)]
    if not len(latents):
        return latents
    directions = sae.normalize(x[rows]) - sae.offset()
    normalize_rows_(directions)
    alive = ~dead
    _put(optimizer, sae.get_parameter("W_dec"), latents, directions)
    for name in sae.encoders:
        weight = sae.get_parameter(name)
        norms = torch.linalg.vector_norm(weight[alive] if bool(alive.any()) else weight, dim=1)
        _put(optimizer, weight, latents, directions * (NORM * norms.mean()))
    for name, start in starts.items():
        parameter = sae.get_parameter(name)
        _put(optimizer, parameter, latents, start.to(parameter.device)[latents])
    return latents


def _draw_rows(sae: SAE, x: Tensor, count: int, seed: int) -> Tensor:
    """[<= count] places of rows, by the square of their loss, without repeats."""
    weight = (x.to(sae.mean.dtype) - sae(x)).square().sum(dim=1).double().square().cpu()
    # A row that is explained exactly cannot be drawn.
    count = min(count, int((weight > 0).sum()))
    if not count:
        return torch.zeros(0, dtype=torch.int64, device=x.device)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(weight, count, generator=generator).to(x.device)


def _put(
    optimizer: torch.optim.Optimizer, parameter: Tensor, latents: Tensor, values: Tensor
) -> None:
    parameter[latents] = values.to(parameter.dtype)
    for name, moment in optimizer.state[parameter].items():
        if name != "step":
            moment[latents] = 0
