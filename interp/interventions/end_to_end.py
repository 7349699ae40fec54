"""End-to-end loss: the denoiser runs on the SAE's reconstruction, and its output judges it.

Source: Braun et al. 2024, "Identifying functionally important features with end-to-end sparse
dictionary learning", arXiv 2405.12241; there with a language model's logits, here with the
network's own output.
"""

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError, SAEError
from interp.models import Generation, Model, editing, find_origin
from interp.sae import SAE, Code, Context
from interp.sae.match import check_match
from interp.sae.split import unit_hash
from interp.sae.step import BETAS

# Progress of the run that variants see: their warm-ups are over, since the SAE is trained.
TRAINED = 1 - 2**-10


@dataclass(frozen=True)
class EndToEndConfig:
    """How to train through a network."""

    steps: int = 200
    """Optimizer steps; each takes one call of the network for one batch of images."""
    lr: float = 2e-4
    """Adam's rate: a tenth of `TrainConfig`'s, because the SAE has been trained already."""
    local: float = 0.0
    """Weight of the plain reconstruction loss; 0 is the source's end-to-end loss."""
    downstream: tuple[str, ...] = ()
    """Later points whose activations are compared too (the source's "e2e + downstream")."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK (Gao et al. 2024, appendix A.2)."""
    dead_window: int = 0
    """Steps without firing after which a latent counts as dead; 0 means steps / 20, at least 5:
    one image's rows at one noise level are fewer than a mixed batch."""
    seed: int = 0
    """Of the order of the calls."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.lr > 0:
            raise InputError(f"steps = {self.steps} and lr = {self.lr} must be positive")
        if min(self.local, self.aux_coefficient, self.dead_window) < 0:
            raise InputError("local, aux_coefficient and dead_window must be at least 0")

    @property
    def window(self) -> int:
        """Steps without firing after which a latent is dead."""
        return self.dead_window or max(5, self.steps // 20)


class RecordedCall(NamedTuple):
    """What one call of a network was given."""

    args: tuple
    kwargs: dict[str, Any]
    call: int
    """Its index in its generation."""
    n: int
    """Samples; guidance makes the batch larger."""


class Terms(NamedTuple):
    """The losses of one call."""

    output: Tensor
    """||y - y0||^2 / ||y0||^2 of the network's output, y0 without the SAE."""
    downstream: Tensor
    """Mean over downstream points of ||h - h0||^2 / ||h0 - mean h0||^2."""
    reconstruction: Tensor
    penalty: Tensor
    aux: Tensor
    code: Code


class Finetuned(NamedTuple):
    """An SAE that was trained through its network."""

    sae: SAE
    log: list[dict[str, float]]
    """One line per step: output, downstream, reconstruction, penalty, aux, l0, dead."""


def train_end_to_end(
    model: Model, sae: SAE, point: str, recipe: Generation, config: EndToEndConfig | None = None
) -> Finetuned:
    """Train a copy of an SAE of any variant so that the network runs well on its reconstructions.

    loss = output + downstream + penalty + local * reconstruction + aux_coefficient * aux

    The network's weights stay as they are. Every batch of the recipe is generated without the SAE;
    each of its calls is one step, in random order.

    Args:
        model: makes images from recipes; its root is one module that is called as a whole
            (denoisers, generators).
        sae: an SAE of the point, left as it is.
        point: name of the hook point.
        recipe: the images, batches of `recipe.batch_size`; taken again when they run out.
        config: the settings; None: the defaults.

    Returns:
        The new SAE, whose `trained_units` hold the recipe's images too, and the log.

    Raises:
        SAEError: the SAE belongs elsewhere, or is a transcoder or crosscoder.
        InputError: the network's root is not called as a whole, or a loss is not finite.
        PointError: the model has no such point, or it does not fire.
    """
    config = config or EndToEndConfig()
    identity = model.identity()
    check_rows(sae)
    check_match(sae, model.point(point), identity)
    sae = copy.deepcopy(sae).to(model.device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=config.lr, betas=BETAS)
    silent = torch.zeros(sae.n_latents, dtype=torch.int64, device=model.device)
    log: list[dict[str, float]] = []
    with frozen(model):
        for recorded in _calls(model, recipe, config):
            context = Context(silent >= config.window, TRAINED)
            terms = end_to_end_terms(model, sae, point, recorded, context, config.downstream)
            optimizer.zero_grad(set_to_none=True)
            _total(terms, config, len(log)).backward()
            sae.before_step()
            optimizer.step()
            sae.after_step()
            silent = torch.where(terms.code.fired(), 0, silent + 1)
            log.append(_line(terms, silent >= config.window))
    sae.provenance = {
        **sae.provenance,
        "end_to_end": {**dataclasses.asdict(config), "recipe": dataclasses.asdict(recipe)},
    }
    sae.trained_units = torch.unique(
        torch.cat([sae.trained_units, _units(model, identity, recipe)])
    )
    return Finetuned(sae.cpu(), log)


