"""Steering: move a point's rows along a direction or feature, and measure what images do."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.interventions.bench import (
    Bench,
    Progress,
    RunCost,
    check_same,
    embed_change,
    make_bench,
    make_teller,
    measure_distances,
    run_bench,
    run_reading,
    time_image,
)
from interp.interventions.carriers import Carrier, count_samples
from interp.interventions.clean import Clean, Source, find_reference
from interp.interventions.handles import (
    NEUTRAL,
    UNITS,
    Handle,
    check_strengths,
    draw_directions,
    find_amounts,
    make_change,
)
from interp.interventions.steering_measure import (
    choose_target,
    measure_draw,
    measure_off_target,
    measure_responses,
    summarize_rows,
)
from interp.interventions.steering_plan import Plan, check_draws, check_steering
from interp.interventions.steering_record import Control, Distance, DoseResponse
from interp.interventions.swapping import Attribute
from interp.models import Generation, Model
from interp.sae import SAE

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
    options: dict[str, Any] = {"strengths": strengths, "target": target, "later": later}
    options |= {"n_random": n_random, "n_scanned": n_scanned, "allow_train": allow_train}
    handle = (direction, sae, feature, mode)
    plan = check_steering(model, point, source, tuple(attributes), handle, **options, seed=seed)
    sources = (source, find_reference(source, reference))
    bench, moved, known = _run(model, plan, sources, attributes, batch_size, progress)
    known |= _measure(bench.scales, plan, moved, target)
    known |= {"shown_seeds": numbers_of(source)[:shown], "plain": bench.plain[:shown].numpy()}
    return DoseResponse(**known | {"images": known["images"][:, :shown]})


def _run(
    model: Model,
    plan: Plan,
    sources: tuple[Source, Source],
    attributes: Mapping[str, Attribute],
    batch_size: int,
    progress: Progress | None,
) -> tuple[Bench, dict[str, np.ndarray], dict[str, Any]]:
    """The bench, the changes by attribute, and the fields of the record that need no statistics."""
    source, other = sources
    n = count_samples(source)
    images = count_steering(n, plan.doses, plan.handle.mode, plan.n_random) + count_samples(other)
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
    tell(2 * n + count_samples(other))
    made, moved, distances = _run_doses(bench, plan, tell)
    controls = {kind: _run_controls(bench, plan, kind, tell) for kind in KINDS}
    settings = describe_settings(model, plan.place, source, other, plan.seed)
    more = {"images": made.numpy(), "off_distribution": distances, "settings": settings}
    return bench, moved, _describe(bench, plan) | controls | more


def count_steering(n: int, doses: Sequence[float], mode: str, n_random: int) -> int:
    """Images of `steer` over n seeds, without those of the reference."""
    moving = sum(dose != NEUTRAL[mode] for dose in doses)
    return n * (2 + len(doses) + len(KINDS) * n_random * moving)


def estimate_steering(
    model: Model,
    source: Source,
    *,
    point: str | Carrier | None = None,
    attributes: Sequence[str] = (),
    direction: Float[Tensor, " d"] | np.ndarray | None = None,
    sae: SAE | None = None,
    feature: int | None = None,
    mode: str = "add",
    strengths: Sequence[float] | None = None,
    reference: Source | None = None,
    n_random: int | None = None,
    n_scanned: int = 1,
    target: str = "",
    batch_size: int = 32,
    allow_train: bool = False,
) -> RunCost:
    """Say how many images `steer` with these arguments makes, and how long, from one timed batch.

    point: where given, all that `steer` refuses before its first image is refused here. attributes:
    their names.
    Raises as `steer`.
    """
    other = find_reference(source, reference)
    doses, draws = check_strengths(mode, strengths), check_draws(n_random, n_scanned)
    if point is not None:
        handle, given = (direction, sae, feature, mode), attributes or (target,)
        checked: dict[str, Any] = {"target": target, "allow_train": allow_train}
        check_steering(model, point, source, given, handle, strengths=doses, **checked)
    images = count_steering(count_samples(source), doses, mode, draws) + count_samples(other)
    return RunCost(images, images * time_image(model, source, batch_size))


def _run_doses(
    bench: Bench, plan: Plan, tell: Callable[..., None]
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
    bench: Bench, plan: Plan, kind: str, tell: Callable[..., None]
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
    scales: Mapping[str, float], plan: Plan, moved: Mapping[str, np.ndarray], target: str
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


def _describe(bench: Bench, plan: Plan) -> dict[str, Any]:
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
    return tuple(range(start, start + count_samples(source)))


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
