"""The zoo's generator: a small StyleGAN2 at 32 pixels, every part a module that a hook can reach.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (arXiv 1912.04958):
mapping network, one w per layer (W+), one affine per layer (S), modulated and demodulated
convolutions, noise inputs, a sum of toRGB outputs. Differences: 4x4 transposed convolutions
upsample (no separate blur), and the noise is an explicit input.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Z_WIDTH = 128
W_WIDTH = 128
# Channels per resolution; the two high resolutions carry most of the arithmetic, so they are thin.
CHANNELS = {4: 128, 8: 96, 16: 64, 32: 32}
# Resolution of each of the seven styled convolutions, in order; every second one doubles it.
LAYER_SIZES = (4, 8, 8, 16, 16, 32, 32)
# Which entry of W+ feeds the toRGB of each resolution (StyleGAN2: the entry after the resolution's
# last convolution).
RGB_STYLES = (1, 3, 5, 7)
N_STYLES = 8
MAPPING_LAYERS = 4
# StyleGAN2, table of training details: the mapping network learns 100 times slower.
MAPPING_LR = 0.01


class EqualLinear(nn.Module):
    """Linear layer, its weight scaled at run time by 1 / sqrt(d_in): equalized learning rate."""

    def __init__(self, d_in: int, d_out: int, *, bias: float = 0.0, lr: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d_out, d_in) / lr)
        self.bias = nn.Parameter(torch.full((d_out,), bias / lr))
        self.gain, self.lr = lr / math.sqrt(d_in), lr

    def forward(self, x: Float[Tensor, "b d_in"]) -> Float[Tensor, "b d_out"]:
        """Return x W^T gain + b."""
        return F.linear(x, self.weight * self.gain, self.bias * self.lr)


class Mapping(nn.Module):
    """Mapping network: z, normalized to unit mean square, through four leaky linear layers to w."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EqualLinear(Z_WIDTH if i == 0 else W_WIDTH, W_WIDTH, lr=MAPPING_LR)
            for i in range(MAPPING_LAYERS)
        )

    def forward(self, z: Float[Tensor, "b 128"]) -> Float[Tensor, "b 128"]:
        """Return w [b, 128]."""
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2) * math.sqrt(2)
        return x


class NoiseInput(nn.Module):
    """Scale one noise map per sample by a learned strength; the output is added to the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, noise: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Return strength * noise."""
        return noise * self.strength


class StyledConv(nn.Module):
    """Modulated, demodulated convolution, noise, bias, leaky ReLU; `up` doubles the resolution.

    y = d * conv(s * x), d = 1 / sqrt(sum over inputs and taps of (weight * s)^2), the unfused form
    of StyleGAN2 eq. 1-3.
    """

    def __init__(self, c_in: int, c_out: int, *, up: bool):
        super().__init__()
        taps = 4 if up else 3
        shape = (c_in, c_out, taps, taps) if up else (c_out, c_in, taps, taps)
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.affine = EqualLinear(W_WIDTH, c_in, bias=1.0)
        self.noise = NoiseInput()
        self.up = up
        # An output of the transposed 4x4 convolution with stride 2 sees 2x2 taps.
        self.gain = 1 / math.sqrt(c_in * (4 if up else 9))

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        w: Float[Tensor, "b 128"],
        noise: Float[Tensor, "b 1 H W"],
    ) -> Float[Tensor, "b d H W"]:
        """Return the layer's map [b, c_out, H, W], H = 2h where the layer upsamples."""
        style = self.affine(w)
        weight = self.weight * self.gain
        power = weight.square().sum((2, 3))
        power = power.T if self.up else power
        demodulate = torch.rsqrt(style.square() @ power.T * (0.25 if self.up else 1.0) + 1e-8)
        x = x * style[:, :, None, None]
        x = (
            F.conv_transpose2d(x, weight, stride=2, padding=1)
            if self.up
            else F.conv2d(x, weight, padding=1)
        )
        x = x * demodulate[:, :, None, None] + self.noise(noise) + self.bias[:, None, None]
        return F.leaky_relu(x, 0.2) * math.sqrt(2)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, not demodulated; a part of the image."""

    def __init__(self, c_in: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, c_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = EqualLinear(W_WIDTH, c_in, bias=1.0)
        self.gain = 1 / math.sqrt(c_in)

    def forward(
        self, x: Float[Tensor, "b c h w"], w: Float[Tensor, "b 128"]
    ) -> Float[Tensor, "b 3 h w"]:
        """Return this resolution's part of the image [b, 3, h, w]."""
        style = self.affine(w)
        return F.conv2d(x * style[:, :, None, None], self.weight * self.gain, self.bias)


