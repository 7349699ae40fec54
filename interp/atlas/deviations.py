"""How far the network's state is from clean ones once a carrier is swapped."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from interp.atlas.codec import decode, encode
from interp.atlas.games import take_rows
from interp.atlas.job import Job
from interp.atlas.parts import keep_values
from interp.atlas.record import OffDistribution
from interp.errors import InputError
from interp.interventions import Carrier, off_distribution
from interp.interventions.sources import mix_fields
from interp.interventions.swapping import read_carriers, swap_carriers
from interp.models import Generation, Model, reading, to_rows

Deviations = dict[str, dict[str, OffDistribution]]
# A donor's own activations are clean where they are put; what follows them need not be.
_PAIRS = 16
# Clean runs: half for the covariance, half for the usual level; `off_distribution` asks for 20.
_CLEAN = 80


def find_exit(model: Model) -> str | None:
    """The last block output of the image stream: the state from which the image is made.

    What an image itself is (conv_out, image parts) has too few channels to have an inside.
    """
    names = [
        name
        for name in model.points_in("generate")
        if model.points[name].kind == "resid"
        and model.points[name].stream == "image"
        and "conv_out" not in name
        and not name.endswith(":main")
    ]
    return names[-1] if names else None


def measure_deviations(
    job: Job, donor: Generation, recipient: Generation, carriers: Sequence[Carrier]
) -> Deviations:
    """Distances of the last block's pooled state at the last call, beside those of clean runs.

    Mahalanobis distance in the shrunk covariance and distance to near clean states, mean over a
    few pairs; "clean" is the mean over held-out clean states.
    """
    place = find_exit(job.model)
    if place is None:
        return {}
    name = f"deviations-{len(carriers)}-{donor.seed}-{recipient.seed}"
    read = partial(decode, Deviations)
    values = keep_values(
        job.folder, name, lambda: encode(_measure(job, place, (donor, recipient), carriers)), read
    )
    return read(values)


def _measure(
    job: Job, place: str, recipes: tuple[Generation, Generation], carriers: Sequence[Carrier]
) -> Deviations:
    clean = []
    fit = dataclasses.replace(job.drawn.fit, n=min(_CLEAN, job.drawn.fit.n))
    for start in range(0, fit.n, fit.batch_size):
        stop = min(start + fit.batch_size, fit.n)
        with reading(job.model, (place,)) as reader:
            job.model.generate(fit.batch(start, stop, n_classes=job.model.n_classes))
        clean.append(_pool(job.model, reader))
    rows = torch.cat(clean)
    half = len(rows) // 2
    n = min(_PAIRS, job.config.batch_size, recipes[0].n)
    one, other = (take_rows(x, (0, n)).batch(0, n, n_classes=job.model.n_classes) for x in recipes)
    points = tuple(dict.fromkeys(p for carrier in carriers for p in carrier.points))
    given = read_carriers(job.model, points, one)[1]
    found: Deviations = {}
    for carrier in carriers:
        with reading(job.model, (place,)) as reader:
            mixed = mix_fields(job.model, [carrier], one, other)
            swap_carriers(job.model, [carrier], given, mixed)
        try:
            far = off_distribution(_pool(job.model, reader), rows[:half], rows[half:])
        except InputError as error:
            job.warnings.append(f"distance from clean states is not known: {error}")
            return {}
        found[carrier.label] = {
            key: OffDistribution(float(one.rows.mean()), float(one.held_out.mean()))
            for key, one in (("Mahalanobis", far.mahalanobis), ("nearest states", far.neighbor))
        }
    return found


def _pool(model: Model, reader: object) -> Tensor:
    """[n, d]: mean over positions at the last call."""
    last = reader.calls[-1]  # pyright: ignore
    return to_rows(last.value, model.points[last.point]).double().mean(1).cpu()
