"""Steering: move a point's rows along a direction or feature, and measure what images do."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError, PointError
from interp.interventions.bench import (
    Bench,
    Progress,
    RunCost,
    check_same,
    count_images,
    embed_change,
    make_bench,
    make_teller,
    measure_distances,
    run_bench,
    run_reading,
    time_image,
)
from interp.interventions.carriers import Carrier
from interp.interventions.clean import Clean, Source, check_place, find_reference, place_of
from interp.interventions.handles import (
    NEUTRAL,
    UNITS,
    Handle,
    check_strengths,
    draw_directions,
    find_amounts,
    make_change,
    make_handle,
)
from interp.interventions.steering_measure import (
    Design,
    choose_target,
    make_design,
    measure_draw,
    measure_off_target,
    measure_responses,
    summarize_rows,
)
from interp.interventions.steering_record import Control, Distance, DoseResponse
from interp.interventions.substitute import check_fit
from interp.interventions.swapping import Attribute
from interp.models import Generation, Model
from interp.sae import SAE

# Draws of each kind of random direction where fewer features were scanned: their mean is then
# known to about a third of its spread.
N_RANDOM = 8
# Seeds whose pictures are kept.
SHOWN = 4
KINDS = ("isotropic", "matched")


def steer(
    model: Model,
    point: str | Carrier,
    source: Source,
    *,
    attributes: Mapping[str, Attribute],
    direction: Float[Tensor, " d"] | np.ndarray | None = None,
    sae: SAE | None = None,
    feature: int | None = None,
    mode: str = "add",
    strengths: Sequence[float] | None = None,
    reference: Source | None = None,
    n_random: int | None = None,
    n_scanned: int = 1,
    target: str = "",
    later: str | None = None,
    shown: int = SHOWN,
    batch_size: int = 32,
    allow_train: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> DoseResponse:
    """Steer a model at several strengths and measure what changes in its images.

    A row x at the point becomes x + a(x, s) v, v the unit direction: with u the root mean squared
    deviation of clean rows from their mean, and f(x) the length of the feature's part of x,

        add: a = s u     clamp: a = s u - f     suppress: a = -s f     scale: a = (s - 1) f

    so that what an SAE does not reconstruct stays in every mode. Per strength and attribute k,
    over seeds i and in units of the distance between two seeds' images: the mean of
    <phi_k(C_i) - phi_k(B_i), axis>, where axis is the mean change at the extreme strength over the
    *other* half of the seeds; the root mean squared length of the change; both again for random
    directions, which move every row as far. At the neutral strength images must equal the unedited
    ones to the last bit.

    Args:
        model: a model that makes images from `source`.
        point: name of the hook point; or a carrier of one point with calls, guidance half, mask.
        source: a recipe of at least 10 seeds, or images for autoencoders to reconstruct.
        attributes: name -> function of images, as `make_attributes` makes them.
        direction: [d] of any length. sae, feature: in its place, an SAE of the point and the number
            of a latent.
        mode: add, clamp, suppress or scale; all but add need an SAE.
        strengths: None: those of the mode. Units: `DoseResponse.unit_words`.
        reference: clean runs of other seeds, for u, covariance and distances; None: the next seeds.
        n_random: random directions of each kind; None: `n_scanned`, at least 8; 0: none.
        n_scanned: how many features were scanned to choose this one; controls take the largest of
            as many draws.
        target: attribute that should change; "": the one that does most on half of the seeds.
        later: a later point whose distance from clean rows is taken too; None: the next block
            output; "": none.
        shown: seeds whose pictures are kept.
        batch_size: images per run where the source is images.
        allow_train: let seeds in on whose images the SAE was trained.
        seed: of halves, folds and random directions.
        progress: called with (images made, images in all).

    Raises:
        InputError: a handle, strength, attribute or source that makes no sense; overlapping seeds;
            runs that are not repeatable.
        SAEError: the SAE belongs to another point or model, or was trained on these seeds.
        PointError: a point does not exist or does not fire at the calls.
    """
    place = place_of(point)
    handle = _handle(model, place, source, (direction, sae, feature, mode), allow_train)
    place = check_place(model, place, source)
    if target and target not in attributes:
        raise InputError(f"target {target!r} is not one of the attributes {sorted(attributes)}")
    doses = check_strengths(mode, strengths)
    points = (place.points[0], *find_later(model, place.points[0], source, later))
    design = make_design(count_images(source), doses, NEUTRAL[mode], seed)
    draws = check_draws(n_random, n_scanned)
    plan = _Plan(place, handle, doses, points, design, draws, n_scanned, seed)
    sources = (source, find_reference(source, reference))
    bench, moved, known = _run(model, plan, sources, attributes, batch_size, progress)
    known |= _measure(bench.scales, plan, moved, target)
    known |= {"shown_seeds": numbers_of(source)[:shown], "plain": bench.plain[:shown].numpy()}
    return DoseResponse(**known | {"images": known["images"][:, :shown]})


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is run, after all checks."""

    place: Carrier
    handle: Handle
    doses: tuple[float, ...]
    points: tuple[str, ...]
    """The edited point, and a later one where there is one."""
    design: Design
    n_random: int
    n_scanned: int
    seed: int


