"""Whether one source is a compact latent: sufficiency, all others together, directions."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.atlas.bases import Subject, count_directions, count_image_directions
from interp.atlas.codec import decode, encode
from interp.atlas.job import Job
from interp.atlas.judging import read_curve, record_curve
from interp.atlas.parts import keep_values
from interp.atlas.record import Curve, SourceCompactness
from interp.atlas.tables import bound
from interp.errors import InputError
from interp.interventions import Carrier, Effect, SourceEvidence

# What is kept of one source's directions.
_COUNTED = {
    "width": int,
    "pca": Curve,
    "jacobian": Curve,
    "n_fit": int,
    "n_gradients": int,
    "notes": tuple[str, ...],
}


def source_carriers(job: Job) -> list[Carrier]:
    """Each source alone, and, where there are several, all the others of each together."""
    alone = [Carrier(fields=(name,), name=name, role="source") for name in job.sources]
    if len(job.sources) < 2:
        return alone
    rest = []
    for name in job.sources:
        others = tuple(other for other in job.sources if other != name)
        # With two sources the others of one are the other one.
        if len(others) > 1:
            rest.append(Carrier(fields=others, name=f"all but {name}", role="source"))
    return [*alone, *rest]


def others_label(job: Job, name: str) -> str | None:
    """Label of the carrier that is all sources but this one; None where there is no other."""
    others = [other for other in job.sources if other != name]
    if not others:
        return None
    return others[0] if len(others) == 1 else f"all but {name}"


def count_image(job: Job) -> Curve:
    """d_img on the pairs of the atlas; undefined, with a warning, where it cannot be counted."""

    read = functools.partial(decode, Curve)

    def make() -> Any:
        images = (job.donors, job.recipients, held_out_images(job))
        return encode(record_curve(count_image_directions(job.pairs, *images, job.attributes)))

    try:
        return read(keep_values(job.folder, "image-directions", make, read))
    except InputError as error:
        job.warnings.append(f"directions of images are not counted, d_img is unknown: {error}")
        return Curve(None, 0, None, ())


def held_out_images(job: Job) -> Tensor:
    """Images behind d_img: the real glyphs for the zoo, else the model's own of other seeds.

    A basis decides d_img only where it has nearly as many images as an image has numbers: textures
    need most of them. Those of the zoo's data cost nothing.
    """
    own = job.held_out[: job.sizes.n_fit]
    if job.config.quick or not job.model.name.startswith("zoo:"):
        return own
    from interp.zoo import load_images

    real = load_images("glyphs").pixels
    return real if real.shape[1:] == own.shape[1:] else own


def weigh_sources(
    job: Job, effects: Mapping[str, Effect], image: Curve
) -> tuple[list[SourceEvidence], list[SourceCompactness]]:
    """Evidence of every source, as the rule takes it and as the record shows it.

    effects: by label of `source_carriers`.
    """
    evidence, records = [], []
    for name in job.sources:
        effect, label = effects[name], others_label(job, name)
        others = None if label is None else effects[label]
        record = _record(job, name, effect, others)
        records.append(record)
        evidence.append(
            SourceEvidence(
                effect,
                others,
                read_curve(record.pca),
                read_curve(record.jacobian),
                read_curve(image),
            )
        )
    return evidence, records


def _record(job: Job, name: str, effect: Effect, others: Effect | None) -> SourceCompactness:
    counted = _count(job, name, effect)
    rest = tuple(other for other in job.sources if other != name)
    return SourceCompactness(
        source=name,
        width=counted["width"],
        sufficiency=bound(effect.sufficiency),
        others=None if others is None else bound(others.largest),
        other_names=rest,
        pca=decode(Curve, counted["pca"]),
        jacobian=decode(Curve, counted["jacobian"]),
        n_fit=counted["n_fit"],
        n_gradients=counted["n_gradients"],
        notes=tuple(counted["notes"]),
    )


def _count(job: Job, name: str, effect: Effect) -> dict[str, Any]:
    """Directions of one source, or why they are not counted."""
    full = effect.sufficiency.value
    empty = encode(Curve(None, 0, full, ()))
    none = {"width": 0, "pca": empty, "jacobian": empty, "n_fit": 0, "n_gradients": 0}
    field = job.model.sources(job.drawn.donor)[name]
    if field != "latents":
        why = "no vector of numbers" if field != "step_seeds" else "drawn by the network's parts"
        return {**none, "notes": [f"{name} is {why}: no directions are counted."]}
    if not job.model.differentiable:
        return {**none, "notes": [f"{job.model.name} has no gradient: no directions are counted."]}
    kept = f"directions-{name}"
    return keep_values(job.folder, kept, lambda: _count_latents(job), _check_counted)


def _check_counted(values: Any) -> None:
    """Refuse what `_count_latents` never writes."""
    wanted = {name: decode(kind, values[name], name) for name, kind in _COUNTED.items()}
    if set(values) != set(wanted):
        raise InputError(f"directions hold {sorted(values)}, not {sorted(wanted)}")


def _count_latents(job: Job) -> dict[str, Any]:
    drawn = job.drawn
    subject = Subject(
        job.model,
        drawn.donor,
        drawn.recipient,
        drawn.fit,
        dataclasses.replace(drawn.gradient, n=job.sizes.gradients),
        job.attributes,
        job.pairs,
    )
    try:
        found = count_directions(subject, job.sizes.n_latents, job.config.seed)
    except InputError as error:
        job.warnings.append(f"directions are not counted: {error}")
        raise
    notes = [
        "Every draw is white noise, so its principal directions are arbitrary; the Jacobian basis "
        "says how many directions act."
    ]
    if math.isfinite(found.random):
        notes.append(
            f"{found.jacobian.d_star} random directions keep {found.random:.3f} of the full swap "
            "(wiring twin: a random subspace of equal dimension)."
        )
    return {
        "width": found.width,
        "pca": encode(record_curve(found.pca)),
        "jacobian": encode(record_curve(found.jacobian)),
        "n_fit": job.sizes.n_latents,
        "n_gradients": found.n_gradients,
        "notes": notes,
    }
