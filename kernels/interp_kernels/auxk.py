"""AuxK: dead latents alone explain the residual, so that gradient reaches their encoder rows.

    p = x W_enc[D]^T + b[D]   over the dead set D,      S(r) = the a largest entries of p[r]
    e_hat[r] = sum over S(r) of max(p, 0) W_dec[j],     loss = (1/n) sum_r |e[r] - e_hat[r]|^2

with the residual e held fixed. With q = 2 (e_hat - e) / n and P the selected positive p:

    dW_dec[j] = sum P[r, j] q[r],  dp = <q[r], W_dec[j]> where P > 0,  dW_enc[j] = sum dp x[r],
    db[j] = sum dp

Since a is about d / 2, the job is dense below m / a = 184 (the crossover of sparse work): the dead
rows are compacted into [c, d] tables and five products of n c d follow; above, the selected entries
go through the sparse ops. The capacity c bounds the dead set by a number known to the host, so a
GPU never waits: places beyond the dead count hold living latents that select nothing and get zero
gradient. More dead latents than c: the lowest c are served, the rest once these fire.
Source: Gao et al. 2024 (arXiv 2406.04093), section 2.4 and appendix A.2.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_kernels import _backend
from interp_kernels._backend import KernelError
from interp_kernels.csc import csc_from_indices
from interp_kernels.encode_topk import select_topk
from interp_kernels.sparse_decode import sparse_decode
from interp_kernels.sparse_decode_bwd import sparse_decode_bwd
from interp_kernels.sparse_encode_bwd import sparse_encode_bwd


class AuxK(NamedTuple):
    """Loss and compact gradients of AuxK."""

    loss: Tensor
    """[] mean over rows of the squared length of e - e_hat; 0 where no latent is dead."""
    latents: Tensor
    """[c] int64, the latents of the gradients' rows, each once."""
    encoder: Tensor
    """[c, d] gradient of W_enc."""
    bias: Tensor
    """[c] gradient of b."""
    decoder: Tensor
    """[c, d] gradient of W_dec."""


def auxk_reference(
    x: Tensor,
    residual: Tensor,
    encoder: Tensor,
    bias: Tensor,
    decoder: Tensor,
    dead: Tensor,
    aux_k: int,
) -> Tensor:
    """Readable twin of `auxk`: dense autograd over the dead rows."""
    chosen = dead.nonzero().flatten()
    if not len(chosen):
        return x.new_zeros(())
    pre = x @ encoder[chosen].T + bias[chosen]
    order = pre.detach().argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(pre).scatter(1, order[:, :aux_k], 1.0)
    estimate = (pre.relu() * kept) @ decoder[chosen]
    return (residual.detach() - estimate).square().sum(dim=1).mean()


