"""Which SAE features move images: ranked on some seeds, reported on others, beside random ones."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.interventions.ablation import measure_change
from interp.interventions.bench import (
    Bench,
    Progress,
    RunCost,
    embed_change,
    make_bench,
    make_teller,
    move_bench,
    run_bench,
    time_image,
)
from interp.interventions.carriers import Carrier, count_samples
from interp.interventions.clean import (
    Change,
    Source,
    check_disjoint,
    check_place,
    find_reference,
    place_of,
)
from interp.interventions.feature_activity import (
    Activity,
    choose_features,
    correlate,
    measure_activity,
)
from interp.interventions.feature_record import FeatureScan, Reported
from interp.interventions.handles import (
    UNITS,
    check_strengths,
    draw_directions,
    feature_handle,
    make_change,
    make_handle,
)
from interp.interventions.steering_measure import MIN_SEEDS, measure_size
from interp.interventions.substitute import check_fit
from interp.interventions.swapping import Attribute
from interp.models import Generation, Model
from interp.sae import SAE
from interp.stats import FOLDS, make_folds

# Strength of a scan by mode: large enough to see, small enough to stay among the rows; the whole of
# what there is to remove.
STRENGTH = {"add": 0.5, "clamp": 0.5, "suppress": 1.0, "scale": 2.0}
# Winners that are measured again on the other seeds.
TOP = 8
KINDS = ("isotropic", "matched")
OWN = "feature"


def scan_features(
    model: Model,
    sae: SAE,
    point: str | Carrier,
    source_rank: Source,
    source_report: Source,
    attributes: Mapping[str, Attribute],
    *,
    mode: str = "add",
    strength: float | None = None,
    target: str = "",
    features: Sequence[int] | None = None,
    limit: int = 0,
    top: int = TOP,
    n_random: int | None = None,
    reference: Source | None = None,
    batch_size: int = 32,
    allow_train: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> FeatureScan:
    """Steer by every feature that fires, rank them by what images do, and report on other seeds.

    The largest of many noisy effects is too large: the winners are measured again on seeds that
    took no part in choosing them, and so are the winners among as many random directions, the i-th
    of which moves every row exactly as far as the i-th feature does.

    Args:
        model: a model that makes images. sae: of the point.
        point: name of the hook point, or a carrier of one point with calls, half and mask.
        source_rank, source_report: disjoint seeds (or images), at least 10 each.
        attributes: name -> function of images.
        mode, strength: as of `steer`; None: .5, for suppress 1, for scale 2.
        target: attribute whose change ranks; "": all of them.
        features: which to scan; those that do not fire are refused. None: all that fire.
        limit: at most this many, chosen at random; 0: no limit.
        top: how many winners are reported.
        n_random: random directions of each kind; None: as many as features are scanned.
        reference: clean runs of further seeds; None: the next ones.
        batch_size, allow_train, seed, progress: as of `steer`.

    Raises:
        InputError: overlapping seeds, no feature that fires, numbers that make no sense.
        SAEError: the SAE belongs to another point or model, or was trained on these seeds.
        PointError: the point does not exist or does not fire.
    """
    place, sources = place_of(point), (source_rank, source_report)
    task = _check(model, sae, place, (*sources, reference), mode, strength)
    task = task._replace(target=_check_target(target, attributes), seed=seed)
    for source in () if allow_train else sources:
        check_fit(model, sae, task.name, source, False)
    active = measure_activity(model, sae, task.place, source_rank, batch_size)
    chosen = choose_features(active, features, limit, seed)
    n, draws = count_samples(source_rank), len(chosen) if n_random is None else n_random
    tell = make_teller(progress, _count(task, sources, len(chosen), n_random, top), n)
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
    bench = make_bench(model, task.place, source_rank, task.reference, attributes, **options)
    tell(3 * n + count_samples(task.reference))
    ranked = _rank(bench, task, chosen, draws, tell)
    second = move_bench(bench, source_report, batch_size)
    tell(2 * len(second.plain))
    found = _report_winners(second, task, ranked, top, tell)
    known = _describe(bench, task) | _summarize(task, ranked, active, chosen)
    return FeatureScan(**known, **found, n_report=len(second.plain))


def _check_target(target: str, attributes: Mapping[str, Attribute]) -> str:
    if target and target not in attributes:
        raise InputError(f"target {target!r} is not one of the attributes {sorted(attributes)}")
    return target


def _summarize(
    task: "_Task", ranked: "_Ranked", active: Activity, chosen: Int[np.ndarray, " f"]
) -> dict[str, Any]:
    """Fields of the record: every feature's activity and effect on the ranking seeds."""
    names = ranked.effects[0]
    return {
        "features": chosen,
        "activation": active.mean[chosen],
        "density": active.density[chosen],
        "effects": {name: np.array([one[name] for one in ranked.effects]) for name in names},
        "scores": ranked.scores[OWN],
        "random": {kind: ranked.scores[kind] for kind in KINDS},
        "correlation": correlate(active.mean[chosen], ranked.scores[OWN], task.seed),
        "n_firing": int((active.density > 0).sum()),
    }


