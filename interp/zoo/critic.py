"""The discriminator of the zoo's GAN and its differentiable augmentation; neither is shipped."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp.zoo.gan import EqualLinear


class EqualConv(nn.Module):
    """Convolution with a run-time weight scale of 1 / sqrt(fan in) (equalised learning rate)."""

    def __init__(self, c_in: int, c_out: int, taps: int, *, stride: int = 1, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, taps, taps))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.gain, self.stride, self.padding = (
            1 / math.sqrt(c_in * taps**2),
            stride,
            (taps - stride + 1) // 2,
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d H W"]:
        """Return the convolved map."""
        return F.conv2d(x, self.weight * self.gain, self.bias, self.stride, self.padding)


class CriticBlock(nn.Module):
    """Residual block that halves the resolution: 3x3, 4x4 with stride 2; pooled 1x1 skip."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.first = EqualConv(c_in, c_in, 3)
        self.second = EqualConv(c_in, c_out, 4, stride=2)
        self.skip = EqualConv(c_in, c_out, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d H W"]:
        """Return the map at half the resolution, variance kept by 1 / sqrt(2)."""
        y = F.leaky_relu(self.first(x), 0.2) * math.sqrt(2)
        y = F.leaky_relu(self.second(y), 0.2) * math.sqrt(2)
        return (y + self.skip(F.avg_pool2d(x, 2))) * math.sqrt(0.5)


class Critic(nn.Module):
    """Discriminator on the 12 x 16 x 16 pixel-unshuffled image, with a minibatch channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = EqualConv(12, 64, 3)
        self.blocks = nn.Sequential(CriticBlock(64, 96), CriticBlock(96, 128))
        self.last = EqualConv(129, 128, 3)
        self.hidden = EqualLinear(128 * 16, 128)
        self.out = EqualLinear(128, 1)

    def forward(self, image: Float[Tensor, "b 3 32 32"]) -> Float[Tensor, " b"]:
        """Return one logit per image; larger is more real."""
        x = F.pixel_unshuffle(image, 2)
        if image.is_contiguous(memory_format=torch.channels_last):
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.blocks(F.leaky_relu(self.stem(x), 0.2) * math.sqrt(2))
        x = F.leaky_relu(self.last(_with_spread(x)), 0.2) * math.sqrt(2)
        x = F.leaky_relu(self.hidden(x.flatten(1)), 0.2) * math.sqrt(2)
        return self.out(x)[:, 0]


def _with_spread(x: Float[Tensor, "b c h w"], group: int = 8) -> Float[Tensor, "b c1 h w"]:
    """Append the mean deviation in groups of eight samples (Karras et al. 2018, sec. 3)."""
    b, c, h, w = x.shape
    group = math.gcd(group, b)
    spread = x.reshape(group, b // group, c, h, w)
    spread = (spread.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, spread.repeat(group)[:, None, None, None].expand(b, 1, h, w)], 1)


def augment(
    x: Float[Tensor, "b 3 h w"], generator: torch.Generator, *, fill: float = 1.0
) -> Float[Tensor, "b 3 h w"]:
    """Return x after random color, translation and cutout (Zhao et al. 2020, arXiv 2006.10738).

    Args:
        x: images in [-1, 1].
        generator: source of all randomness, on the device of x.
        fill: value that translation shows at the border (1: the white on which glyphs stand).
    """
    return _cutout(_translate(_color(x, generator), generator, fill), generator)


def _uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device, dtype=x.dtype)


def _color(x: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness +-0.5, saturation x[0, 2], contrast x[0.5, 1.5], as in the paper."""
    x = x + _uniform(x, generator) - 0.5
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * _uniform(x, generator) * 2
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (_uniform(x, generator) + 0.5)


def _translate(x: Tensor, generator: torch.Generator, fill: float) -> Tensor:
    """Shift by up to an eighth of the size in both directions."""
    b, _, h, w = x.shape
    reach = h // 8
    shift = torch.randint(-reach, reach + 1, (2, b), generator=generator, device=x.device)
    rows = torch.arange(h, device=x.device) + reach + shift[0][:, None]
    columns = torch.arange(w, device=x.device) + reach + shift[1][:, None]
    padded = F.pad(x, (reach,) * 4, value=fill).permute(0, 2, 3, 1)
    index = torch.arange(b, device=x.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(x: Tensor, generator: torch.Generator) -> Tensor:
    """Set a square of half the size at a random place to zero."""
    b, _, h, w = x.shape
    center = torch.rand(2, b, generator=generator, device=x.device)
    y = torch.arange(h, device=x.device)[None] - (center[0] * h).floor()[:, None]
    z = torch.arange(w, device=x.device)[None] - (center[1] * w).floor()[:, None]
    hole = (y.add(0.5).abs() < h / 4)[:, :, None] & (z.add(0.5).abs() < w / 4)[:, None, :]
    return x * (~hole)[:, None].to(x.dtype)
