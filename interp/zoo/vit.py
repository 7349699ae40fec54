"""The zoo's vision transformer on 32x32 images: supervised with a head, or without one."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PATCH = 4
GRID = 8
WIDTH = 96


class Attention(nn.Module):
    """Multi-head self-attention; the output is the branch that the block adds to its stream."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return the attention branch [b, t, d]."""
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))


class MLP(nn.Module):
    """Two linear layers with GELU and four times the width between; the output is the branch."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Linear(width, 4 * width)
        self.second = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return the MLP branch [b, t, d]."""
        return self.second(F.gelu(self.first(x)))


class Block(nn.Module):
    """Pre-norm transformer block: x + attn(norm1 x), then x + mlp(norm2 x)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return the residual stream after the block [b, t, d]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Vision transformer: 64 patches of 4x4 pixels, six blocks, mean over patches, a linear head.

    Without classes there is no head, and the output is the mean itself.

    Hookable modules: `patch` (a convolution, [b, d, 8, 8]), `blocks.<i>` (stream [b, 64, d],
    row-major patches), `blocks.<i>.attn`, `blocks.<i>.mlp` (branches), `norm`, `head`.
    """

    def __init__(
        self, n_classes: int | None, *, width: int = WIDTH, depth: int = 6, heads: int = 4
    ):
        super().__init__()
        self.patch = nn.Conv2d(3, width, PATCH, PATCH)
        self.position = nn.Parameter(torch.randn(1, GRID * GRID, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Identity() if n_classes is None else nn.Linear(width, n_classes)

    def features(self, image: Float[Tensor, "b 3 32 32"]) -> Float[Tensor, "b d"]:
        """Return the mean of the normalised patch tokens [b, d], from images in [-1, 1]."""
        x = self.patch(image).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x).mean(1)

    def forward(self, image: Float[Tensor, "b 3 32 32"]) -> Float[Tensor, "b n_classes"]:
        """Return class logits [b, n_classes] (no head: features), from images in [-1, 1]."""
        return self.head(self.features(image))
