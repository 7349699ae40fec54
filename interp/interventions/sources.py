"""Independent sources of a generation as carriers: noise, latents, text and class in a batch."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.errors import InputError, SAEError
from interp.interventions.carriers import (
    ALL_NOISE,
    Carrier,
    Source,
    count_samples,
    list_sources,
    recipe_of,
    take_batch,
)
from interp.interventions.numbers import check_whole
from interp.interventions.parts import move_subspace
from interp.interventions.substitute import check_fit
from interp.models import EncodeBatch, GenerateBatch, Generation, Model

Batch = GenerateBatch | EncodeBatch


def check_pairing(
    model: Model,
    carriers: Sequence[Carrier],
    donor: Source,
    recipient: Source,
    allow_train: bool = False,
) -> None:
    """Refuse a swap of what is equal in all pairs, and an SAE on images that it was trained on.

    Warns (UserWarning) where classes that neither recipe names are equal in all pairs, so that what
    is measured is the noise alone.

    Raises:
        InputError: as it says, with the seed or field that would mend it.
    """
    if not allow_train:
        _check_untrained(model, carriers, donor, recipient)
    equal, n = _list_equal(model, donor, recipient), count_samples(donor)
    fields = list_sources(model, donor)
    for carrier in carriers:
        moved = {fields.get(name, name) for name in carrier.fields}
        if moved and moved <= equal and not carrier.points:
            raise InputError(
                f"{carrier.label}: {' and '.join(sorted(moved))} of {n} of {n} pairs are equal, so "
                f"nothing would move; {_find_remedy(model, donor, recipient, moved)}"
            )
    # One pair may be of one class by chance.
    if "classes" in equal and n > 1 and _is_accident(donor, recipient):
        remedy = _find_remedy(model, donor, recipient, {"classes"})
        warnings.warn(
            f"classes of {n} of {n} pairs are equal, because {model.n_classes} classes go by the "
            f"seed: donors and recipients differ in noise alone; {remedy}",
            stacklevel=3,
        )


def _list_equal(model: Model, donor: Source, recipient: Source) -> set[str]:
    """Texts and classes that are equal in all pairs."""
    n = count_samples(donor)
    one, other = (take_batch(model, side, 0, n) for side in (donor, recipient))
    if not isinstance(one, GenerateBatch) or not isinstance(other, GenerateBatch):
        return set()
    # A model of one class has no other to give.
    names = ["prompts"] if model.n_classes == 1 else ["prompts", "classes"]
    return {k for k in names if getattr(one, k) and getattr(one, k) == getattr(other, k)}


def _is_accident(donor: Source, recipient: Source) -> bool:
    """Whether equal classes are nobody's wish: other seeds, and none named."""
    if not isinstance(donor, Generation) or not isinstance(recipient, Generation):
        return False
    return donor.seed != recipient.seed and not (donor.classes or recipient.classes)


def _find_remedy(model: Model, donor: Source, recipient: Source, names: set[str]) -> str:
    """What makes sources differ: another first seed where that does, else other values."""
    given = " and ".join(f"{name}=" for name in sorted(names))
    if isinstance(donor, Generation) and isinstance(recipient, Generation):
        later = replace(recipient, seed=recipient.seed + 1)
        disjoint = abs(donor.seed - later.seed) >= donor.n
        if disjoint and not names & _list_equal(model, donor, later):
            return f"start the recipients at seed {later.seed}, or give {given}"
    return f"give the recipients other {given}"


def _check_untrained(
    model: Model, carriers: Sequence[Carrier], donor: Source, recipient: Source
) -> None:
    """Refuse SAEs that were trained on images of these seeds; some do not know what they saw."""
    recipes = [side for side in (donor, recipient) if isinstance(side, Generation)]
    for carrier, recipe in product(carriers, recipes):
        if carrier.sae is None or not len(carrier.sae.trained_units):
            continue
        try:
            check_fit(model, carrier.sae, carrier.points[0], recipe, allow_train=False)
        except SAEError as error:
            raise InputError(f"{carrier.label}: {error}") from error


