"""atlas(): the founding experiment on one model, from its carriers to two verdicts in words."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from interp.atlas.bases import make_images
from interp.atlas.compact import count_image, held_out_images, source_carriers, weigh_sources
from interp.atlas.config import AtlasConfig
from interp.atlas.deviations import measure_deviations
from interp.atlas.files import refuse_other_run
from interp.atlas.games import merge_players, remember
from interp.atlas.job import Clock, Job, Tiles
from interp.atlas.judging import judge, record_check, run_controls
from interp.atlas.labor import Labor, ablate_kinds, list_kinds, share_kinds, share_labor
from interp.atlas.pairing import warn_of_texts
from interp.atlas.parts import recipe_hash
from interp.atlas.plan import Plan, identify, make_plan, share_recipe
from interp.atlas.public import public_protocol
from interp.atlas.public_record import PublicConfig
from interp.atlas.record import (
    Arm,
    Atlas,
    AttributeRecord,
    CarrierRow,
    Curve,
    KindRow,
    LayerStudy,
    ModelRecord,
    SourceCompactness,
    StepMap,
    VerdictRecord,
)
from interp.atlas.swaps import (
    independent_side,
    list_table,
    make_map,
    make_rows,
    record_arm,
    reference_rows,
    shared_side,
    swap_all,
)
from interp.atlas.twins import MakeTwin, list_training_seeds, twin_maker
from interp.atlas.words import (
    ATTRIBUTES,
    NOT_MEASURED,
    image_sentence,
    scope_of,
    seed_sentence,
    step_sentence,
)
from interp.errors import InputError
from interp.interventions import (
    Carrier,
    Pairs,
    SourceEvidence,
    embed_images,
    make_attributes,
    make_pairs,
)
from interp.interventions.swapping import Attribute
from interp.loading import load
from interp.models import Model

WHAT = {
    "independent": "Donor and recipient share nothing: other noise, other class or text.",
    "shared noise": "Donor and recipient have equal noise and differ in class or text alone.",
}


def atlas(
    model: Model | str,
    config: AtlasConfig | None = None,
    out: str | Path | None = None,
    *,
    twin: MakeTwin | None = None,
    attributes: Mapping[str, Attribute] | None = None,
    public: PublicConfig | None = None,
    progress: Callable[[str], None] | None = None,
    starting: Callable[[str], None] | None = None,
    made_by: str = "",
) -> Atlas:
    """Measure what each carrier of a model decides, and judge it by the committed rule.

    Sources, stages of writes, kinds of modules and block outputs are swapped between disjoint pairs
    of images; stages play all subsets, alone, within step windows, on untrained twins, on band
    twins of the images and with the skips cut; directions of the sources are counted. The planted
    controls run first: without them passing there is no verdict.

    Args:
        model: a spec ("zoo:ddpm", "diffusers:<id or folder>") or a loaded model.
        config: sizes and seeds; None: the defaults.
        out: folder for `Atlas.save` and for finished parts, with which a killed run goes on. It may
            hold an earlier atlas of equal model and settings, which is then replaced.
        twin: seed -> the same architecture with fresh weights, for models that no spec names.
        attributes: name -> function of images uint8 [n, h, w, 3], or floats in [0, 1], that gives
            [n, d_k]; two or more, in place of those that `config` names.
        public: also follow the public experiment's protocol (`public_protocol`), for models that
            take prompts; its measures and its flaws then stand in the record.
        progress: called with a line of text as each stage ends.
        starting: called with the name of each stage as it starts.
        made_by: command or call, for the record.

    Returns:
        The atlas, saved where `out` is given.

    Raises:
        InterpError: bad settings, a model that makes no images, too few prompts, carriers or runs
            that do not fit, a folder with the atlas of another run.
    """
    config = config or AtlasConfig()
    clock = Clock(progress or (lambda line: None), starting=starting)
    spec = model if isinstance(model, str) else None
    with clock.stage("load the model and check what is asked for"):
        loaded = load(model, device=config.device) if isinstance(model, str) else model
        plan = make_plan(loaded, config, attributes)
        if out is not None:
            refuse_other_run(out, identify(plan))
        if public is not None and not plan.drawn.donor.prompts:
            raise InputError(f"{loaded.name} takes no prompts: the public protocol is about them")
        make_twin = twin_maker(loaded, spec, twin)
    with clock.stage("planted controls"):
        controls = run_controls()
    with clock.stage("make donors, recipients and others"):
        job = _prepare(plan, Path(out) if out is not None else None, clock)
    parts = _measure(job, make_twin)
    found = _record(job, parts, _judge(job, parts), made_by)
    found = dataclasses.replace(found, controls=tuple(map(record_check, controls.checks)))
    if public is not None:
        with clock.stage("the public experiment's protocol"):
            followed = public_protocol(
                loaded, public, encoder=plan.encoder, attributes=plan.attributes
            )
        found = dataclasses.replace(found, protocol=followed.as_dict())
        found = dataclasses.replace(found, seconds=dict(clock.seconds))
    if out is not None:
        found.save(out)
    return found


def _prepare(plan: Plan, out: Path | None, clock: Clock) -> Job:
    """Make the unedited images and the attributes that are scaled on the references."""
    model, config, sizes, drawn = plan.model, plan.config, plan.sizes, plan.drawn
    held_out = make_images(model, drawn.fit)
    reference = held_out[: sizes.n_reference]
    named = plan.attributes or make_attributes(reference, config.attributes, encoder=plan.encoder)
    attributes = remember(named, reference)
    donors, recipients = (make_images(model, one) for one in (drawn.donor, drawn.recipient))
    sides = (embed_images(x, attributes) for x in (donors, recipients, reference))
    pairs = make_pairs(next(sides), next(sides), reference=next(sides))
    return Job(
        model=model,
        config=config,
        sizes=sizes,
        recipe=plan.recipe,
        drawn=drawn,
        attributes=attributes,
        reference=reference,
        held_out=held_out,
        donors=donors,
        recipients=recipients,
        pairs=pairs,
        sources=tuple(model.sources(drawn.donor)),
        stages=plan.stages,
        calls=plan.calls,
        noise=plan.noise,
        folder=None if out is None else out / "parts" / recipe_hash(_key(plan, pairs)),
        tiles=Tiles(),
        clock=clock,
        warnings=warn_of_texts(drawn),
    )


def _key(plan: Plan, pairs: Pairs) -> dict[str, Any]:
    """What decides an atlas: weights, settings, recipes, and what the attributes make of images."""
    about = plan.model.identity()
    digest = hashlib.sha256()
    for side in (pairs.donor, pairs.recipient, pairs.center):
        for name, values in side.items():
            digest.update(name.encode() + values.tobytes())
    return {
        "weights": about["components"],
        "spec": about["spec"],
        "versions": about["versions"],
        "sizes": plan.sizes._asdict(),
        "config": dataclasses.asdict(plan.config),
        "recipes": [dataclasses.asdict(one) for one in plan.drawn[:4]],
        "images": digest.hexdigest(),
    }


class _Parts(NamedTuple):
    """What was measured."""

    arms: list[Arm]
    rows: list[CarrierRow]
    maps: list[StepMap]
    layers: list[LayerStudy]
    kinds: list[KindRow]
    evidence: list[SourceEvidence]
    compactness: list[SourceCompactness]
    image: Curve
    labor: Labor


def _measure(job: Job, make_twin: MakeTwin) -> _Parts:
    side, clock = independent_side(job), job.clock
    arms = [record_arm(job, side, WHAT[side.name])]
    rows = reference_rows(job, side)
    kinds = list_kinds(job)
    carriers = [*source_carriers(job), *list_table(job, kinds)]
    with clock.stage(
        f"{len(carriers)} carriers, each alone: sources, stages, kinds, block outputs"
    ):
        found = swap_all(job, side, carriers, "carriers")
    with clock.stage("how far swapped states are from clean ones"):
        far = measure_deviations(job, side.donor, side.recipient, carriers)
        rows += make_rows(job, side, found, carriers, far)
    maps = []
    if job.calls > 1:
        with clock.stage("stages within step windows"):
            maps += [one for one in (make_map(job, side),) if one is not None]
    shared = _measure_shared(job)
    arms, rows = [*arms, *shared[0]], [*rows, *shared[1]]
    with clock.stage("directions of the sources and of images"):
        image = count_image(job)
        evidence, compactness = weigh_sources(job, found.effects, image)
    labor = share_labor(job, make_twin)
    layers, ablated = [labor.study], []
    if kinds:
        with clock.stage("kinds of modules: all subsets, and mean ablation"):
            layers.append(share_kinds(job, kinds))
            tiles = {row.name: row.images for row in rows if row.arm == side.name}
            ablated = ablate_kinds(job, kinds, found.effects, tiles)
    return _Parts(arms, rows, maps, layers, ablated, evidence, compactness, image, labor)


def _measure_shared(job: Job) -> tuple[list[Arm], list[CarrierRow]]:
    """The arm of equal noise, where there is one and its pairs differ at all."""
    side = shared_side(job)
    if side is None:
        return [], []
    with job.clock.stage("equal noise, other class or text"):
        carriers = _varied(job)
        try:
            found = swap_all(job, side, carriers, "shared")
        except InputError as error:
            job.warnings.append(f"the arm of equal noise is left out: {error}")
            return [], []
        arm = record_arm(job, side, WHAT[side.name])
        return [arm], make_rows(job, side, found, carriers, {})


def _varied(job: Job) -> list[Carrier]:
    """Sources that differ where noise is equal, and the stages."""
    fields = job.model.sources(job.drawn.donor)
    names = {name for name, field in fields.items() if field in ("prompts", "classes")}
    alone = [one for one in source_carriers(job) if set(one.fields) <= names]
    return [*alone, *merge_players(job.stages, job.sizes.players)]


def _judge(job: Job, parts: _Parts) -> VerdictRecord | None:
    """The verdict; where the rule lacks something, a warning in its place."""
    try:
        return judge(parts.evidence, *parts.labor[1:])
    except InputError as error:
        job.warnings.append(f"no verdict: {error}")
        return None


def _record(job: Job, parts: _Parts, verdict: VerdictRecord | None, made_by: str) -> Atlas:
    drawn, config = job.drawn, job.config
    seeds = list_training_seeds(job.model.name)
    notes = [seed_sentence(seeds)]
    if job.calls > 1:
        notes.append(step_sentence(job.recipe.steps, job.calls, job.recipe.scheduler))
    if config.quick:
        job.warnings.append("A quick atlas: numbers too rough to quote.")
    if parts.image.d_star is None and parts.image.kept:
        job.warnings.append(_censored(job, parts.image))
    return Atlas(
        model=_model_record(job, seeds),
        attributes=tuple(
            AttributeRecord(name, x.shape[1], ATTRIBUTES.get(name, name))
            for name, x in job.pairs.donor.items()
        ),
        config=dataclasses.asdict(config),
        recipe=share_recipe(job.recipe),
        n_pairs=job.pairs.n_pairs,
        n_reference=len(job.reference),
        seeds={**drawn.seeds, "all": config.seed},
        arms=tuple(parts.arms),
        carriers=tuple(parts.rows),
        maps=tuple(parts.maps),
        layers=tuple(parts.layers),
        compactness=tuple(parts.compactness),
        image_curve=parts.image,
        kinds=tuple(parts.kinds),
        controls=(),
        verdict=verdict,
        scope=scope_of(job.model.name),
        not_measured=(*notes, *NOT_MEASURED),
        seconds=dict(job.clock.seconds),
        warnings=tuple(job.warnings),
        made_by=made_by,
        images=job.tiles.stack(),
    )


def _censored(job: Job, image: Curve) -> str:
    images = held_out_images(job)
    # The zoo's own data are used whole; a model's images can be any number.
    more = len(images) <= len(job.held_out)
    return image_sentence(image.rank, len(images), quick=job.config.quick, more=more)


def _model_record(job: Job, seeds: Sequence[str]) -> ModelRecord:
    about = job.model.identity()
    return ModelRecord(
        spec=about["spec"],
        family=about["family"],
        class_name=about["class"],
        weights_sha256=about["weights_sha256"],
        untrained=bool(about["untrained"]),
        training_seeds=tuple(seeds),
        versions={k: str(v) for k, v in about["versions"].items()},
        image_size=(int(job.donors.shape[1]), int(job.donors.shape[2])),
    )
