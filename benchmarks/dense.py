"""The dense step: a TopK autoencoder trained by plain torch, every product over all m latents.

What one writes first, and the baseline of the `train` case: autograd, `torch.optim.Adam` as it
comes, gradient projection, unit rows, counters of dead latents. The formula, the initial weights
and the rates are those of `interp.train`, so both must give the same losses.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BETAS = (0.9, 0.99)


class Shape(NamedTuple):
    """Sizes of a step."""

    d: int
    m: int
    k: int
    n: int

    def __str__(self) -> str:
        return f"(d {self.d}, m {self.m}, k {self.k}, n {self.n})"


def dense_loss(
    z: Tensor, encoder: Tensor, bias: Tensor, decoder: Tensor, offset: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Mean squared length of the error of rows [n, d], and which latents fired, [m] bool."""
    pre = F.linear(z - offset, encoder, bias)
    values, indices = pre.topk(k, dim=1)
    code = torch.zeros_like(pre).scatter(1, indices, values.relu())
    error = z - (code @ decoder + offset)
    return error.float().square().sum(dim=1).mean(), (code > 0).any(dim=0)


class Dense:
    """A TopK autoencoder with its optimizer; calling it takes a step and returns the loss.

    Args:
        shape: sizes.
        lr_at: learning rate of a step.
        mean: [d] subtracted from rows.
        scale: rows are divided by it.
        device: of weights and arithmetic.
        autocast: products in this dtype, weights in single precision; None: all single precision.
        compiled: the loss through `torch.compile`.
    """

    def __init__(
        self,
        shape: Shape,
        lr_at: Callable[[int], float],
        *,
        mean: Tensor,
        scale: float,
        device: str = "cpu",
        autocast: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        draw = torch.Generator().manual_seed(0)
        rows = F.normalize(torch.randn(shape.m, shape.d, generator=draw), dim=1).to(device)
        self.encoder, self.decoder = (rows * 0.7).requires_grad_(), rows.clone().requires_grad_()
        self.bias = torch.zeros(shape.m, device=device, requires_grad=True)
        self.offset = torch.zeros(shape.d, device=device, requires_grad=True)
        parameters = [self.encoder, self.bias, self.decoder, self.offset]
        self.optimizer = torch.optim.Adam(parameters, betas=BETAS)
        self.silent = torch.zeros(shape.m, dtype=torch.int64, device=device)
        self.mean, self.scale = mean.to(device), scale
        self.k, self.lr_at, self.step = shape.k, lr_at, 0
        self.autocast = autocast
        self.loss: Any = torch.compile(dense_loss) if compiled else dense_loss

    def __call__(self, x: Tensor) -> Tensor:
        """Take one step on raw rows [n, d]."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_at(self.step)
        self.step += 1
        z = (x.to(self.mean) - self.mean) / self.scale
        with torch.autocast(z.device.type, self.autocast, enabled=self.autocast is not None):
            loss, fired = self.loss(z, self.encoder, self.bias, self.decoder, self.offset, self.k)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            grad, rows = self.decoder.grad, self.decoder
            assert grad is not None
            grad -= (grad * rows).sum(dim=1, keepdim=True) * rows
            self.optimizer.step()
            rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            self.silent.copy_(torch.where(fired, 0, self.silent + 1))
        return loss.detach()
