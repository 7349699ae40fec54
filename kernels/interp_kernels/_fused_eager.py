"""The eager and dense twins of `fused_bwd_adam`, with stock torch operations only."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_kernels.csc import CSC
from interp_kernels.project_adam_renorm import adam_, project_rows_, renorm_rows_

Adam = tuple[Tensor, Tensor, tuple[float, float], float]

# Numbers in a block of rows on a CPU: 2 MB in fp32, the fastest of 0.25 to 4 MB (32 MB of cache).
_BLOCK = 1 << 19


class Weights(NamedTuple):
    """Parameters of an autoencoder (or a stack of S), or one of their moments."""

    decoder: Tensor
    """[S m, d], unit rows."""
    encoder: Tensor
    """[S m, d]."""
    bias: Tensor
    """[S m]."""


class Extra(NamedTuple):
    """Gradients from elsewhere (AuxK) for some latents, added before the update."""

    latents: Tensor
    """[e] int64, each latent at most once."""
    decoder: Tensor
    """[e, d]."""
    encoder: Tensor
    """[e, d], without the share of the bias: `- bias b_dec` is added here."""
    bias: Tensor
    """[e]; does not reach b_dec."""


class Slots(NamedTuple):
    """The slots of a code in latent-major order."""

    rows: Tensor
    """[n k] integer, the row of each."""
    values: Tensor
    """[n k]."""


def eager_update(
    grad: Tensor, z: Tensor, values: Tensor, order: CSC, weights: Weights, first: Weights,
    second: Weights, b_dec: Tensor, extra: Extra | None, adam: Adam,
) -> Tensor:  # fmt: skip
    """The update with stock torch operations, a block of latents at a time.

    A block's rows, gradients and moments stay in the cache from one operation to the next, and no
    fresh pages are asked for: on a CPU half the time of whole gradients.
    """
    (total, d), members = weights.decoder.shape, len(b_dec)
    on_cpu = grad.device.type == "cpu"
    m, size = total // members, max(1, _BLOCK // d) if on_cpu else total
    slots = Slots(order.positions // values.shape[1], values.flatten()[order.positions])
    back = torch.zeros_like(b_dec)
    for low in (low for s in range(members) for low in range(s * m, (s + 1) * m, size)):
        high = min(low + size, low - low % m + m)
        # Every member has as many slots, so that whole members need no look at the device.
        edges = [at * values.numel() // total for at in (low, high)]
        if on_cpu:
            edges = order.offsets[[low, high]].tolist()
        part = slice(low, high)
        w, a, b = (Weights(*(t[part] for t in group)) for group in (weights, first, second))
        own = Slots(*(t[edges[0] : edges[1]] for t in slots))
        grads = _block(grad, z, own, order.offsets[low : high + 1] - edges[0], w.decoder)
        _finish(grads, w, (a, b), b_dec[low // m], back[low // m], extra, low, adam)
    return back


def _block(grad: Tensor, z: Tensor, slots: Slots, offsets: Tensor, decoder: Tensor) -> Weights:
    """Gradients of a block of latents, the encoder's without its bias share."""
    rows, values = slots
    if len(rows) == 0:
        empty = torch.zeros_like(decoder)
        return Weights(empty, empty.clone(), decoder.new_zeros(len(decoder)))
    owners = torch.repeat_interleave(offsets.diff(), output_size=len(rows))
    # The products of a latent with its rows: the derivative of a bag by its weights, see
    # `slot_products`, with latents as bags and rows as the table.
    found = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        decoder, grad, rows, offsets[:-1].to(rows.dtype), owners.to(rows.dtype), 0
    ).masked_fill_(values <= 0, 0)
    d_decoder, d_encoder = (
        F.embedding_bag(
            rows, table, offsets.to(rows.dtype), mode="sum", per_sample_weights=share,
            include_last_offset=True,
        )
        for table, share in ((grad, values), (z, found))
    )  # fmt: skip
    bias = torch.segment_reduce(found, "sum", offsets=offsets, unsafe=True)
    return Weights(d_decoder, d_encoder, bias)


def dense_update(
    grad: Tensor, z: Tensor, values: Tensor, indices: Tensor, weights: Weights, first: Weights,
    second: Weights, b_dec: Tensor, extra: Extra | None, adam: Adam,
) -> Tensor:  # fmt: skip
    """The update by products with a dense code [n, m], a member of the stack at a time."""
    members = len(b_dec)
    m, n = len(weights.bias) // members, len(values) // members
    back = torch.zeros_like(b_dec)
    for s in range(members):
        part, rows = slice(s * m, (s + 1) * m), slice(s * n, (s + 1) * n)
        w, a, b = (Weights(*(t[part] for t in group)) for group in (weights, first, second))
        places, own = indices[rows].long() - s * m, values[rows]
        found = (grad[rows] @ w.decoder.T).gather(1, places).masked_fill_(own <= 0, 0)
        code = own.new_zeros(n, m).scatter_add_(1, places, own)
        decoder = code.T @ grad[rows]
        code.zero_().scatter_add_(1, places, found)
        grads = Weights(decoder, code.T @ z[rows], code.sum(dim=0))
        _finish(grads, w, (a, b), b_dec[s], back[s], extra, s * m, adam)
    return back


def _finish(
    grads: Weights, weights: Weights, moments: tuple[Weights, Weights], b_dec: Tensor,
    back: Tensor, extra: Extra | None, low: int, adam: Adam,
) -> None:  # fmt: skip
    """From the gradients of the latents from `low` on to their new weights, in place."""
    back.addmv_(weights.encoder.T, grads.bias)
    if extra is not None:
        add_extra(grads, extra, low, on_cpu=b_dec.device.type == "cpu")
    grads.encoder.addcmul_(grads.bias[:, None], b_dec[None], value=-1)
    project_rows_(grads.decoder, weights.decoder)
    adam_(list(weights), list(grads), (list(moments[0]), list(moments[1])), *adam)
    renorm_rows_(weights.decoder)


def add_extra(grads: Weights, extra: Extra, low: int, *, on_cpu: bool) -> None:
    """Add to the gradients of the latents from `low` on what comes from elsewhere for them.

    Args:
        grads: changed.
        extra: for any latents.
        low: the first latent of grads.
        on_cpu: whether the rows that belong here may be counted; else all are added, those of
            other latents as zeros: a count would have to come back from the device.
    """
    places = extra.latents - low
    inside = (places >= 0) & (places < len(grads.bias))
    rows = list(extra[1:])
    if on_cpu:
        places, rows = places[inside], [row[inside] for row in rows]
    else:
        places = places.clamp(0, len(grads.bias) - 1)
        rows = [row * inside.view(-1, *[1] * (row.ndim - 1)) for row in rows]
    for mine, more in zip(grads, rows, strict=True):
        mine.index_add_(0, places, more.to(mine.dtype))