def compact_dead(dead: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """The dead latents in front, in ascending order, without a look from the host.

    Args:
        dead: [m] bool.
        capacity: c, length of the result, at most m.

    Returns:
        latents [c] int64, each once, and their validity [c] bool (False: living latents that fill
        the place).
    """
    living, latents = (~dead).to(torch.uint8).sort(stable=True)
    return latents[:capacity], living[:capacity] == 0


def _dense(
    x: Tensor, residual: Tensor, pre: Tensor, code: Tensor, encoder: Tensor, decoder: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and gradients from the pre-activations [n, c]; `code` holds the selected max(p, 0)."""
    error = torch.addmm(residual, code, decoder, alpha=-1)
    loss = error.square().sum(dim=1).mean()
    q = error.mul_(-2 / max(1, len(x)))
    slots = torch.mm(q, decoder.T, out=pre).masked_fill_(code <= 0, 0)
    return loss, slots.T @ x, slots.sum(dim=0), code.T @ q


def _sparse(
    x: Tensor, residual: Tensor, values: Tensor, places: Tensor, decoder: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    error = residual - sparse_decode(values, places, decoder)
    loss = error.square().sum(dim=1).mean()
    q = error.mul_(-2 / max(1, len(x)))
    order = csc_from_indices(places, len(decoder))
    slots, d_dec = sparse_decode_bwd(q, values, places, decoder, order, backend=backend)
    d_enc, db = sparse_encode_bwd(slots, values, places, x, len(decoder), order, backend=backend)
    return loss, d_enc, db, d_dec


@torch.library.custom_op("interp::auxk", mutates_args=())
def _op(
    x: Tensor,
    residual: Tensor,
    encoder: Tensor,
    bias: Tensor,
    decoder: Tensor,
    dead: Tensor,
    aux_k: int,
    capacity: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    latents, valid = compact_dead(dead, capacity)
    if capacity == 0 or len(x) == 0:
        empty = torch.zeros_like(encoder[:capacity])
        return x.new_zeros(()), latents, empty, x.new_zeros(capacity), empty.clone()
    table, dictionary = encoder[latents], decoder[latents]
    pre = F.linear(x, table, bias[latents])
    if aux_k < capacity:
        # Living latents in the spare places must not be selected.
        values, places = select_topk(pre.masked_fill(~valid, -torch.inf), aux_k)
        values = values.relu()
        if backend != "dense":
            found = _sparse(x, residual, values, places, dictionary, backend)
        else:
            code = torch.zeros_like(pre).scatter_(1, places, values)
            found = _dense(x, residual, pre, code, table, dictionary)
    else:
        code = pre.relu().masked_fill_(~valid, 0)
        found = _dense(x, residual, pre, code, table, dictionary)
    loss, d_enc, db, d_dec = found
    return loss * valid[0], latents, d_enc, db, d_dec


@_op.register_fake
def _(x, residual, encoder, bias, decoder, dead, aux_k, capacity, backend):
    latents = dead.new_empty(capacity, dtype=torch.int64)
    rows = encoder.new_empty(capacity, encoder.shape[1])
    return x.new_empty(()), latents, rows, bias.new_empty(capacity), torch.empty_like(rows)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.sizes = len(inputs[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, *_others):
    if grad is None:
        return (None,) * 9
    latents, encoder, bias, decoder = ctx.saved_tensors

    def full(rows: Tensor) -> Tensor:
        out = rows.new_zeros(ctx.sizes, *rows.shape[1:])
        return out.index_copy_(0, latents, rows * grad)

    return None, None, full(encoder), full(bias), full(decoder), None, None, None, None


_op.register_autograd(_backward, setup_context=_setup)


def auxk(
    x: Tensor,
    residual: Tensor,
    encoder: Tensor,
    bias: Tensor,
    decoder: Tensor,
    dead: Tensor,
    aux_k: int,
    *,
    capacity: int | None = None,
    backend: str | None = None,
) -> AuxK:
    """Loss of the dead latents on the residual, with its gradients; formula above.

    The loss is differentiable: gradient reaches the dead rows of encoder, bias and decoder and
    nothing else. The same gradients come back as compact rows, for `fused_bwd_adam`.

    Args:
        x: [n, d] rows.
        residual: [n, d], held fixed.
        encoder: [m, d].
        bias: [m].
        decoder: [m, d].
        dead: [m] bool.
        aux_k: a, dead latents per row, cut to their number.
        capacity: c, bound of the dead set, at most m; None: their number on a CPU, m on a GPU,
            where counting would wait for the device.
        backend: "auto", "dense", "eager" or "triton", of the products.

    Returns:
        The loss and its gradients.

    Raises:
        KernelError: shapes, dtypes, devices or numbers do not fit.

    Source: Gao et al. 2024 (arXiv 2406.04093), section 2.4 and appendix A.2.
    """
    name = "auxk"
    floats = {"x": x, "residual": residual, "encoder": encoder, "bias": bias, "decoder": decoder}
    _backend.check_tensors(name, floats=floats, integers={})
    _backend.check_shape(name, "x", x, {"n": None, "d": None})
    n, d = x.shape
    _backend.check_shape(name, "encoder", encoder, {"m": None, "d": d})
    m = len(encoder)
    _backend.check_sizes(name, m=m, d=d, aux_k=aux_k)
    _backend.check_shape(name, "residual", residual, {"n": n, "d": d})
    _backend.check_shape(name, "bias", bias, {"m": m})
    _backend.check_shape(name, "decoder", decoder, {"m": m, "d": d})
    _backend.check_shape(name, "dead", dead, {"m": m})
    if dead.dtype != torch.bool or dead.device != x.device:
        raise KernelError(f"{name}: dead is {dead.dtype} on {dead.device}, not bool on {x.device}")
    if capacity is None:
        capacity = int(dead.sum()) if dead.device.type == "cpu" else m
    if not 0 <= capacity <= m:
        raise KernelError(f"{name}: capacity = {capacity} is not in 0..{m} (n_latents)")
    chosen = _backend.resolve(
        backend, device=x.device, n_latents=max(1, capacity), k=aux_k, dtype=x.dtype
    )
    return AuxK(*_op(x, residual, encoder, bias, decoder, dead, aux_k, capacity, chosen))