def end_to_end_terms(
    model: Model,
    sae: SAE,
    point: str,
    recorded: RecordedCall,
    context: Context,
    downstream: Sequence[str] = (),
) -> Terms:
    """Run one call twice, without and with the SAE in place, and compare.

    Args:
        model: frozen, see `frozen`.
        sae: on the model's device; gradients reach it through the whole rest of the network.
        point: where its reconstruction replaces the activation.
        recorded: the call.
        context: dead latents and progress.
        downstream: later points to compare.

    Raises:
        InputError: the output is not a tensor, or all zero without the SAE.
    """
    found: list[Any] = []
    clean: dict[str, Tensor] = {}
    edited: dict[str, Tensor] = {}

    def replace(rows: Tensor, call: Any) -> Tensor:
        flat = rows.reshape(-1, rows.shape[-1]).to(sae.mean.dtype)
        groups = _groups(sae, rows)
        found.append(sae.loss_terms(flat, context._replace(groups=groups)))
        return sae.decode(found[-1].code).to(rows.dtype).reshape(rows.shape)

    def keep(into: dict[str, Tensor]) -> Any:
        def note(rows: Tensor, call: Any) -> Tensor:
            into[call.point] = rows
            return rows

        return note

    with torch.no_grad():
        wanted = _run(model, recorded, dict.fromkeys(downstream, keep(clean)))
    made = _run(model, recorded, {point: replace, **dict.fromkeys(downstream, keep(edited))})
    size = wanted.square().sum()
    if not float(size) > 0:
        raise InputError(f"{model.name} returns zeros at call {recorded.call}: nothing to compare")
    later = [_relative(edited[name], clean[name]) for name in downstream]
    return Terms(
        output=(made - wanted).square().sum() / size,
        downstream=torch.stack(later).mean() if later else made.new_zeros(()),
        reconstruction=found[0].reconstruction,
        penalty=found[0].penalty,
        aux=found[0].aux,
        code=found[0].code,
    )


