"""The interchange: a donor's activations put into a recipient's run, and what that does."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.errors import InputError
from interp.interventions.carriers import Carrier, check_interchange, list_given
from interp.interventions.effects import RESAMPLES, Effect, make_pairs, measure_effect
from interp.interventions.reuse import Plain, reusing, run_both
from interp.interventions.sources import Batch, check_pairing, mix_fields
from interp.interventions.swapping import (
    Attribute,
    Cache,
    embed_images,
    iterate_batches,
    push_carrier,
    swap_carriers,
)
from interp.models import Generation, Inversion, Model


@dataclass(frozen=True)
class Interchange:
    """Images of one carrier's interchanges, row i of each belonging to pair i; uint8 [n h w 3]."""

    carrier: Carrier
    role: str
    donor: Tensor
    recipient: Tensor
    swapped: Tensor
    """Recipients with the donor's carrier in place."""
    random: Tensor | None
    """Recipients with the same rows moved as far, each in a random direction; None where fields
    are swapped, which have no such direction."""
    rerender: int
    """Largest pixel difference with the recipient's own carrier put back: 0, or all is void."""
    in_full: int = 0
    """Batches of which nothing was used again, because a module keeps a state."""
    psnr: Float[Tensor, "2 n"] | None = None
    """Of inverted donors and recipients: how well they are made again, in dB; None for recipes."""

    def __repr__(self) -> str:
        n, height, width = self.swapped.shape[:3]
        return (
            f"Interchange of {self.carrier.label} ({self.role}): {n} pairs of {height} x {width} "
            f"pixels, {'no' if self.random is None else 'with a'} random control; own values put "
            f"back change a pixel by {self.rerender}"
        )


def interchange(
    model: Model,
    carriers: str | Carrier | Sequence[str | Carrier],
    donor: Generation | UInt8[Tensor, "n h w 3"] | Inversion,
    recipient: Generation | UInt8[Tensor, "n h w 3"] | Inversion,
    *,
    batch_size: int = 32,
    allow_train: bool = False,
    seed: int = 0,
) -> list[Interchange]:
    """Run donors, cache the carriers, and run the recipients with them in place.

    Each batch of pairs costs 3 + 3 runs per carrier: donors and recipients once, a check of reuse,
    and per carrier the recipient's own values put back (a check), the donor's values, and rows
    moved by a random direction of the norm of (donor - recipient) (a control for damage). The last
    two run only what comes after the carrier's first edit, or all where the check of reuse found
    modules that keep a state. For many carriers, with a cost estimate and a folder, see
    `scan`.

    Args:
        model: the model.
        carriers: one or several, or names of hook points; each is swapped alone.
        donor: a recipe, images that an autoencoder reconstructs, or what `interp.models.invert`
            returned for real images (ddim, dpm, encode).
        recipient: the same kind, with as many images. Seeds are disjoint from the donor's, or (for
            shared noise, other prompts or classes) the same. Where neither names classes, they go
            by the seed: a UserWarning says if no pair differs in class.
        batch_size: pairs per run.
        allow_train: let seeds in on whose images an SAE of a carrier was trained.
        seed: of the random directions.

    Returns:
        One entry per carrier, in order.

    Raises:
        PointError: a point does not exist or never fires, or the donor's and the recipient's
            activations differ in shape.
        InputError: recipes that do not give equal calls and shapes, seeds that partly overlap, an
            empty window, a mask or subspace of the wrong size, an SAE of another point or trained
            on these seeds, an unknown half, source or role; prompts or classes to swap that are
            equal in all pairs.
    """
    chosen = list_given(carriers)
    roles = check_interchange(model, chosen, donor, recipient)
    check_pairing(model, chosen, donor, recipient, allow_train)
    parts: list[list[tuple[Tensor, ...]]] = [[] for _ in chosen]
    in_full = 0
    names = tuple(dict.fromkeys(name for carrier in chosen for name in carrier.points))
    for start, one, other in iterate_batches(model, donor, recipient, batch_size):
        ran = run_both(model, names, chosen, (one, other), start // batch_size)
        in_full += ran[2].stateful
        batch = (start, one, other)
        for part, images in zip(parts, _swap_batch(model, chosen, batch, ran, seed), strict=True):
            part.append(images)
    found, psnr = [], None
    if isinstance(donor, Inversion) and isinstance(recipient, Inversion):
        psnr = torch.stack([donor.psnr, recipient.psnr])
    for carrier, role, part in zip(chosen, roles, parts, strict=True):
        a, b, same, swapped, *rest = (torch.cat(column) for column in zip(*part, strict=True))
        worst = int((same.int() - b.int()).abs().max())
        random = rest[0] if rest else None
        found.append(Interchange(carrier, role, a, b, swapped, random, worst, in_full, psnr))
    return found


def _swap_batch(
    model: Model,
    carriers: Sequence[Carrier],
    batch: tuple[int, Batch, Batch],
    ran: tuple[Tensor, Cache, Plain],
    seed: int,
) -> Iterator[tuple[Tensor, ...]]:
    """Donors, recipients, own values put back, swapped, and random where there is one, by carrier.

    What is put back runs from the start: it is the check.
    """
    start, one, other = batch
    a, given, plain = ran
    b, kept = plain.images, plain.kept
    for carrier in carriers:
        same = swap_carriers(model, [carrier], kept, other)
        mixed = mix_fields(model, [carrier], one, other)
        images = [a, b, same]
        with reusing(model, plain, [carrier]):
            images.append(swap_carriers(model, [carrier], given, mixed))
            if not carrier.fields:
                images.append(push_carrier(model, carrier, (given, kept), other, (seed, start)))
        yield tuple(images)


def measure_interchange(
    found: Interchange,
    attributes: Mapping[str, Attribute],
    reference: UInt8[Tensor, "m h w 3"],
    *,
    pair: Sequence[int] | None = None,
    n_tests: int = 1,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Effect, Effect | None]:
    """Effects of an interchange and of its random control on attributes of the images.

    Args:
        found: what `interchange` returned.
        attributes: name -> function of images uint8 [n, h, w, 3] that gives [n, d_k].
        reference: other images, whose mean is the origin of each attribute.
        pair: [n], as in `make_pairs`.
        n_tests, n_resamples, seed: as in `measure_effect`.

    Returns:
        The effect of the swap, and that of the random directions of equal norm, whose damage is
        what such a push does by itself (None where there is no such control).

    Raises:
        InputError: putting the recipient's own values back changed an image, embeddings do not
            fit, or `found` is the whole list.
    """
    if not isinstance(found, Interchange):
        size = f" of {len(found)}" if isinstance(found, list | tuple) else ""
        raise InputError(
            f"found is a {type(found).__name__}{size}: pass one entry of what interchange "
            "returned, as by (found,) = interchange(...)"
        )
    if found.rerender != 0:
        raise InputError(
            f"{found.carrier.label}: putting the recipient's own values back changes a pixel by "
            f"{found.rerender}; the runs are not repeatable, so no swap can be measured"
        )
    sides = (found.donor, found.recipient, reference, found.swapped)
    a, b, other, swapped = (embed_images(side, attributes) for side in sides)
    pairs = make_pairs(a, b, reference=other, pair=pair)
    options = {"n_tests": n_tests, "n_resamples": n_resamples, "seed": seed}
    label = found.carrier.label
    effect = measure_effect(pairs, swapped, carrier=label, role=found.role, **options)
    if found.random is None:
        return effect, None
    moved = embed_images(found.random, attributes)
    name = f"{label} (random)"
    return effect, measure_effect(pairs, moved, carrier=name, role="descendant", **options)