def _run(
    model: Model,
    plan: _Plan,
    sources: tuple[Source, Source],
    attributes: Mapping[str, Attribute],
    batch_size: int,
    progress: Progress | None,
) -> tuple[Bench, dict[str, np.ndarray], dict[str, Any]]:
    """The bench, the changes by attribute, and the fields of the record that need no statistics."""
    source, other = sources
    n = count_images(source)
    images = count_steering(n, plan.doses, plan.handle.mode, plan.n_random) + count_images(other)
    tell = make_teller(progress, images, n)
    bench = make_bench(
        model,
        plan.place,
        source,
        other,
        attributes,
        points=plan.points,
        batch_size=batch_size,
        seed=plan.seed,
    )
    tell(2 * n + count_images(other))
    made, moved, distances = _run_doses(bench, plan, tell)
    controls = {kind: _run_controls(bench, plan, kind, tell) for kind in KINDS}
    settings = describe_settings(model, plan.place, source, other, plan.seed)
    more = {"images": made.numpy(), "off_distribution": distances, "settings": settings}
    return bench, moved, _describe(bench, plan) | controls | more


def _handle(
    model: Model, place: Carrier, source: Source, given: tuple[Any, ...], allow_train: bool
) -> Handle:
    if len(place.points) != 1:
        raise InputError(f"{place.label}: steering takes one point, not {len(place.points)}")
    direction, sae, feature, mode = given
    if sae is not None:
        check_fit(model, sae, place.points[0], source, allow_train)
    return make_handle(
        model, place.points[0], direction=direction, sae=sae, feature=feature, mode=mode
    )


def check_draws(n_random: int | None, n_scanned: int) -> int:
    """Return how many random directions of each kind are drawn.

    Raises InputError for negative numbers, and for no feature scanned.
    """
    if n_scanned < 1 or (n_random is not None and n_random < 0):
        raise InputError(f"n_scanned = {n_scanned} has to be >= 1, n_random = {n_random} >= 0")
    return max(N_RANDOM, n_scanned) if n_random is None else n_random


def count_steering(n: int, doses: Sequence[float], mode: str, n_random: int) -> int:
    """Images of `steer` over n seeds, without those of the reference."""
    moving = sum(dose != NEUTRAL[mode] for dose in doses)
    return n * (2 + len(doses) + len(KINDS) * n_random * moving)


def estimate_steering(
    model: Model,
    source: Source,
    *,
    mode: str = "add",
    strengths: Sequence[float] | None = None,
    reference: Source | None = None,
    n_random: int | None = None,
    n_scanned: int = 1,
    batch_size: int = 32,
) -> RunCost:
    """Say how many images `steer` with these arguments makes, and how long, from one timed batch.

    Raises InputError as `steer`.
    """
    other = find_reference(source, reference)
    doses, draws = check_strengths(mode, strengths), check_draws(n_random, n_scanned)
    images = count_steering(count_images(source), doses, mode, draws) + count_images(other)
    return RunCost(images, images * time_image(model, source, batch_size))


def find_later(model: Model, point: str, source: Source, later: str | None) -> tuple[str, ...]:
    """Return the later point as a tuple of one name or none.

    None takes the next block output of the image stream.
    Raises PointError for a point that does not exist, does not fire or is not later.
    """
    names = model.points_in("generate" if isinstance(source, Generation) else "encode")
    after = names[names.index(point) + 1 :] if point in names else ()
    if later == "":
        return ()
    if later is None:
        blocks = (n for n in after if _is_block(model, n) and model.points[n].module != point)
        return tuple(blocks)[:1]
    model.point(later)
    if later not in after:
        raise PointError(f"{later} does not come after {point} in {model.name}")
    return (later,)


def _is_block(model: Model, name: str) -> bool:
    point = model.points[name]
    return point.kind == "resid" and point.stream == "image" and not name.endswith(":main")


