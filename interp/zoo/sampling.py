"""Draw samples from the zoo's networks, just enough to judge them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.zoo.dit import null_class
from interp.zoo.gan import sample_inputs
from interp.zoo.nets import SCHEDULER


def to_uint8(x: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b h w 3"]:
    """Return images in [-1, 1] as bytes, channels last; values outside are clipped."""
    return x.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def to_float(pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Return bytes, channels last, as images in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def draw_normal(seeds: Sequence[int], *shape: int) -> Tensor:
    """Return standard normal numbers [n, *shape], row i from seeds[i] alone."""
    draws = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(draws)


@torch.no_grad()
def sample_gan(
    net: Any, seeds: Sequence[int], *, truncation: float = 1.0, batch_size: int = 64
) -> UInt8[Tensor, "n 32 32 3"]:
    """Return one image per seed; sample i depends on seeds[i] alone.

    Args:
        net: a `Generator`.
        seeds: one per image.
        truncation: psi, 1 for none.
        batch_size: images per forward pass.
    """
    images = []
    for start in range(0, len(seeds), batch_size):
        part = list(seeds[start : start + batch_size])
        z, noise = sample_inputs(part)
        images.append(to_uint8(net(z, noise=noise, truncation=truncation)))
    return torch.cat(images)


@torch.no_grad()
def sample_ddpm(
    net: Any,
    seeds: Sequence[int],
    labels: Sequence[int],
    *,
    steps: int = 25,
    guidance: float = 2.0,
    batch_size: int = 64,
) -> UInt8[Tensor, "n 32 32 3"]:
    """Return one class-conditional image per seed by DDIM (eta 0), guided against the null class.

    Args:
        net: the zoo's `ddpm` or `dit`; its last class is the null class.
        seeds: one per image.
        labels: class of each image.
        steps: denoiser calls.
        guidance: 1 for none.
        batch_size: images per forward pass, before guidance doubles it.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler: Any = DDIMScheduler(**SCHEDULER)
    null = null_class(net)
    images = []
    for start in range(0, len(seeds), batch_size):
        part = seeds[start : start + batch_size]
        x, y = draw_normal(part, 12, 16, 16), torch.tensor(labels[start : start + batch_size])
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            v = _guided(net, x, t.expand(len(x)), y, null, guidance)
            x = scheduler.step(v, t, x, eta=0.0).prev_sample
        images.append(to_uint8(F.pixel_shuffle(x, 2)))
    return torch.cat(images)


def _guided(net: Any, x: Tensor, t: Tensor, y: Tensor, null: int, guidance: float) -> Tensor:
    if guidance == 1.0:
        return net(x, t, class_labels=y).sample
    labels = torch.cat([torch.full_like(y, null), y])
    both = net(torch.cat([x, x]), torch.cat([t, t]), class_labels=labels).sample
    without, with_class = both.chunk(2)
    return without + guidance * (with_class - without)


@torch.no_grad()
def reconstruct(
    net: Any, pixels: UInt8[Tensor, "n 32 32 3"], *, batch_size: int = 128
) -> UInt8[Tensor, "n 32 32 3"]:
    """Return what the autoencoder makes of the images, through the posterior's mean."""
    parts = [
        net.decode(net.encode(to_float(x)).latent_dist.mode()).sample
        for x in pixels.split(batch_size)
    ]
    return to_uint8(torch.cat(parts))


@torch.no_grad()
def vit_outputs(
    net: Any, pixels: UInt8[Tensor, "n 32 32 3"], *, batch_size: int = 128
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
    """Return the encoder's pooled features and its logits."""
    features = torch.cat([net.features(to_float(x)) for x in pixels.split(batch_size)])
    return features, net.head(features)