def mix_fields(
    model: Model, carriers: Sequence[Carrier], donor: Batch, recipient: Batch
) -> GenerateBatch | EncodeBatch:
    """The recipients' batch with the sources of the carriers from the donors'.

    "seeds" is all noise. Of latents that several carriers hold in part, each moves its own.
    """
    if not isinstance(recipient, GenerateBatch) or not isinstance(donor, GenerateBatch):
        return recipient
    names = {name for carrier in carriers for name in carrier.fields}
    if ALL_NOISE in names:
        noise = {"latents": donor.latents, "step_seeds": donor.step_seeds}
        recipient = replace(recipient, seeds=donor.seeds, **noise)
    if not names - {ALL_NOISE}:
        return recipient
    fields = model.sources(recipe_of(donor)) | model.sources(recipe_of(recipient))
    changes: dict[str, Any] = {}
    for field in {fields[name] for name in names - {ALL_NOISE}} - {"latents"}:
        # The noise of the steps is that of the seeds unless it is named.
        own = donor.step_seeds or donor.seeds
        changes[field] = own if field == "step_seeds" else getattr(donor, field)
    moved = [c for c in carriers if any(fields.get(name) == "latents" for name in c.fields)]
    if moved:
        value, given = (get_latents(model, batch) for batch in (recipient, donor))
        for carrier in moved:
            value = _move(carrier, value, given)
        changes["latents"] = value
    return replace(recipient, **changes)


def get_latents(model: Model, batch: GenerateBatch) -> Float[Tensor, "b ..."]:
    """Return the latents that a batch names, else those of its seeds."""
    return model.draw_latents(batch) if batch.latents is None else batch.latents


def _move(carrier: Carrier, value: Tensor, donor: Tensor) -> Tensor:
    """Put the donor's latents in place, at the carrier's positions and in its subspace."""
    new = donor
    if carrier.subspace is not None:
        flat = move_subspace(value.flatten(1), donor.flatten(1), carrier.subspace)
        new = flat.reshape(value.shape)
    if carrier.mask is None:
        return new
    keep = torch.tensor(carrier.mask, device=value.device)
    keep = keep[:, None] if value.ndim == 3 else keep.reshape(1, *value.shape[2:])
    return torch.where(keep, new, value)


def read_latents(model: Model, recipe: Generation) -> Float[Tensor, "n d"]:
    """Return the latents of a recipe's samples, one flat row each: z, x_T or the code.

    At unit normal scale, as `GenerateBatch.latents`. No network is run.

    Raises:
        InputError: the model has no latents to draw.
    """
    batch = recipe.batch(0, recipe.n, n_classes=model.n_classes)
    return model.draw_latents(batch).flatten(1)


def put_latents(
    model: Model,
    recipe: Generation,
    values: Float[Tensor, "n d"],
    *,
    batch_size: int = 32,
) -> UInt8[Tensor, "n h w 3"]:
    """Make a recipe's images from given latents, all else (noise, text, class) being its own.

    `put_latents(model, recipe, read_latents(model, recipe))` are the recipe's images to the last
    bit: with the rows of donors, recipients and what lies between, this is what the compactness of
    a source is measured by.

    Args:
        model: the model.
        recipe: the recipients.
        values: [n, d] flat latents of unit normal scale, one row per sample.
        batch_size: samples per run.

    Raises:
        InputError: `values` are not [n, d] of the model, or a batch is less than one.
    """
    check_whole("batch_size", batch_size, 1)
    shape = tuple(model.draw_latents(recipe.batch(0, 1, n_classes=model.n_classes)).shape[1:])
    wanted = (recipe.n, torch.Size(shape).numel())
    if tuple(values.shape) != wanted:
        raise InputError(
            f"latents {tuple(values.shape)}: {recipe.n} samples of {model.name} need {wanted}, "
            f"rows of {shape} flattened"
        )
    found = []
    for start in range(0, recipe.n, batch_size):
        stop = min(start + batch_size, recipe.n)
        batch = recipe.batch(start, stop, n_classes=model.n_classes)
        part = values[start:stop].reshape(stop - start, *shape).to(torch.float32)
        found.append(model.generate(replace(batch, latents=part.to(model.device))).cpu())
    return torch.cat(found)
