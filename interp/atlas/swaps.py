"""The table: every carrier swapped, beside reference levels and random pushes, in each arm."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from interp.atlas.bases import make_images
from interp.atlas.deviations import Deviations
from interp.atlas.games import cut_windows, in_window, merge_players
from interp.atlas.job import Job
from interp.atlas.record import Arm, CarrierRow, Raw, StepMap
from interp.atlas.tables import bound, cells, number, step_map
from interp.errors import InputError
from interp.interventions import (
    Carrier,
    Effect,
    Scan,
    available_raw,
    embed_images,
    holm_effects,
    list_carriers,
    measure_effect,
    scan,
    transfer_ratio,
)
from interp.interventions.roles import find_role
from interp.models import Generation

INDEPENDENT, SHARED = "independent", "shared noise"
# Up to this many pixels the images of all pairs are kept, and raw measures are over all.
_SMALL = 128 * 128


class Side(NamedTuple):
    """One arm: its recipes and unedited images."""

    name: str
    donor: Generation
    recipient: Generation
    donors: Tensor
    recipients: Tensor


def independent_side(job: Job) -> Side:
    """The arm in which donor and recipient share nothing."""
    return Side(INDEPENDENT, job.drawn.donor, job.drawn.recipient, job.donors, job.recipients)


def shared_side(job: Job) -> Side | None:
    """The arm of equal noise and other text or class; None where noise is the only source."""
    if job.drawn.shared is None:
        return None
    donor, recipient = job.drawn.shared
    return Side(SHARED, donor, recipient, job.donors, make_images(job.model, recipient))


def swap_all(job: Job, side: Side, carriers: Sequence[Carrier], name: str) -> Scan:
    """Swap each carrier alone over all pairs; parts are kept under `name`."""
    whole = int(np.prod(side.donors.shape[1:3])) <= _SMALL
    folder = None if job.folder is None else job.folder / name
    return scan(
        job.model,
        carriers,
        side.donor,
        side.recipient,
        job.attributes,
        job.reference,
        out=folder,
        batch_size=job.config.batch_size,
        images=side.donor.n if whole else job.config.images,
        seed=job.config.seed,
    )


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
    found = swap_all(job, side, [one for _, _, players in placed for one in players], "windows")
    return step_map("writes by stage", found.effects, placed, stages, job.noise)


def record_arm(job: Job, side: Side, what: str) -> Arm:
    """The arm with its first images."""
    count = job.config.images
    return Arm(
        name=side.name,
        what=what,
        n_pairs=side.donor.n,
        donor=dataclasses.asdict(side.donor),
        recipient=dataclasses.asdict(side.recipient),
        donors=job.tiles.add(side.donors, count),
        recipients=job.tiles.add(side.recipients, count),
    )


def reference_rows(job: Job, side: Side) -> list[CarrierRow]:
    """The levels: nothing swapped, and an image that has to do with neither."""
    levels = {"no edit": side.recipients, "unrelated image": job.held_out[-len(side.recipients) :]}
    rows = []
    for name, images in levels.items():
        swapped = embed_images(images, job.attributes)
        effect = measure_effect(job.pairs, swapped, carrier=name, seed=job.config.seed)
        a, b = (embed_images(x, job.attributes) for x in (side.donors, side.recipients))
        tau = {key: number(transfer_ratio(a[key], b[key], swapped[key])) for key in a}
        rows.append(
            CarrierRow(
                name=name,
                role="reference",
                arm=side.name,
                effects=cells(effect),
                sufficiency=bound(effect.sufficiency),
                largest=bound(effect.largest),
                tau=tau,
                raw=_raw(side, images),
                images=job.tiles.add(images, job.config.images),
            )
        )
    return rows


def make_rows(
    job: Job, side: Side, found: Scan, carriers: Sequence[Carrier], deviations: Deviations
) -> list[CarrierRow]:
    """Rows of the table, Holm-adjusted over all sources and writes of this scan."""
    adjusted = _adjust(job, found)
    assert found.images is not None
    rows = []
    for one in carriers:
        label, effect = one.label, found.effects[one.label]
        images, random = found.images.swapped[label], found.random[label]
        rows.append(
            CarrierRow(
                name=label,
                role=effect.role,
                arm=side.name,
                effects=cells(effect),
                sufficiency=bound(effect.sufficiency),
                largest=bound(effect.largest),
                points=one.points,
                fields=one.fields,
                random=None if random is None else cells(random),
                tau=found.tau[label],
                raw=_raw(side, images),
                off=deviations.get(label, {}),
                p=adjusted.get(label, {}),
                confirmatory=effect.role != "descendant",
                images=job.tiles.add(images, job.config.images),
            )
        )
    return rows


def _adjust(job: Job, found: Scan) -> dict[str, dict[str, float | None]]:
    chosen: dict[str, Effect] = {
        label: effect for label, effect in found.effects.items() if effect.role != "descendant"
    }
    try:
        tested = holm_effects(chosen, seed=job.config.seed)
    except InputError as error:
        job.warnings.append(f"no adjusted p-values: {error}")
        return {}
    adjusted: dict[str, dict[str, float | None]] = {}
    for row in tested.rows:
        adjusted.setdefault(row.carrier, {})[row.attribute] = row.adjusted
    return adjusted


def _raw(side: Side, images: Tensor) -> dict[str, Raw]:
    """SSIM and what else is installed, over the pairs whose images are kept."""
    n = len(images)
    a, b = side.donors[:n], side.recipients[:n]
    found = {}
    for name, measure in _raw_measures(images).items():
        values = (float(measure(x, y).mean()) for x, y in ((images, a), (images, b), (a, b)))
        found[name] = Raw(*map(number, values))
    return found


def _raw_measures(images: Tensor) -> Mapping[str, Callable[[Tensor, Tensor], Tensor]]:
    # Their windows need this many pixels.
    return available_raw() if min(images.shape[1:3]) >= 16 else {}