def _run_doses(
    bench: Bench, plan: _Plan, tell: Callable[..., None]
) -> tuple[Tensor, dict[str, np.ndarray], dict[str, tuple[Distance, ...]]]:
    """Images [S, n, h, w, 3], changes by attribute [S, n, d], distances by point."""
    unit = bench.clean[plan.points[0]].unit
    images, changes, rows = [], [], []
    for dose in plan.doses:
        change = make_change(plan.handle, dose, unit)
        made, read = run_reading(bench, change, plan.points, plan.seed)
        if dose == NEUTRAL[plan.handle.mode]:
            check_same(bench.plain, made, f"{plan.handle.mode} at strength {dose}")
        images.append(made)
        changes.append(embed_change(bench, made))
        rows.append(read)
        tell()
    moved = {name: np.stack([one[name] for one in changes]) for name in bench.attributes}
    distances = {
        point: measure_distances(bench.clean[point], [read[point] for read in rows])
        for point in plan.points
    }
    return torch.stack(images), moved, distances


def _run_controls(
    bench: Bench, plan: _Plan, kind: str, tell: Callable[..., None]
) -> dict[str, tuple[Control, ...]]:
    """Controls of one kind: every direction at every strength that moves rows."""
    clean = bench.clean[plan.points[0]]
    rows = []
    for along in draw_directions(clean, plan.n_random, kind, plan.seed):
        moved = {name: np.zeros((len(plan.doses), *v.shape)) for name, v in bench.embedded.items()}
        for i, dose in enumerate(plan.doses):
            if dose == NEUTRAL[plan.handle.mode]:
                continue
            change = make_change(plan.handle, dose, clean.unit, along)
            for name, value in embed_change(bench, run_bench(bench, change)).items():
                moved[name][i] = value
            tell()
        rows.append(measure_draw(moved, bench.scales, plan.design))
    return summarize_rows(rows, plan.n_scanned)


def _measure(
    scales: Mapping[str, float], plan: _Plan, moved: Mapping[str, np.ndarray], target: str
) -> dict[str, Any]:
    """Fields of the record that come from the changes of the handle itself."""
    chosen, keep = choose_target(moved, scales, plan.design, target)
    return {
        "scale": dict(scales),
        "responses": measure_responses(moved, scales, plan.design),
        "target": chosen,
        "target_given": bool(target),
        "off_target": measure_off_target(moved, scales, plan.design, chosen, keep),
    }


def _describe(bench: Bench, plan: _Plan) -> dict[str, Any]:
    """Fields of the record that say what was steered."""
    handle, clean = plan.handle, bench.clean[plan.points[0]]
    absolute = handle.mode in ("add", "clamp")
    return {
        "model": bench.model.name,
        "point": plan.points[0],
        "label": handle.label,
        "sae": "" if handle.sae is None else handle.sae.digest,
        "feature": handle.feature,
        "direction": handle.digest,
        "mode": handle.mode,
        "strengths": plan.doses,
        "neutral": NEUTRAL[handle.mode],
        "unit": clean.unit if absolute else 1.0,
        "unit_words": UNITS[handle.mode],
        "spread": float((clean.rows @ handle.direction).std()) / clean.unit,
        "shifts": find_shifts(handle, clean, plan.doses),
        "attributes": tuple(bench.attributes),
        "n_random": plan.n_random,
        "n_scanned": plan.n_scanned,
        "n_seeds": len(bench.plain),
    }


def find_shifts(handle: Handle, clean: Clean, doses: Sequence[float]) -> tuple[float, ...]:
    """Root mean squared length by which clean rows move at each strength, in their units."""
    with torch.no_grad():
        amounts = [find_amounts(handle, clean.rows, dose, clean.unit) for dose in doses]
    return tuple(float(a.square().mean().sqrt()) / clean.unit for a in amounts)


def numbers_of(source: Source) -> tuple[int, ...]:
    """Return the seeds of a recipe, or the numbers of images."""
    start = source.seed if isinstance(source, Generation) else 0
    return tuple(range(start, start + count_images(source)))


def describe_settings(
    model: Model, place: Carrier, source: Source, reference: Source, seed: int
) -> dict[str, Any]:
    """Return what a rerun needs, as JSON values."""
    calls = place.calls
    return {
        "source": _source(source),
        "reference": _source(reference),
        "calls": None if calls is None else _calls(calls),
        "cfg": place.cfg,
        "mask": None if place.mask is None else list(place.mask),
        "seed": seed,
        "identity": model.identity(),
    }


def _calls(calls: Any) -> list[int] | str:
    return [int(call) for call in calls] if isinstance(calls, Iterable) else repr(calls)


def _source(source: Source) -> dict[str, Any]:
    if isinstance(source, Generation):
        return dataclasses.asdict(source)
    digest = hashlib.sha256(source.cpu().contiguous().numpy().tobytes()).hexdigest()
    return {"images": list(source.shape), "sha256": digest}
