"""The table: every carrier swapped, beside reference levels and random pushes, in each arm."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.atlas.bases import make_images
from interp.atlas.games import cut_windows, in_window, merge_players
from interp.atlas.job import Job
from interp.atlas.parts import keep_arrays, recipe_hash
from interp.atlas.record import Arm, CarrierRow, StepMap
from interp.atlas.tables import bound, cells, number, step_map
from interp.interventions import (
    Carrier,
    Effect,
    Pairs,
    embed_images,
    interchange,
    list_carriers,
    make_pairs,
    measure_effect,
    transfer_ratio,
)
from interp.interventions.effects import Embedded
from interp.interventions.roles import find_role
from interp.models import Generation

INDEPENDENT, SHARED = "independent", "shared noise"


class Swapped(NamedTuple):
    """One carrier's images, uint8 [n, h, w, 3], and effects."""

    carrier: Carrier
    effect: Effect
    random: Effect | None
    images: Tensor
    tau: dict[str, float | None]


class Side(NamedTuple):
    """One arm: its recipes, unedited images and pairs."""

    name: str
    donor: Generation
    recipient: Generation
    donors: Tensor
    recipients: Tensor
    embedded: tuple[Embedded, Embedded]
    pairs: Pairs


def independent_side(job: Job) -> Side:
    """The arm in which donor and recipient share nothing."""
    drawn = job.drawn
    return _side(job, INDEPENDENT, (drawn.donor, drawn.recipient), (job.donors, job.recipients))


def shared_side(job: Job) -> Side | None:
    """The arm of equal noise and other text or class; None where noise is the only source."""
    if job.drawn.shared is None:
        return None
    donor, recipient = job.drawn.shared
    images = job.donors, make_images(job.model, recipient)
    return _side(job, SHARED, (donor, recipient), images)


def _side(
    job: Job, name: str, recipes: tuple[Generation, Generation], images: tuple[Tensor, Tensor]
) -> Side:
    a, b, other = (embed_images(x, job.attributes) for x in (*images, job.reference))
    return Side(name, *recipes, *images, (a, b), make_pairs(a, b, reference=other))


def swap_all(job: Job, side: Side, carriers: Sequence[Carrier]) -> dict[str, Swapped]:
    """Swap each carrier alone; bounds are corrected over all of them. By label."""
    found = {}
    for one in carriers:
        made = _swap(job, side, one)
        images = torch.from_numpy(made["swapped"])
        swapped = embed_images(images, job.attributes)
        role = str(made["role"])
        options = {"n_tests": len(carriers), "seed": job.config.seed}
        effect = measure_effect(side.pairs, swapped, carrier=one.label, role=role, **options)
        random = None
        if "random" in made:
            moved = embed_images(torch.from_numpy(made["random"]), job.attributes)
            name = f"{one.label} (random)"
            random = measure_effect(side.pairs, moved, carrier=name, role="descendant", **options)
        found[one.label] = Swapped(one, effect, random, images, _tau(side, swapped))
    return found


def _swap(job: Job, side: Side, carrier: Carrier) -> dict[str, np.ndarray]:
    def make() -> dict[str, np.ndarray]:
        (found,) = interchange(
            job.model,
            carrier,
            side.donor,
            side.recipient,
            batch_size=job.config.batch_size,
            seed=job.config.seed,
        )
        made = {"swapped": found.swapped.numpy(), "role": np.array(found.role)}
        return made if found.random is None else {**made, "random": found.random.numpy()}

    # Names of files say little and never clash.
    about = {"arm": side.name, "points": carrier.points, "fields": carrier.fields}
    about |= {"calls": str(carrier.calls), "label": carrier.label}
    return keep_arrays(job.folder, f"swap-{recipe_hash(about)}", make)


def _tau(side: Side, swapped: Embedded) -> dict[str, float | None]:
    a, b = side.embedded
    found: dict[str, float | None] = {}
    for name in a:
        apart = np.linalg.norm(a[name] - b[name], axis=1) > 0
        both = (x[name][apart] for x in (a, b, swapped))
        found[name] = number(transfer_ratio(*both)) if apart.any() else None
    return found


def list_table(job: Job, kinds: Sequence[Carrier]) -> list[Carrier]:
    """Carriers of the table beside the sources: stages, kinds, and block outputs over the depth."""
    stages = merge_players(job.stages, job.sizes.players)
    blocks = list_carriers(job.model, job.drawn.recipient, "blocks")
    model = job.model
    cuts = [
        one
        for one in blocks
        if one.points and {find_role(model.points[p]) for p in one.points} == {"descendant"}
    ]
    names = {one.label for one in (*stages, *kinds)}
    return [*stages, *kinds, *(c for c in thin(cuts, job.sizes.carriers) if c.label not in names)]


def thin(carriers: Sequence[Carrier], count: int) -> list[Carrier]:
    """At most `count` of them, evenly over the depth, the last one always; 0: all."""
    if not count or len(carriers) <= count:
        return list(carriers)
    chosen = np.unique(np.linspace(0, len(carriers) - 1, count).round().astype(int))
    return [carriers[i] for i in chosen.tolist()]


def make_map(job: Job, side: Side) -> StepMap | None:
    """Each stage alone within each window of steps; None where an image takes one call."""
    windows = cut_windows(job.calls)
    if len(windows) < 2:
        return None
    stages = merge_players(job.stages, job.sizes.players)
    placed = [(name, calls, in_window(stages, name, calls)) for name, calls in windows]
    found = swap_all(job, side, [one for _, _, players in placed for one in players])
    effects = {label: one.effect for label, one in found.items()}
    return step_map("writes by stage", effects, placed, stages, job.noise)


def record_arm(job: Job, side: Side, what: str) -> Arm:
    """The arm with its first images."""
    count = job.config.images
    return Arm(
        name=side.name,
        what=what,
        n_pairs=side.pairs.n_pairs,
        donor=dataclasses.asdict(side.donor),
        recipient=dataclasses.asdict(side.recipient),
        donors=job.tiles.add(side.donors, count),
        recipients=job.tiles.add(side.recipients, count),
    )


def reference_rows(job: Job, side: Side) -> list[CarrierRow]:
    """The levels: nothing swapped, and an image that has to do with neither."""
    n = len(side.recipients)
    levels = {"no edit": side.recipients, "unrelated image": job.held_out[-n:]}
    rows = []
    for name, images in levels.items():
        swapped = embed_images(images, job.attributes)
        effect = measure_effect(side.pairs, swapped, carrier=name, seed=job.config.seed)
        made = Swapped(Carrier(name=name), effect, None, images, _tau(side, swapped))
        rows.append(dataclasses.replace(make_row(job, side, made), role="reference"))
    return rows


def make_row(job: Job, side: Side, made: Swapped) -> CarrierRow:
    """One row of the table."""
    one, effect = made.carrier, made.effect
    return CarrierRow(
        name=effect.carrier,
        role=effect.role,
        arm=side.name,
        effects=cells(effect),
        sufficiency=bound(effect.sufficiency),
        largest=bound(effect.largest),
        points=one.points,
        fields=one.fields,
        random=None if made.random is None else cells(made.random),
        tau=made.tau,
        confirmatory=effect.role in ("source", "write"),
        images=job.tiles.add(made.images, job.config.images),
    )


def effects_of(found: Mapping[str, Swapped]) -> dict[str, Effect]:
    """The effects by label."""
    return {label: one.effect for label, one in found.items()}