def record_calls(model: Model, batch: Any) -> list[RecordedCall]:
    """Generate a batch and keep what each call of the root was given.

    Args:
        model: whose root is called as a whole.
        batch: a `GenerateBatch`.

    Raises:
        InputError: the root is not what is called.
    """
    if set(model.clock_modules()) != {""}:
        raise InputError(
            f"{model.name} runs {', '.join(model.clock_modules())} one by one, not its root as a "
            "whole: end-to-end training needs a denoiser or a generator"
        )
    calls: list[RecordedCall] = []

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        copies = _copied(args), {name: _copied(value) for name, value in kwargs.items()}
        calls.append(RecordedCall(*copies, len(calls), len(batch.seeds)))

    handle = model.root.register_forward_pre_hook(note, with_kwargs=True)
    try:
        model.generate(batch)
    finally:
        handle.remove()
    return calls


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """No gradients for the network's weights inside; afterwards as before."""
    parameters = [p for p in model.root.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def check_rows(sae: SAE) -> None:
    """Refuse an SAE that does not reconstruct what it reads.

    Raises:
        SAEError: a transcoder, or a crosscoder of several sites.
    """
    elsewhere = "target" in sae.provenance or sae.W_skip is not None
    if sae.d_out != sae.d_in or elsewhere or len(sae.widths) > 1:
        raise SAEError(
            f"a {sae.variant} of widths {sae.widths} to {sae.d_out} does not reconstruct one "
            "point's rows: end-to-end training takes SAEs of one point"
        )


def _run(model: Model, recorded: RecordedCall, edits: dict[str, Any]) -> Tensor:
    with editing(model, edits, batch=recorded.n):
        model.clock.begin(recorded.n, first=recorded.call)
        output = model.root(*_copied(recorded.args), **recorded.kwargs)
    if not isinstance(output, Tensor):
        output = output.sample if hasattr(output, "sample") else output[0]
    if not isinstance(output, Tensor):
        raise InputError(f"{model.name} returns {type(output).__name__}, not a tensor")
    return output


def _groups(sae: SAE, rows: Tensor) -> Tensor | None:
    """The budget group of each row [b, p, d] of one call, for variants that share budgets."""
    numbers = torch.arange(len(rows), device=rows.device).repeat_interleave(rows[0, ..., 0].numel())
    budget = getattr(sae, "budget", "batch")
    return {"image": numbers, "timestep": torch.zeros_like(numbers)}.get(budget)


def _copied(value: Any) -> Any:
    """Tensors of nested arguments as copies: samplers write into theirs."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple | list):
        return type(value)(_copied(item) for item in value)
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return value


def _relative(made: Tensor, wanted: Tensor) -> Tensor:
    """Share of the variance of rows [b, p, d] that differs."""
    center = wanted.flatten(0, -2).mean(dim=0)
    return (made - wanted).square().sum() / (wanted - center).square().sum()


def _calls(model: Model, recipe: Generation, config: EndToEndConfig) -> Iterator[RecordedCall]:
    """As many calls as steps: batch after batch, the calls of each in random order."""
    rng = np.random.default_rng(config.seed)
    done = 0
    while done < config.steps:
        for start in range(0, recipe.n, recipe.batch_size):
            stop = min(start + recipe.batch_size, recipe.n)
            calls = record_calls(model, recipe.batch(start, stop, n_classes=model.n_classes))
            if not calls:
                raise InputError(f"{model.name} never called its root")
            for place in rng.permutation(len(calls))[: config.steps - done]:
                yield calls[int(place)]
                done += 1
            if done == config.steps:
                return


def _total(terms: Terms, config: EndToEndConfig, step: int) -> Tensor:
    total = terms.output + terms.downstream + terms.penalty
    total = total + config.local * terms.reconstruction + config.aux_coefficient * terms.aux
    if not bool(torch.isfinite(total)):
        raise InputError(
            f"step {step}: the loss is {float(total)}: give a lower lr, or a wider dtype"
        )
    return total


def _line(terms: Terms, dead: Tensor) -> dict[str, float]:
    names = ("output", "downstream", "reconstruction", "penalty", "aux")
    active = (terms.code.values > 0).sum(dim=1).double().mean()
    return {
        **{name: float(getattr(terms, name).detach()) for name in names},
        "l0": float(active),
        "dead": float(dead.double().mean()),
    }


def _units(model: Model, identity: dict[str, Any], recipe: Generation) -> Tensor:
    batch = recipe.batch(0, recipe.n, n_classes=model.n_classes)
    origin = find_origin(recipe, model, identity)
    names = [("image", name) for name in origin.image_ids(batch)]
    names += [("cluster", name) for name in origin.clusters(batch)]
    return torch.tensor([unit_hash(*name) for name in names], dtype=torch.int64)
