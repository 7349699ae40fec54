"""One training step: fused for TopK in plain settings, by autograd for everything else.

The fused step takes the gradients of TopK's loss from their formulas, per latent, and hands them to
Adam at once (`interp_kernels.fused_bwd_adam`): one encoder product, one selection, and work on the
n k active slots. The autograd step is its slow twin; both leave the same weights up to rounding.
Nothing here asks a GPU for a number, so its queue never runs dry. On a CPU, where asking is free,
work is skipped where no latent is dead.

Products in 16 bits (`open_stack(dtype=...)`) choose other latents near the threshold: approximate,
and for GPUs. On a CPU they pay with AVX-512 bf16 instructions only: without these (Zen 3), one
product of 2048 x 512 x 4096 takes 0.90 s in bf16 and 0.10 s in fp32, so that a selection in bf16
with fp32 re-scoring has nothing to gain and is not offered.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from interp_kernels import (
    Extra,
    Weights,
    auxk,
    csc_from_indices,
    dead_update_,
    decode_loss,
    encode_topk,
    fused_bwd_adam,
    project_adam_renorm_,
    select_topk,
    sparse_decode,
)
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE, Context
from interp.sae.batches import Batch
from interp.sae.config import TrainConfig
from interp.sae.losses import AUX_BACKEND, dead_capacity, mean_square
from interp.sae.options import Common, split_options
from interp.sae.topk import TopK

# beta2 of 0.999 forgets too slowly for 1500 steps: FVU .137 and 94 % of planted atoms against .112
# and 99 %.
BETAS = (0.9, 0.99)


@dataclass
class Stack:
    """TopK autoencoders of one shape whose parameters and moments lie in common tables.

    The parameters of `saes` and the states of their optimizers are views of these tables, so a
    step of the stack is a step of each, and each can be saved by itself.
    """

    saes: list[TopK]
    weights: Weights
    moments: tuple[Weights, Weights]
    b_dec: Tensor
    """[S, d]."""
    b_moments: tuple[Tensor, Tensor]
    """[S, d] each."""
    silent: Tensor
    """[S m] int64, steps since each latent fired."""
    count: Tensor
    """[] fp32, steps taken."""
    lr: Tensor
    """[] fp32, learning rate of the step."""
    pre: Tensor
    """Room for the pre-activations, used again in each step: fresh pages cost a tenth of one."""
    copies: tuple[Tensor, Tensor] | None = None
    """[S m, d] decoder and encoder in the dtype of the products; None: the weights themselves."""


def can_fuse(sae: SAE, common: Common | None = None) -> bool:
    """Whether the fused step knows this autoencoder and these options.

    A TopK in single or double precision; dead latents by AuxK, whole batches, no autocast, no clip.
    """
    plain = common is None or (
        common.dead in ("auto", "auxk")
        and (common.accumulate, common.precision, common.clip) == (1, "float32", 0)
    )
    return plain and type(sae) is TopK and sae.W_enc.dtype in (torch.float32, torch.float64)


def open_stack(
    saes: Sequence[TopK],
    optimizers: Sequence[torch.optim.Adam],
    silent: Sequence[Tensor],
    *,
    dtype: torch.dtype | None = None,
) -> Stack:
    """Move autoencoders and the states of their optimizers into common tables.

    Args:
        saes: of one width, n_latents, k and aux_k, on one device.
        optimizers: theirs, fresh or restored, all after the same number of steps.
        silent: [m] int64 counters of each.
        dtype: of rows and weights in the products; None is the weights' own. Weights and moments
            stay as they are.

    Returns:
        The stack; parameters, optimizer states and counters given are now views of it.
    """
    states = [_adam_state(optimizer) for optimizer in optimizers]

    def together(name: str, key: str | None) -> Tensor:
        parameters = [getattr(sae, name) for sae in saes]
        if key is None:
            table = _table([parameter.data for parameter in parameters])
            for parameter, view in zip(parameters, _views(table, parameters), strict=True):
                parameter.data = view
            return table
        table = _table([state[p][key] for state, p in zip(states, parameters, strict=True)])
        views = _views(table, parameters)
        for state, parameter, view in zip(states, parameters, views, strict=True):
            state[parameter][key] = view
        return table

    names = ("W_dec", "W_enc", "b_enc")
    weights, *moments = (
        Weights(*(together(name, key) for name in names)) for key in (None, "exp_avg", "exp_avg_sq")
    )
    b_dec, *b_moments = (together("b_dec", key) for key in (None, "exp_avg", "exp_avg_sq"))
    count = next(iter(states[0].values()))["step"]
    for state in states:
        for values in state.values():
            values["step"] = count
    copies = None
    if dtype is not None and dtype != b_dec.dtype:
        copies = (weights.decoder.to(dtype), weights.encoder.to(dtype))
    shape = (len(saes), saes[0].d_in)
    return Stack(
        list(saes), weights, (moments[0], moments[1]), b_dec.view(shape),
        (b_moments[0].view(shape), b_moments[1].view(shape)), _table(list(silent)), count,
        torch.zeros_like(count), b_dec.new_empty(0), copies,
    )  # fmt: skip


def _adam_state(optimizer: torch.optim.Adam) -> Any:
    """The optimizer's state, made as its first step would make it."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if not optimizer.state[p]:
                optimizer.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
    return optimizer.state


