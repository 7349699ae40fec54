"""One training step over several ranks: fused where a rank has the whole batch, else by autograd.

Where the batch is split too, gradients have to be summed before Adam sees them, which the fused
kernel does not wait for. Both steps leave the same weights up to rounding.
"""

import torch
from interp_kernels import (
    Extra,
    csc_from_indices,
    dead_update_,
    fused_bwd_adam,
    project_adam_renorm_,
)
from torch import Tensor

from interp.sae.sharded import Dead, ShardedTopK
from interp.sae.step import BETAS, Stack


def autograd_step(
    sae: ShardedTopK,
    optimizer: torch.optim.Optimizer,
    silent: Tensor,
    x: Tensor,
    rows: int,
    dead: Dead,
    rates: tuple[float, float],
) -> Tensor:
    """Take a step by autograd: the readable twin of `fused_step`, for every layout.

    Args:
        sae: this rank's part, changed.
        optimizer: of its parameters, changed.
        silent: [p] int64, steps since each own latent fired; changed.
        x: [n, d] raw rows, this rank's part of the batch.
        rows: of the whole batch.
        dead: the dead latents.
        rates: learning rate, and weight of AuxK.

    Returns:
        [3] float64 on the device: this rank's parts of reconstruction, aux, and active latents per
        row.
    """
    for group in optimizer.param_groups:
        group["lr"] = rates[0]
    losses = sae.loss_terms(x, rows, dead)
    optimizer.zero_grad(set_to_none=True)
    (losses.reconstruction + rates[1] * losses.aux).backward()
    sae.finish_gradients()
    optimizer.step()
    sae.after_step()
    with torch.no_grad():
        silent.copy_(torch.where(sae.fired(losses.code), 0, silent + 1))
        active = (losses.code.values > 0).sum().double() / rows
        return torch.stack((losses.reconstruction.double(), losses.aux.double(), active))


@torch.no_grad()
def fused_step(
    sae: ShardedTopK, stack: Stack, x: Tensor, dead: Dead, rates: tuple[float, float]
) -> Tensor:
    """Take a step with `interp_kernels.fused_bwd_adam` on the rank's own latents.

    Args:
        sae: this rank's part.
        stack: its tables (`open_stack([sae], ...)`), changed.
        x: [n, d] raw rows of the whole batch.
        dead: the dead latents.
        rates: learning rate, and weight of AuxK.

    Returns:
        See `autograd_step`.
    """
    stack.lr.fill_(rates[0])
    stack.count += 1
    z = sae.normalize(x)
    code = sae.encode(z)
    values, indices = code.values, code.indices
    assert indices is not None
    error = z - sae.decode(code)
    reconstruction = error.square().sum() / len(x)
    aux, extra = _aux(sae, z, error, dead, rates[1])
    grad = error.mul_(-2 / len(x))
    back = fused_bwd_adam(
        grad, values, indices, z, stack.weights, stack.moments, stack.b_dec, stack.lr, stack.count,
        order=csc_from_indices(indices, len(stack.silent)), extra=extra, betas=BETAS,
    )  # fmt: skip
    b_grad = grad.sum(dim=0) - sae.mesh.sum_(back, "latents")
    project_adam_renorm_(
        stack.b_dec, b_grad, *stack.b_moments, stack.lr, stack.count, unit_rows=False, betas=BETAS
    )
    dead_update_(stack.silent, values, indices)
    active = (values > 0).sum().double() / len(x)
    return torch.stack((reconstruction.double(), aux.double(), active))


def _aux(
    sae: ShardedTopK, z: Tensor, error: Tensor, dead: Dead, coefficient: float
) -> tuple[Tensor, Extra | None]:
    """AuxK's loss, and the gradients of its own latents times the coefficient."""
    if not sum(dead.counts):
        return z.new_zeros(()), None
    chosen = sae.choose(dead)
    weight, dictionary = sae.W_enc[chosen.latents], sae.W_dec[chosen.latents]
    bias = sae.b_enc[chosen.latents] - weight @ sae.b_dec
    leaves = [part.detach().requires_grad_() for part in (dictionary, weight, bias)]
    with torch.enable_grad():
        loss = sae.aux(z, error, chosen, leaves[1], leaves[0], leaves[2]) / len(z)
        if not len(bias):
            return loss.detach(), None
        grads = torch.autograd.grad(loss * coefficient, leaves)
    return loss.detach(), Extra(chosen.latents, *grads)