One = tuple[int, Tensor | None]
"""Feature that sets how far rows move, and the direction in its place (None: its own)."""


class _Ranked(NamedTuple):
    """What the ranking seeds say, by kind of direction; `OWN` are the features."""

    handles: dict[str, list[One]]
    scores: dict[str, np.ndarray]
    effects: list[dict[str, float]]
    """Of the features, by attribute."""


def _rank(
    bench: Bench, task: "_Task", chosen: np.ndarray, draws: int, tell: Callable[..., None]
) -> _Ranked:
    handles: dict[str, list[One]] = {OWN: [(int(feature), None) for feature in chosen]}
    for kind in KINDS:
        drawn = draw_directions(bench.clean[task.name], draws, kind, task.seed)
        # Draw i moves rows as far as scanned feature i does.
        handles[kind] = [(int(chosen[i % len(chosen)]), v) for i, v in enumerate(drawn)]
    effects = {
        kind: [_effects(bench, task, one, tell) for one in ones] for kind, ones in handles.items()
    }
    scores = {kind: _score(found, task.target) for kind, found in effects.items()}
    return _Ranked(handles, scores, effects[OWN])


def _report_winners(
    bench: Bench, task: "_Task", ranked: _Ranked, top: int, tell: Callable[..., None]
) -> dict[str, Any]:
    """Fields of the record: the best features, and the best direction of each random kind."""
    best = {kind: np.argsort(-scores, kind="stable") for kind, scores in ranked.scores.items()}

    def report(kind: str, i: int) -> Reported:
        feature = ranked.handles[kind][i][0] if kind == OWN else None
        label = f"{kind} {feature}" if kind == OWN else f"{kind} direction {i}"
        images = run_bench(bench, _change(bench, task, ranked.handles[kind][i]))
        n = len(images)
        tell(n)
        folds = make_folds(range(n), min(FOLDS, n), task.seed)
        changes = measure_change(bench.plain, images, bench.attributes, folds)
        score = _score([{name: one.size for name, one in changes.items()}], task.target)[0]
        return Reported(label, feature, float(ranked.scores[kind][i]), float(score), changes)

    return {
        "reported": tuple(report(OWN, int(i)) for i in best[OWN][:top]),
        "random_reported": {k: report(k, int(best[k][0])) for k in KINDS if len(best[k])},
    }


def _describe(bench: Bench, task: "_Task") -> dict[str, Any]:
    """Fields of the record that say what was scanned."""
    absolute = task.mode in ("add", "clamp")
    return {
        "model": bench.model.name,
        "point": task.name,
        "sae": task.sae.digest,
        "mode": task.mode,
        "strength": task.strength,
        "unit": bench.clean[task.name].unit if absolute else 1.0,
        "unit_words": UNITS[task.mode],
        "target": task.target,
        "n_latents": task.sae.n_latents,
        "n_rank": len(bench.plain),
        "seed": task.seed,
    }


class _Task(NamedTuple):
    """What is scanned, after all checks."""

    place: Carrier
    name: str
    reference: Source
    mode: str
    strength: float
    sae: SAE
    """On the device of the model."""
    target: str = ""
    seed: int = 0