class Generator(nn.Module):
    """StyleGAN2-like generator of 32x32 RGB images, 0.81 M parameters.

    Hookable modules: `mapping` (w), `layers.<l>` (map), `layers.<l>.affine` (s[l]),
    `layers.<l>.noise` (noise map), `rgbs.<r>` (part of the image), `rgbs.<r>.affine`. Layer l takes
    w_plus[:, l]; `rgbs.<r>` takes w_plus[:, 2r + 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.mapping = Mapping()
        self.constant = nn.Parameter(torch.randn(1, CHANNELS[4], 4, 4))
        sizes = (4, *LAYER_SIZES)
        self.layers = nn.ModuleList(
            StyledConv(CHANNELS[a], CHANNELS[b], up=a != b)
            for a, b in zip(sizes[:-1], LAYER_SIZES, strict=True)
        )
        self.rgbs = nn.ModuleList(ToRGB(c) for c in CHANNELS.values())
        self.register_buffer("w_mean", torch.zeros(W_WIDTH))
        self.w_mean: Tensor

    def forward(
        self,
        z: Float[Tensor, "b 128"] | None = None,
        *,
        w: Float[Tensor, "b 128"] | None = None,
        w_plus: Float[Tensor, "b 8 128"] | None = None,
        noise: Sequence[Float[Tensor, "b 1 h w"]] | None = None,
        truncation: float = 1.0,
    ) -> Float[Tensor, "b 3 32 32"]:
        """Return images [b, 3, 32, 32], about [-1, 1] but not clipped.

        Args:
            z: Gaussian codes [b, 128]; exactly one of z, w and w_plus is given.
            w: mapped codes [b, 128], shared by all layers.
            w_plus: one code per layer [b, 8, 128].
            noise: seven maps [b, 1, h, h], h = 4, 8, 8, 16, 16, 32, 32 (see `sample_inputs`); None:
                no noise.
            truncation: psi in w_mean + psi (w - w_mean); applies to z and w.

        Raises:
            ValueError: not exactly one of z, w and w_plus.
        """
        if sum(x is not None for x in (z, w, w_plus)) != 1:
            raise ValueError("Generator takes exactly one of z, w and w_plus")
        if z is not None:
            w = self.mapping(z)
        if w is not None:
            if truncation != 1.0:
                w = torch.lerp(self.w_mean, w, truncation)
            w_plus = w[:, None].expand(-1, N_STYLES, -1)
        assert w_plus is not None
        return self.synthesize(w_plus, noise)

    def synthesize(
        self, w_plus: Float[Tensor, "b 8 128"], noise: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "b 3 32 32"]:
        """Return images from one code per layer and seven noise maps (None: no noise)."""
        styles = w_plus.unbind(1)
        if noise is None:
            noise = [w_plus.new_zeros(len(w_plus), 1, h, h) for h in LAYER_SIZES]
        x = self.constant.expand(len(w_plus), -1, -1, -1)
        image: Tensor | None = None
        for i, layer in enumerate(self.layers):
            x = layer(x, styles[i], noise[i])
            if i % 2 == 0:
                part = self.rgbs[i // 2](x, styles[RGB_STYLES[i // 2]])
                image = part if image is None else _double(image) + part
        assert image is not None
        return image


def _double(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 H W"]:
    return F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)


def sample_inputs(
    seeds: Sequence[int], *, device: str | torch.device = "cpu"
) -> tuple[Float[Tensor, "b 128"], list[Float[Tensor, "b 1 h w"]]]:
    """Return z [b, 128] and the seven noise maps [b, 1, h, h]; sample i depends on seeds[i] alone.

    One generator per seed draws z first and then the maps, so that no two share a number.

    Args:
        seeds: one seed per sample; drawn on the CPU, so that devices agree.
        device: where they go.
    """
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(Z_WIDTH, generator=generator)
        drawn.append((z, *(torch.randn(1, h, h, generator=generator) for h in LAYER_SIZES)))
    z, *noise = (torch.stack(parts).to(device) for parts in zip(*drawn, strict=True))
    return z, noise
