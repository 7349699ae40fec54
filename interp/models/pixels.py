"""Between images (uint8 [b, h, w, 3]) and what networks take and give (float [b, c, h, w])."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor


def to_unit(
    images: UInt8[Tensor, "b h w 3"], size: tuple[int, int], like: Tensor
) -> Float[Tensor, "b 3 H W"]:
    """Return images in [-1, 1] at `size` (height, width) pixels, antialiased where they shrink.

    (0, 0) keeps the size.
    """
    x = images.permute(0, 3, 1, 2).to(like.device, torch.float32) / 127.5 - 1
    if size not in ((0, 0), tuple(x.shape[2:])):
        x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    return x.to(like.dtype)


def to_image(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w 3"]:
    """Return [-1, 1] pixels as (x + 1) / 2, clipped to [0, 1]; differentiable inside the range.

    One channel becomes grey, further ones are dropped.
    """
    x = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
    return ((x.float().clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1)


def to_bytes(images: Float[Tensor, "b h w 3"]) -> UInt8[Tensor, "b h w 3"]:
    """Return images in [0, 1] as uint8 on the CPU, rounded to the nearest."""
    return (images * 255).round().to(torch.uint8).contiguous().cpu()


def to_uint8(x: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b h w 3"]:
    """Return [-1, 1] pixels as uint8, channels as in `to_image`."""
    return to_bytes(to_image(x))
