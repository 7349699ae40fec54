"""The zoo's second autoencoder: one code vector per image, which alone determines the image."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from interp.zoo.images import Images
from interp.zoo.sampling import draw_normal, reconstruct, to_uint8

# Length of the code: half of `gan`'s z, a quarter of the numbers of `vae`'s 8 x 8 x 4 map.
CODE = 64
# Side of the smallest map, and widths at 32, 16, 8 and 4 pixels, as thin as `vae` at 32.
SIDE = 4
WIDTHS = (16, 32, 64, 96)
GROUPS = 8


class Gaussian(NamedTuple):
    """A posterior with a diagonal covariance: mean and log-variance [b, d]."""

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Float[Tensor, "b d"]:
        """Standard deviations."""
        return (0.5 * self.logvar).exp()

    def mode(self) -> Float[Tensor, "b d"]:
        """Return the mean."""
        return self.mean

    def kl(self) -> Float[Tensor, " b"]:
        """Return the divergence to N(0, 1) in nats, summed over the code.

        Kingma and Welling 2014 (arXiv 1312.6114), appendix B.
        """
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).sum(1)


class Encoded(NamedTuple):
    """What `encode` returns; named as in diffusers."""

    latent_dist: Gaussian


class Decoded(NamedTuple):
    """What `decode` returns; named as in diffusers."""

    sample: Tensor


class ResBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), 3 x 3 convolutions."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the stream after the block."""
        branch = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(branch)))


class Encoder(nn.Module):
    """Image [b, 3, 32, 32] to map [b, 96, 4, 4]: `conv_in`, `resnets.<i>`, `downsamplers.<i>`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, WIDTHS[0], 3, padding=1)
        self.resnets = nn.ModuleList(ResBlock(width) for width in WIDTHS)
        pairs = pairwise(WIDTHS)
        self.downsamplers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, padding=1) for a, b in pairs)

    def forward(self, x: Float[Tensor, "b 3 32 32"]) -> Float[Tensor, "b 96 4 4"]:
        """Return the last map."""
        x = self.conv_in(x)
        for i, block in enumerate(self.resnets):
            x = block(x)
            if i < len(self.downsamplers):
                x = self.downsamplers[i](x)
        return x


class Upsampler(nn.Module):
    """Each pixel four times, then a 3 x 3 convolution."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d H W"]:
        """Return the map at twice the side."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Decoder(nn.Module):
    """Code [b, 64] to image: `fc` (the first map), `resnets.<i>`, `upsamplers.<i>`, `conv_out`."""

    def __init__(self) -> None:
        super().__init__()
        widths = WIDTHS[::-1]
        self.fc = nn.Sequential(
            nn.Linear(CODE, widths[0] * SIDE * SIDE), nn.Unflatten(1, (widths[0], SIDE, SIDE))
        )
        self.resnets = nn.ModuleList(ResBlock(width) for width in widths)
        pairs = pairwise(widths)
        self.upsamplers = nn.ModuleList(Upsampler(a, b) for a, b in pairs)
        self.norm_out = nn.GroupNorm(GROUPS, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b 3 32 32"]:
        """Return images, about in [-1, 1]."""
        x = self.fc(z)
        for i, block in enumerate(self.resnets):
            x = block(x)
            if i < len(self.upsamplers):
                x = self.upsamplers[i](x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Posterior(nn.Module):
    """The last map to `mean` and `logvar` of the code."""

    def __init__(self) -> None:
        super().__init__()
        width = WIDTHS[-1] * SIDE * SIDE
        self.mean, self.logvar = nn.Linear(width, CODE), nn.Linear(width, CODE)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Gaussian:
        """Return the posterior; log-variances are held to what float16 can carry."""
        x = F.silu(x).flatten(1)
        return Gaussian(self.mean(x), self.logvar(x).clamp(-10, 10))


class GlobalVAE(nn.Module):
    """A variational autoencoder whose code is one vector with the prior N(0, 1).

    Used like diffusers' AutoencoderKL: `encode(x).latent_dist`, `decode(z).sample`, `config`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.posterior, self.decoder = Encoder(), Posterior(), Decoder()
        self.config = {"in_channels": 3, "sample_size": 32, "code": CODE}

    def encode(self, x: Float[Tensor, "b 3 32 32"]) -> Encoded:
        """Return the posterior of images in [-1, 1]."""
        return Encoded(self.posterior(self.encoder(x)))

    def decode(self, z: Float[Tensor, "b d"]) -> Decoded:
        """Return the images of codes."""
        return Decoded(self.decoder(z))

    def forward(self, x: Float[Tensor, "b 3 32 32"]) -> Decoded:
        """Return the reconstruction through the posterior's mean."""
        return self.decode(self.encode(x).latent_dist.mean)


def build(n_classes: int) -> nn.Module:
    """Return an untrained `GlobalVAE`; the number of categories plays no part."""
    return GlobalVAE()


def step(job: Any, x: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
    """Take one step, as `vae` does."""
    from interp.zoo.recipes import autoencoder_step

    return autoencoder_step(job, x, labels, progress)


def describe(data: Images, folder: Path) -> dict[str, Any]:
    """Return what a user of the network must know."""
    return {"code": CODE, "prior": "N(0, 1)"}


@torch.no_grad()
def sample(net: Any, seeds: Sequence[int], *, batch_size: int = 128) -> UInt8[Tensor, "n 32 32 3"]:
    """Return one image per seed: what the decoder makes of a draw from the prior.

    Args:
        net: a `GlobalVAE`.
        seeds: one per image; sample i depends on seeds[i] alone.
        batch_size: images per forward pass.
    """
    codes = draw_normal(seeds, CODE)
    return torch.cat([to_uint8(net.decode(z).sample) for z in codes.split(batch_size)])


def measure(net: Any, judged: Any) -> dict[str, Any]:
    """Return the quality of samples of the prior and of reconstructions.

    Args:
        net: the network.
        judged: `cards.Judged`.
    """
    from interp.zoo import quality
    from interp.zoo.cards import copies, distances

    train, heldout = judged.train, judged.heldout
    samples, again = sample(net, range(len(heldout))), reconstruct(net, heldout.pixels)
    spread = torch.linspace(0, len(train) - 1, len(heldout)).round().long()
    of_train = train.pixels[spread]
    return {
        **distances(judged.judge, train, heldout, samples),
        **copies(train, heldout, samples),
        "frechet_reconstructed": distances(judged.judge, train, heldout, again)["frechet"],
        "psnr": quality.psnr(again, heldout.pixels),
        "psnr_train": quality.psnr(reconstruct(net, of_train), of_train),
    }


def picture(net: Any, path: Path, heldout: Images) -> None:
    """Write 64 samples of the prior, and 32 held-out images above their reconstructions."""
    from interp.zoo import export

    chosen = heldout.pixels[torch.linspace(0, len(heldout) - 1, 32).round().long()]
    again = reconstruct(net, chosen)
    rows = [part for pair in zip(chosen.split(16), again.split(16), strict=True) for part in pair]
    export.picture(path, torch.cat([sample(net, range(64)), *rows]))
