"""Pure functions that the variants share: initial weights, unit rows, losses."""

import contextlib

import torch
import torch.nn.functional as F
from interp_kernels import auxk
from jaxtyping import Bool, Float
from torch import Tensor

# AuxK has far fewer latents per active one than the code (c / aux_k, not m / k): what is best for
# the run is not best for it, so that it chooses by its own numbers.
AUX_BACKEND = "auto"


def exact(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """No autocast inside, where there is one for the device of x: for the kernels' own products."""
    device = x.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def lowered(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in the dtype in which autocast takes products, for kernels that it does not know."""
    device = tensors[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) for tensor in tensors)


def unit_rows(n_latents: int, d_in: int, seed: int) -> Float[Tensor, "m d"]:
    """Draw directions uniformly from the unit sphere.

    Args:
        n_latents: m, number of rows.
        d_in: d, length of a row.
        seed: of a private generator; the global one is left alone.

    Returns:
        [m, d] float32 rows of norm 1.
    """
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n_latents, d_in, generator=generator), dim=1)


@torch.no_grad()
def project_gradient_(weight: Tensor) -> None:
    """Remove from the gradient of unit rows the part that would only change their norm.

    g <- g - <g, w> w    (Bricken et al. 2023, "Towards Monosemanticity", appendix "Autoencoder
    training")

    Args:
        weight: [m, d] parameter whose rows have norm 1; its `.grad` is changed in place.
    """
    if weight.grad is not None:
        weight.grad -= (weight.grad * weight).sum(dim=1, keepdim=True) * weight


@torch.no_grad()
def normalize_rows_(weight: Tensor) -> None:
    """Give every row norm 1 in place; a row of zeros stays zero."""
    norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    weight /= torch.where(norm > 0, norm, 1.0)


def mean_square(error: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean over rows of the squared length: (1/n) sum_r ||e_r||^2.

    On rows scaled so that the data's mean squared length is 1, this is the fraction of variance
    unexplained.
    """
    return error.square().sum(dim=1).mean()


def dead_capacity(dead: Bool[Tensor, " m"], aux_k: int) -> int | None:
    """Bound of the dead set that AuxK serves in one step.

    On a GPU a number that the host knows, so that nothing waits: a quarter of the latents, at least
    aux_k. Dead latents beyond it are served once lower ones fire again. On a CPU the exact number.

    Args:
        dead: [m] bool.
        aux_k: dead latents per row.

    Returns:
        The bound, or None for the exact number.
    """
    m = len(dead)
    return None if dead.device.type == "cpu" else min(m, max(aux_k, m // 4))


def auxk_loss(
    normalized: Float[Tensor, "n d"],
    residual: Float[Tensor, "n d"],
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    dead: Bool[Tensor, " m"],
    aux_k: int,
) -> Float[Tensor, ""]:
    """Let the dead latents alone explain the residual, so that gradient reaches their encoder rows.

    p = (x - center) W_dead^T + b_dead,
    e_hat = sum of the aux_k largest max(p, 0) times their decoder rows,
    loss = (1/n) sum_r ||e_r - e_hat_r||^2 with the residual e held fixed

    Args:
        normalized: [n, d] centered and scaled rows x.
        residual: [n, d] x - x_hat; detached here.
        weights: encoder [m, d], its bias [m], decoder [m, d], and the center [d], the shift of the
            encoder's input, which is held fixed: AuxK moves dead latents only.
        dead: [m] bool, True for latents that have not fired in the window; of none the loss is 0.
        aux_k: dead latents per row, cut to their number.

    Returns:
        The scalar loss. Gradients reach the dead rows of encoder, bias and decoder and nothing
        else.

    Source: Gao et al. 2024 (arXiv 2406.04093), section 2.4 and appendix A.2.
    """
    # A GPU is not asked: AuxK of no dead latent is 0 there too.
    if dead.device.type == "cpu" and not bool(dead.any()):
        return normalized.new_zeros(())
    encoder, bias, decoder, center = weights
    capacity = dead_capacity(dead, aux_k)
    with exact(normalized):
        bias = bias - encoder @ center.detach()
        found = auxk(
            normalized, residual.detach(), encoder, bias, decoder, dead, aux_k, capacity=capacity,
            backend=AUX_BACKEND,
        )  # fmt: skip
    return found.loss