def _table(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _views(table: Tensor, parts: list[nn.Parameter]) -> list[Tensor]:
    return [table] if len(parts) == 1 else list(table.split([len(part) for part in parts]))


@torch.no_grad()
def fused_step(
    stack: Stack, rows: Sequence[Tensor], config: TrainConfig, step: int | None
) -> Tensor:
    """Take a step of every autoencoder of a stack.

    Args:
        stack: changed: weights, moments, counters.
        rows: [n, d] raw rows of each.
        config: its rates, window and coefficient hold for all.
        step: number of the step, from 0, for the learning rate; None leaves `stack.lr` as it is:
            for a step inside a captured graph, whose rate is filled in before each replay.

    Returns:
        [S, 4] float64 on the device: reconstruction, aux, active latents per row, penalty (0).
    """
    if step is not None:
        stack.lr.fill_(config.lr_at(step))
    stack.count += 1
    n, members = len(rows[0]), len(stack.saes)
    z = _table([sae.normalize(x) for sae, x in zip(stack.saes, rows, strict=True)])
    bias = _bias(stack)
    decoder, encoder = stack.copies or stack.weights[:2]
    low = z.to(encoder.dtype)
    values, indices = _encode(stack, low, encoder, bias)
    reconstruction, error = _error(stack, low, values, indices, decoder)
    aux, extra = _aux(stack, z.view(members, n, -1), error, bias, config)
    grad = error.mul_(-2 / n).view_as(z)
    back = fused_bwd_adam(
        grad.to(low.dtype), values, indices, low, stack.weights, stack.moments, stack.b_dec,
        stack.lr, stack.count, order=csc_from_indices(indices, len(stack.silent)), extra=extra,
        copies=stack.copies, betas=BETAS,
    )  # fmt: skip
    b_grad = grad.view(members, n, -1).sum(dim=1) - back
    project_adam_renorm_(
        stack.b_dec, b_grad, *stack.b_moments, stack.lr, stack.count, unit_rows=False, betas=BETAS
    )
    dead_update_(stack.silent, values, indices)
    active = (values > 0).view(members, -1).sum(dim=1) / n
    none = torch.zeros_like(active)
    return torch.stack([reconstruction, aux, active, none], dim=1).double()


def _bias(stack: Stack) -> Tensor:
    """[S, m]: b_enc - W_enc b_dec, see TopK."""
    table = stack.weights.encoder.view(len(stack.saes), -1, stack.b_dec.shape[1])
    shift = torch.bmm(table, stack.b_dec[:, :, None]).squeeze(2)
    return stack.weights.bias.view_as(shift) - shift


def _error(
    stack: Stack, z: Tensor, values: Tensor, indices: Tensor, decoder: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss [S] and error [S, n, d], z minus its reconstruction, in the dtype of the weights."""
    members, d = stack.b_dec.shape
    if members == 1:
        offset = stack.b_dec[0].to(z.dtype)
        loss, error = decode_loss(values, indices, decoder, offset, z)
        return loss[None].to(stack.b_dec.dtype), error.to(stack.b_dec.dtype)[None]
    decoded = sparse_decode(values, indices, decoder)
    error = (z - decoded).to(stack.b_dec.dtype).view(members, -1, d).sub_(stack.b_dec[:, None])
    return torch.stack([mean_square(part) for part in error]), error


def _encode(stack: Stack, z: Tensor, encoder: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Code of [S n, d] rows: values [S n, k] and latents [S n, k] of the common tables."""
    (members, m), k, (rows, d) = bias.shape, stack.saes[0].k, z.shape
    bias = bias.to(z.dtype)
    if members == 1 and z.device.type != "cpu":
        return encode_topk(z, encoder, bias[0], k)
    if stack.pre.numel() < rows * m or stack.pre.dtype != z.dtype:
        stack.pre = z.new_empty(rows * m)
    pre = stack.pre[: rows * m].view(members, -1, m)
    if members == 1:
        torch.addmm(bias[0], z, encoder.T, out=pre[0])
    else:
        tables = encoder.view(members, m, d).transpose(1, 2)
        torch.baddbmm(bias[:, None], z.view(members, -1, d), tables, out=pre)
    values, indices = select_topk(pre.view(rows, m), k)
    if members > 1:
        first = torch.arange(members, device=z.device) * m
        indices = (indices.view(members, -1, k) + first[:, None, None]).view(rows, k)
    return values.relu(), indices


def _aux(
    stack: Stack, z: Tensor, error: Tensor, bias: Tensor, config: TrainConfig
) -> tuple[Tensor, Extra | None]:
    """AuxK's loss [S] and its gradients times the coefficient."""
    members, m = bias.shape
    dead = (stack.silent >= config.window).view(members, m)
    losses, extras = [], []
    sae = stack.saes[0]
    for s in range(members):
        # On a GPU the answer would have to come back first.
        if dead.device.type == "cpu" and not bool(dead[s].any()):
            losses.append(bias.new_zeros(()))
            continue
        own = slice(s * m, (s + 1) * m)
        capacity = dead_capacity(dead[s], sae.aux_width)
        found = auxk(
            z[s], error[s], stack.weights.encoder[own], bias[s], stack.weights.decoder[own],
            dead[s], sae.aux_width, capacity=capacity, backend=AUX_BACKEND,
        )  # fmt: skip
        losses.append(found.loss)
        grads = (found.decoder, found.encoder, found.bias)
        extras.append((found.latents + s * m, *(g * config.aux_coefficient for g in grads)))
    extra = Extra(*(_table(list(part)) for part in zip(*extras, strict=True))) if extras else None
    return torch.stack(losses), extra


def autograd_step(
    sae: SAE,
    optimizer: torch.optim.Optimizer,
    silent: Tensor,
    x: Tensor | Batch,
    config: TrainConfig,
    step: int,
    *,
    common: Common | None = None,
) -> Tensor:
    """Take a step of any variant by autograd: the readable twin of `fused_step`.

    Args:
        sae: changed.
        optimizer: of its parameters, changed.
        silent: [m] int64, steps since each latent fired; changed.
        x: [n, d] raw rows, or a batch that also holds groups and targets.
        config: rates, window and coefficient.
        step: number of the step, from 0.
        common: the options every variant takes; None: those of the config.

    Returns:
        [1, 4] float64 on the device: reconstruction, aux, active latents per row, penalty.
    """
    if common is None:
        common = split_options(type(sae), config.options)[0]
    batch = x if isinstance(x, Batch) else Batch(x, None)
    for group in optimizer.param_groups:
        group["lr"] = config.lr_at(step)
    dead = silent >= config.window
    if common.dead != "auxk":
        dead = torch.zeros_like(dead)
    optimizer.zero_grad(set_to_none=True)
    fired, terms = torch.zeros_like(dead), silent.new_zeros(4, dtype=torch.float64)
    for part in _parts(batch, common.accumulate):
        context = Context(dead, step / config.steps, part.groups, part.target)
        with _precision(part.x, common):
            losses = sae.loss_terms(part.x, context)
        share = len(part.x) / len(batch.x)
        aux = config.aux_coefficient * losses.aux
        (share * (losses.reconstruction + losses.penalty + aux)).backward()
        with torch.no_grad():
            active = (losses.code.values > 0).sum() / len(part.x)
            found = (losses.reconstruction, losses.aux, active, losses.penalty)
            terms += share * torch.stack(found).double()
            fired |= losses.code.fired()
    sae.before_step()
    if common.clip:
        nn.utils.clip_grad_norm_(sae.parameters(), common.clip)
    optimizer.step()
    sae.after_step()
    silent.copy_(torch.where(fired, 0, silent + 1))
    return terms[None]


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    """The batch in micro-batches of nearly equal size."""
    if count == 1:
        yield batch
        return
    if len(batch.x) < count:
        raise SAEError(
            f"a batch of {len(batch.x)} rows cannot be accumulated in {count} parts: set "
            f"accumulate to at most {len(batch.x)}"
        )
    columns = [
        [None] * count if column is None else column.tensor_split(count)
        for column in (batch.x, batch.groups, batch.target)
    ]
    for x, groups, target in zip(*columns, strict=True):
        assert x is not None
        yield Batch(x, None, groups, target)


def _precision(x: Tensor, common: Common) -> contextlib.AbstractContextManager[object]:
    if common.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, dtype=torch.bfloat16)