def _check(
    model: Model,
    sae: SAE,
    place: Carrier,
    sources: tuple[Source, Source, Source | None],
    mode: str,
    strength: float | None,
) -> _Task:
    if len(place.points) != 1:
        raise InputError(f"{place.label}: a scan takes one point, not {len(place.points)}")
    make_handle(model, place.points[0], sae=sae, feature=0, mode=mode)
    dose = STRENGTH[mode] if strength is None else strength
    check_strengths(mode, [dose])
    rank, report, given = sources
    for source in (rank, report):
        if count_samples(source) < MIN_SEEDS:
            raise InputError(
                f"{count_samples(source)} seeds: ranking and reporting need {MIN_SEEDS} or more"
            )
    check_disjoint(rank, report, "the reporting runs")
    place = check_place(model, place, rank)
    other = _find_reference(rank, report, given)
    coder = copy.deepcopy(sae).to(model.device)
    return _Task(place, place.points[0], other, mode, dose, coder)


def _find_reference(rank: Source, report: Source, given: Source | None) -> Source:
    """Clean runs that are in neither: those given, or the seeds after both."""
    if given is None and isinstance(rank, Generation) and isinstance(report, Generation):
        last = rank if rank.seed > report.seed else report
        return find_reference(last, None)
    if given is None:
        raise InputError("images to edit need other images as reference=")
    check_disjoint(rank, given, "the reference")
    check_disjoint(report, given, "the reference")
    return given


def estimate_scan_features(
    model: Model,
    sae: SAE,
    point: str | Carrier,
    source_rank: Source,
    source_report: Source,
    *,
    features: Sequence[int] | None = None,
    limit: int = 0,
    top: int = TOP,
    n_random: int | None = None,
    reference: Source | None = None,
    batch_size: int = 32,
    allow_train: bool = False,
    seed: int = 0,
) -> RunCost:
    """Say how many images `scan_features` with these arguments makes, and how long that takes.

    Runs the ranking seeds once, to count the features that fire, and times one batch.
    Raises what `scan_features` raises for its sources and features.
    """
    task = _check(model, sae, place_of(point), (source_rank, source_report, reference), "add", None)
    for source in (source_rank, source_report):
        check_fit(model, sae, task.name, source, allow_train)
    active = measure_activity(model, sae, task.place, source_rank, batch_size)
    chosen = choose_features(active, features, limit, seed)
    images = _count(task, (source_rank, source_report), len(chosen), n_random, top)
    return RunCost(images, images * time_image(model, source_rank, batch_size))


def _count(
    task: _Task, sources: tuple[Source, Source], found: int, n_random: int | None, top: int
) -> int:
    """Images of a scan: clean and unchanged runs, features, draws, and the winners again."""
    draws = found if n_random is None else n_random
    n, second = map(count_samples, sources)
    rest = (2 + min(top, found) + len(KINDS) * (draws > 0)) * second
    return count_samples(task.reference) + n * (3 + found + len(KINDS) * draws) + rest


def _change(bench: Bench, task: _Task, one: One) -> Change:
    feature, along = one
    # The SAE was checked once; every feature only differs in its direction.
    handle = feature_handle(task.sae, feature, task.mode)
    return make_change(handle, task.strength, bench.clean[task.name].unit, along)


def _effects(bench: Bench, task: _Task, one: One, tell: Callable[..., None]) -> dict[str, float]:
    """Size of the change of each attribute in its scale."""
    moved = embed_change(bench, run_bench(bench, _change(bench, task, one)))
    tell()
    return {
        name: float(measure_size(value[None])[0]) / bench.scales[name]
        for name, value in moved.items()
    }


def _score(effects: Sequence[Mapping[str, float]], target: str) -> Float[np.ndarray, " f"]:
    """The target's effect, or the root mean square over attributes."""
    rows = [[one[target]] if target else list(one.values()) for one in effects]
    return np.sqrt((np.array(rows).reshape(len(rows), -1) ** 2).mean(1)) if rows else np.zeros(0)
