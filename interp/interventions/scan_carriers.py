"""The scan: every carrier over every pair, with its controls; resumable and sharded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from interp.errors import InputError
from interp.interventions.carriers import Carrier, check_interchange, first_batch, list_given
from interp.interventions.effects import (
    MIN_PAIRS,
    RESAMPLES,
    Effect,
    Pairs,
    make_pairs,
    measure_effect,
    transfer_ratio,
)
from interp.interventions.reuse import calls_of
from interp.interventions.scan_batches import (
    Job,
    check_pairs,
    fits,
    make_base,
    make_part,
    open_batch,
)
from interp.interventions.scan_cost import Todo, measure_cost
from interp.interventions.scan_parts import (
    Arrays,
    digest,
    find_rank,
    open_folder,
    part_path,
    read_part,
    sweep,
    write_part,
)
from interp.interventions.scan_record import Scan, ScanImages
from interp.interventions.scheduling import list_moments
from interp.interventions.sources import Batch, check_pairing
from interp.interventions.swapping import Attribute, embed_images
from interp.models import Generation, Inversion, Model

# (parts done, parts to do, what was done last); first (0, n, the cost in words).
Progress = Callable[[int, int, str], None]


def scan(
    model: Model,
    carriers: str | Carrier | Sequence[str | Carrier],
    donor: Generation | UInt8[Tensor, "n h w 3"],
    recipient: Generation | UInt8[Tensor, "n h w 3"],
    attributes: Mapping[str, Attribute],
    reference: UInt8[Tensor, "m h w 3"],
    *,
    out: str | Path | None = None,
    pair: Sequence[int] | None = None,
    batch_size: int = 32,
    images: int = 8,
    n_resamples: int = RESAMPLES,
    allow_train: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scan:
    """Swap every carrier over all pairs, and measure what each did.

    Each batch runs donors and recipients once, and the recipients once more with all carriers' own
    values put back, which has to change nothing. Each carrier then costs one run with the donor's
    values and, but for sources, one with its rows moved as far in random directions; what comes
    before its first edit is not run again. With `out`, parts (one per batch and carrier) are
    written as they are done: a scan that was killed goes on where it was and ends in the same
    bytes, and a damaged part is made again. Where RANK and WORLD_SIZE are set (torchrun), part i is
    made by rank i mod world size; whoever finds all parts there gathers them.

    Args:
        model: the model.
        carriers: those to swap, each alone, such as `list_carriers(model, recipient)`; or names of
            hook points.
        donor, recipient: recipes or images as in `interchange`, 10 disjoint pairs or more.
        attributes: name -> function of images uint8 [n, h, w, 3] that gives [n, d_k]. Rows must not
            depend on the other rows.
        reference: other images, whose mean is the origin of each attribute.
        out: folder of the parts; None keeps them in memory.
        pair: [n], as in `make_pairs`.
        batch_size: pairs per run.
        images: pairs whose images are kept.
        allow_train: as in `interchange`.
        n_resamples, seed: as in `measure_effect`; the seed is also that of the random directions.
        progress: called with (0, parts to do, the cost in words) before anything is done (a timed
            run of one batch), then after each part.

    Returns:
        Effects by carrier, corrected over the carriers of one role; of a rank that ends before the
        others, a record with `missing` parts and no effects.

    Raises:
        PointError, InputError: as in `interchange`; fewer than 10 pairs, labels that repeat, own
            values that change something when put back, a folder of another scan (with what
            differs), several ranks without a folder.
    """
    if isinstance(donor, Inversion) or isinstance(recipient, Inversion):
        raise InputError(
            "a scan takes recipes or images, which its folder can name: swap inverted images by "
            "interchange"
        )
    chosen = tuple(list_given(carriers))
    roles = tuple(check_interchange(model, chosen, donor, recipient))
    check_pairing(model, chosen, donor, recipient, allow_train)
    known = dict(attributes)
    job = Job(model, chosen, roles, donor, recipient, known, batch_size, images, seed)
    check_pairs(job, MIN_PAIRS, pair)
    rank, world = find_rank()
    if world > 1 and out is None:
        raise InputError(f"{world} processes share a scan through a folder: give out=")
    origin = embed_images(reference, attributes)
    folder = None if out is None else Path(out)
    if folder is not None:
        open_folder(folder, describe_scan(job, origin, reference))
    store = _Parts(job, folder, (rank, world))
    _fill(store, origin, progress)
    return _gather(store, origin, pair, n_resamples)


class _Parts:
    """The parts of a scan: in memory, or in a folder that processes share."""

    def __init__(self, job: Job, out: Path | None, place: tuple[int, int]) -> None:
        self.job, self.out = job, out
        self.rank, self.world = place
        self.held: dict[int, Arrays] = {}
        self.recomputed: list[str] = []
        self.in_full = 0

    def places(self) -> Iterator[tuple[int, int, int | None]]:
        """Number, batch and carrier (None: donors and recipients) of every part."""
        for batch in range(self.job.n_batches):
            for i in range(self.job.stride):
                yield batch * self.job.stride + i, batch, i - 1 if i else None

    def get(self, index: int, batch: int, carrier: int | None) -> Arrays | None:
        """A part; None where it is not there, or damaged."""
        found = self.held.get(index)
        if found is None and self.out is not None:
            found = read_part(self.out, index)
        one = None if carrier is None else self.job.carriers[carrier]
        return found if fits(self.job, found, batch, one) else None

    def put(self, index: int, arrays: Arrays) -> None:
        """Keep a part."""
        if self.out is None:
            self.held[index] = arrays
        else:
            write_part(self.out, index, arrays)

    def list_todo(self) -> list[Todo]:
        """What this process has still to make, by batch."""
        left: dict[int, list[int | None]] = {}
        for index, batch, carrier in self.places():
            if index % self.world != self.rank or self.get(index, batch, carrier) is not None:
                continue
            left.setdefault(batch, []).append(carrier)
            if self.out is not None and part_path(self.out, index).exists():
                self.recomputed.append(part_path(self.out, index).name)
        return [
            Todo(batch, None in some, tuple(i for i in some if i is not None))
            for batch, some in left.items()
        ]


def _fill(store: _Parts, origin: Mapping[str, np.ndarray], progress: Progress | None) -> None:
    """Make what is missing, batch by batch."""
    job, todo = store.job, store.list_todo()
    total = sum(one.base + len(one.carriers) for one in todo)
    if todo and progress is not None:
        progress(0, total, str(measure_cost(job, todo, probe=True)))
    batches, done = job.batches(), 0
    for left in todo:
        for name in _fill_batch(store, left, batches[left.batch], origin):
            done += 1
            if progress is not None:
                progress(done, total, f"{name}, batch {left.batch + 1} of {job.n_batches}")


def _fill_batch(
    store: _Parts,
    left: Todo,
    batch: tuple[int, Batch, Batch],
    origin: Mapping[str, np.ndarray],
) -> Iterator[str]:
    """Make what is missing of a batch, and name each part when it is there."""
    job = store.job
    # The check of a batch is over all carriers.
    needed = range(len(job.carriers)) if left.base else left.carriers
    opened = open_batch(job, *batch, [job.carriers[i] for i in needed])
    store.in_full += opened.plain.stateful
    first = left.batch * job.stride
    if left.base:
        base = make_base(job, opened)
        for k, (name, rows) in enumerate(origin.items()):
            if rows.shape[1] != base[f"donor.{k}"].shape[1]:
                raise InputError(
                    f"{name} of the reference images has {rows.shape[1]} numbers, of the donors "
                    f"{base[f'donor.{k}'].shape[1]}: give reference images of the model's own size"
                )
        store.put(first, base)
        yield "donors and recipients"
    for i in left.carriers:
        store.put(first + 1 + i, make_part(job, opened, job.carriers[i]))
        yield job.carriers[i].label


def _gather(
    store: _Parts, origin: dict[str, np.ndarray], pair: Sequence[int] | None, n_resamples: int
) -> Scan:
    job = store.job
    parts = {(b, c): store.get(i, b, c) for i, b, c in store.places()}
    missing = sum(part is None for part in parts.values())
    again = tuple(store.recomputed)
    if missing:
        return Scan({}, {}, {}, None, None, {}, len(parts), missing, again, store.in_full)
    if store.out is not None:
        sweep(store.out)

    def column(carrier: int | None, name: str) -> np.ndarray:
        chosen = (parts[batch, carrier] for batch in range(job.n_batches))
        return np.concatenate([part[name] for part in chosen if part is not None])

    def side(carrier: int | None, name: str) -> dict[str, np.ndarray]:
        return {key: column(carrier, f"{name}.{k}") for k, key in enumerate(job.attributes)}

    pairs = make_pairs(side(None, "donor"), side(None, "recipient"), reference=origin, pair=pair)
    swapped = {c.label: side(i, "swapped") for i, c in enumerate(job.carriers)}
    moved = {c.label: side(i, "random") for i, c in enumerate(job.carriers) if not c.fields}
    effects, random = _measure(job, pairs, swapped, moved, n_resamples)

    def shown(carrier: int | None, name: str) -> Tensor:
        return torch.from_numpy(column(carrier, f"{name}.images"))

    pictures = ScanImages(
        shown(None, "donor"),
        shown(None, "recipient"),
        {c.label: shown(i, "swapped") for i, c in enumerate(job.carriers)},
        {c.label: shown(i, "random") for i, c in enumerate(job.carriers) if not c.fields},
    )
    tau = {label: _transfer(pairs, values) for label, values in swapped.items()}
    found = (effects, random, tau, pictures, pairs, swapped)
    return Scan(*found, len(parts), 0, again, store.in_full)


def _measure(
    job: Job,
    pairs: Pairs,
    swapped: Mapping[str, dict[str, np.ndarray]],
    moved: Mapping[str, dict[str, np.ndarray]],
    n_resamples: int,
) -> tuple[dict[str, Effect], dict[str, Effect | None]]:
    effects: dict[str, Effect] = {}
    random: dict[str, Effect | None] = {}
    for carrier, role in zip(job.carriers, job.roles, strict=True):
        label = carrier.label
        tests = job.roles.count(role)
        options: dict[str, Any] = {"n_tests": tests, "n_resamples": n_resamples, "seed": job.seed}
        effects[label] = measure_effect(pairs, swapped[label], carrier=label, role=role, **options)
        random[label] = None
        if label in moved:
            name = f"{label} (random)"
            random[label] = measure_effect(
                pairs, moved[label], carrier=name, role="descendant", **options
            )
    return effects, random


def _transfer(pairs: Pairs, swapped: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in pairs.attributes:
        donor, recipient = pairs.donor[name], pairs.recipient[name]
        equal = bool((donor == recipient).all(1).any())
        value = swapped[name] - pairs.center[name]
        found[name] = None if equal else transfer_ratio(donor, recipient, value)
    return found


def describe_scan(job: Job, origin: Mapping[str, np.ndarray], reference: Tensor) -> dict[str, Any]:
    """Everything that decides the parts of a scan, as flat JSON values."""
    identity = job.model.identity()
    found: dict[str, Any] = {
        "format": 2,
        "model.family": identity["family"],
        "model.dtype": identity["dtype"],
        "model.weights": identity["components"],
        "versions": identity["versions"],
        "batch_size": job.batch_size,
        "images": job.images,
        "seed": job.seed,
        "reference": digest(reference.cpu().numpy()),
        "attributes": list(job.attributes),
    }
    for side, source in (("donor", job.donor), ("recipient", job.recipient)):
        if isinstance(source, Generation):
            # How a recipe would be batched elsewhere decides nothing here.
            values = {k: v for k, v in vars(source).items() if k != "batch_size"}
            found |= {f"{side}.{name}": value for name, value in values.items()}
        else:
            found[f"{side}.images"] = digest(source.cpu().numpy())
    for name, rows in origin.items():
        found[f"attribute {name}"] = _summarize(rows)
    for i, carrier in enumerate(job.carriers):
        found[f"carrier {i}"] = _describe(job, carrier)
    return found


def _summarize(rows: np.ndarray) -> list[float]:
    """Tell attributes apart by the reference rows: width, root mean square, random projections.

    The projections of single rows and their second moments, not their means, which attributes that
    are centered on the reference images have at 0.
    """
    width = rows.shape[1]
    draws = np.random.default_rng(width).standard_normal((width, 4)) / max(width, 1) ** 0.5
    seen = rows.astype(np.float64) @ draws
    moments = np.sqrt((seen**2).mean(0))
    return [width, float(np.sqrt((rows**2).mean())), *moments.tolist(), *seen[:4].ravel().tolist()]


def _describe(job: Job, carrier: Carrier) -> dict[str, Any]:
    batch = first_batch(job.model, job.recipient)
    calls, moments = calls_of(job.model, carrier, batch), list_moments(job.model, batch)
    chosen: Any = None
    if calls is not None:
        known = range(100_000) if moments is None else range(len(moments))
        chosen = [call for call in known if call in calls]
    tensor = carrier.subspace
    return {
        "label": carrier.label,
        "points": list(carrier.points),
        "fields": list(carrier.fields),
        "calls": chosen,
        "cfg": carrier.cfg,
        "role": carrier.role,
        "mask": None if carrier.mask is None else digest(np.array(carrier.mask)),
        "sae": None if carrier.sae is None else carrier.sae.digest,
        "features": list(carrier.features),
        "subspace": None if tensor is None else digest(tensor.detach().cpu().numpy()),
    }
