"""Who does what: the game over stages, its twins, the same with the step fixed, and by kind."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.atlas.games import (
    Arms,
    cut_windows,
    in_window,
    join_carriers,
    merge_players,
    play_parts,
    take_rows,
)
from interp.atlas.job import Job
from interp.atlas.parts import recipe_hash
from interp.atlas.record import Interval, KindRow, LayerStudy
from interp.atlas.tables import (
    cells,
    excess_interval,
    share_table,
    specialization_interval,
)
from interp.atlas.twins import MakeTwin, Untrained, find_skips
from interp.errors import InputError, InterpError
from interp.interventions import (
    Carrier,
    Effect,
    Excess,
    Game,
    LayerShares,
    Specialization,
    ablate,
    compare_twins,
    deal_frequencies,
    embed_images,
    exceed_nothing,
    list_carriers,
    make_pairs,
    measure_effect,
    measure_layers,
    measure_specialization,
    play_bands,
)
from interp.interventions.swapping import Attribute
from interp.models import Model

STUDIES = {
    "write": (
        "writes by stage",
        "What each stage adds to the stream it writes to (or is told), swapped in all subsets of "
        "stages.",
    ),
    "descendant": (
        "outputs by stage",
        "The output of each stage of a chain without residual writes, swapped in all subsets of "
        "stages: graph cuts, which show wiring and support no claim of specialization.",
    ),
}
# The decision rule asks for this many initializations; a twin whose swaps move nothing is no twin.
_TRIES = 2
_HALF = " at half contrast"


class Labor(NamedTuple):
    """The study, and what the rule takes of it."""

    study: LayerStudy
    shares: LayerShares
    excess: Excess
    """Over untrained twins; undefined where swaps move too few of them."""
    bands: Excess
    """Over band twins."""


def share_labor(job: Job, make_twin: MakeTwin) -> Labor:
    """Play the stages of the writes, on the model, its twins of both kinds and its wiring twin."""
    players = merge_players(job.stages, job.sizes.players)
    with job.clock.stage(f"{2 ** len(players) - 1} subsets of {len(players)} stages"):
        both = play_parts(job.model, players, _both(job), folder=job.folder, name="contrasts")
        game, faded = (_pick(both, half) for half in (False, True))
        shares, own = measure_layers(game, seed=job.config.seed), measure_specialization(game)
        own_faded = measure_specialization(faded)
    with job.clock.stage(f"the same on {job.config.twins} untrained twins"):
        twins = _play_twins(job, players, make_twin)
    # That swaps move no twin of a user's own says nothing of the architecture.
    excess = _compare(job, own, twins, isinstance(make_twin, Untrained))
    with job.clock.stage(f"the same on {job.config.twins} band twins of the images"):
        banded, bands = _compare_bands(job, players, own_faded)
    wiring = {}
    if find_skips(job.model):
        with job.clock.stage("the same with the skips cut"):
            wiring = {"skips cut": _cut(job, players)}
    given, over = _by_step(job, players)
    name, what = STUDIES[shares.role]
    study = LayerStudy(
        name=name,
        what=what,
        decides=True,
        players={one.label: one.points for one in players},
        shares=share_table(shares),
        specialization=specialization_interval(own),
        given_step=given,
        over_steps=over,
        twins=tuple(one.value for one in twins),
        excess=excess_interval(excess),
        band_twins=tuple(one.value for one in banded),
        band_excess=excess_interval(bands),
        wiring=wiring,
        notes=_notes(job, shares, own_faded, banded),
    )
    return Labor(study, shares, excess, bands)


def _notes(
    job: Job, shares: LayerShares, own: Specialization, banded: Sequence[Specialization]
) -> tuple[str, ...]:
    few = (
        f"Untrained and wiring twins have {job.sizes.twin_pairs} pairs each. Band twins deal out "
        "the frequencies of the images by the grids that stages write on: what is not beyond them "
        "is explained by sizes alone. Both are seen at half contrast, where sums of frequencies "
        "stay within the range of pixels; there the model's own specialization is "
        f"{'undefined' if own.value is None else f'{own.value:.3f}'}."
    )
    if len({one.value for one in banded}) == 1:
        few += " Here each stage has a band of its own: all dealings, and so all twins, are equal."
    odd = [
        f"{name}: {kind}"
        for name, kind in zip(shares.attributes, shares.kinds, strict=True)
        if kind != "additive"
    ]
    if not odd:
        return (few,)
    return (few, f"Shares of {', '.join(odd)} do not add up: they are not to be interpreted.")


def _arms(job: Job) -> Arms:
    return Arms(job.drawn.donor, job.drawn.recipient, job.attributes, job.reference)


def _both(job: Job) -> Arms:
    """Every attribute as it is, and of the images at half the contrast."""
    faded = {f"{name}{_HALF}": _see_faded(embed) for name, embed in job.attributes.items()}
    return _arms(job)._replace(attributes={**job.attributes, **faded})


def _see_faded(embed: Attribute) -> Attribute:
    return lambda images: embed(_fade(images.numpy().astype(np.float64)))


def _pick(game: Game, half: bool) -> Game:
    """The game of the attributes at half the contrast, or of the others."""
    chosen = [i for i, name in enumerate(game.attributes) if name.endswith(_HALF) == half]
    names = tuple(game.attributes[i].removesuffix(_HALF) for i in chosen)
    return dataclasses.replace(game, attributes=names, moments=game.moments[:, :, chosen])


def _fewer(job: Job, model: Model) -> Arms:
    """Fewer pairs, and references that this model makes itself."""
    from interp.atlas.bases import make_images

    n = job.sizes.twin_pairs
    donor, recipient = (take_rows(one, (0, n)) for one in (job.drawn.donor, job.drawn.recipient))
    reference = make_images(model, job.drawn.fit, job.sizes.n_reference)
    return Arms(donor, recipient, job.attributes, reference)


def _play_twins(job: Job, players: Sequence[Carrier], make_twin: MakeTwin) -> list[Specialization]:
    """Specialization of twins that could be played; undefined where swaps move none."""
    found: list[Specialization] = []
    wanted, moved = job.config.twins, 0
    # Twins count from 1: seed 0 is often that of the network itself.
    for seed in range(1, _TRIES * wanted + 1):
        one = _play_twin(job, players, make_twin, seed)
        found += [] if one is None else [one]
        moved += one is not None and one.value is not None
        # Enough, or the tries that are left would not be.
        if moved == wanted or (seed >= wanted and moved < wanted / 2):
            break
    return found


def _play_twin(
    job: Job, players: Sequence[Carrier], make_twin: MakeTwin, seed: int
) -> Specialization | None:
    """One twin; None where it cannot be played, which is no finding."""
    twin = make_twin(seed)
    # Another maker's twin of the same seed is another network.
    name = f"twin-{seed}-{recipe_hash(twin.identity()['components'])}"
    try:
        game = play_parts(twin, players, _fewer(job, twin), folder=job.folder, name=name)
        return measure_specialization(game, n_resamples=2)
    except InterpError as error:
        job.warnings.append(f"Untrained twin {seed} cannot be played: {error}")
        return None


def _compare(
    job: Job, own: Specialization, twins: Sequence[Specialization], trusted: bool
) -> Excess:
    """The excess over the twins that move; over none where none of enough does."""
    defined = [one for one in twins if one.value is not None]
    if len(defined) >= job.config.twins:
        return compare_twins(own, defined)
    still = trusted and not defined and len(twins) >= job.config.twins
    level = "the model itself is held against 0" if still else "there is no level to exceed"
    job.warnings.append(
        f"Swaps of writes move {len(defined)} of {len(twins)} untrained twins that were played: "
        f"what comes out of the others is decided by other sources, and {level}."
    )
    if still:
        return exceed_nothing(own, len(twins))
    values = tuple(one.value for one in defined if one.value is not None)
    return Excess(None, None, None, None, values, own.n_pairs, len(twins))


def _compare_bands(
    job: Job, players: Sequence[Carrier], own: Specialization
) -> tuple[list[Specialization], Excess]:
    """Band twins and the excess over them; undefined, with a warning, if they cannot be played."""
    try:
        twins = _play_bands(job, players)
        return twins, compare_twins(own, twins, paired=True)
    except InterpError as error:
        job.warnings.append(f"Band twins are left out: {error}")
        return [], Excess(None, None, None, None, (), own.n_pairs, 0)


def _play_bands(job: Job, players: Sequence[Carrier]) -> list[Specialization]:
    """Specialization of stages that differ in nothing but the grids they write on."""
    grids = {one.label: [_find_grid(job.model, name) for name in one.points] for one in players}

    def embed(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return embed_images(_fade(pixels), job.attributes)

    sides = [images.numpy() for images in (job.donors, job.recipients, job.reference)]
    embedded = [embed(images) for images in sides]
    pairs = make_pairs(embedded[0], embedded[1], reference=embedded[2])
    found: list[Specialization] = []
    known: dict[bytes, Specialization] = {}
    for seed in range(1, job.config.twins + 1):
        dealt = deal_frequencies(list(grids.values()), sides[0].shape[1:3], seed=seed).tobytes()
        # Where each stage has a band of its own there is one way to deal.
        if dealt not in known:
            game = play_bands(pairs, sides[0], sides[1], grids, embed, seed=seed)
            known[dealt] = measure_specialization(game)
        found.append(known[dealt])
    return found


def _fade(pixels: np.ndarray) -> Tensor:
    """Images at half the contrast, uint8."""
    faded = 127.5 + (pixels - 127.5) / 2
    return torch.as_tensor(faded.round().clip(0, 255).astype(np.uint8))


def _find_grid(model: Model, name: str) -> tuple[int, ...]:
    """The grid (h, w) that a write ends up on; () where it has none, as a vector or a text."""
    point = model.points[name]
    # A style has no grid of its own, but the layer that it modulates has.
    grid = point.grid or model.points.get(point.module, point).grid
    # Of frames, one: [..., h, w].
    return grid[-2:] if point.stream != "text" and len(grid) > 1 else ()


def _cut(job: Job, players: Sequence[Carrier]) -> Interval:
    """Specialization of the same trained network with its skips at 0 in every run."""
    skips = find_skips(job.model)
    try:
        game = play_parts(
            job.model,
            players,
            _fewer(job, job.model),
            folder=job.folder,
            name="skips-cut",
            cut=skips,
        )
    except InputError as error:
        job.warnings.append(f"the wiring twin is left out: {error}")
        return Interval(None)
    return specialization_interval(measure_specialization(game))


def _by_step(job: Job, players: Sequence[Carrier]) -> tuple[Interval | None, Interval | None]:
    """Specialization over stages with the step fixed, and over steps."""
    windows = cut_windows(job.calls)
    if len(windows) < 2:
        return None, None
    few = merge_players(players, job.sizes.map_players)
    with job.clock.stage(f"{len(few)} stages within each of {len(windows)} step windows"):
        games = [
            play_parts(
                job.model,
                in_window(few, name, calls),
                _arms(job),
                folder=job.folder,
                name=f"window-{name}",
            )
            for name, calls in windows
        ]
        given = measure_specialization(games)
        whole = join_carriers(players, "all writes")
        steps = [in_window([whole], name, calls)[0] for name, calls in windows]
        over = play_parts(job.model, steps, _arms(job), folder=job.folder, name="over-steps")
    return specialization_interval(given), specialization_interval(measure_specialization(over))


def list_kinds(job: Job) -> list[Carrier]:
    """One carrier of all writes of each kind of module, where there are two kinds or more."""
    found = list_carriers(job.model, job.drawn.recipient, "kinds")
    if len(found) < 2:
        return []
    # A source may have the name of a kind, such as the noise of a GAN.
    return [dataclasses.replace(one, name=f"all {one.label}") for one in found]


def share_kinds(job: Job, kinds: Sequence[Carrier]) -> LayerStudy:
    """The game whose players are kinds of modules, at all depths together."""
    players = merge_players(kinds, job.sizes.players)
    game = play_parts(job.model, players, _arms(job), folder=job.folder, name="kinds")
    return LayerStudy(
        name="writes by kind of module",
        what="All resnets, all self-attentions, all cross-attentions, all feed-forwards: what each "
        "kind adds, at every depth.",
        decides=False,
        players={one.label: one.points for one in players},
        shares=share_table(measure_layers(game, seed=job.config.seed)),
        specialization=specialization_interval(measure_specialization(game)),
    )


def ablate_kinds(
    job: Job, kinds: Sequence[Carrier], effects: Mapping[str, Effect], images: Mapping[str, tuple]
) -> list[KindRow]:
    """Replace what a kind adds by its mean, and set it beside its swap.

    effects, images: of the swaps, by label.
    """
    bare = [Carrier(one.points, name=one.label) for one in kinds]
    found = ablate(
        job.model,
        bare,
        job.drawn.recipient,
        attributes=job.attributes,
        kind="mean",
        reference=dataclasses.replace(job.drawn.fit, n=_clean_runs(job)),
        seed=job.config.seed,
    )
    rows = []
    for one, made in zip(kinds, found, strict=True):
        swapped = embed_images(made.images, job.attributes)
        effect = measure_effect(job.pairs, swapped, carrier=one.label, role="write")
        rows.append(
            KindRow(
                name=one.label,
                points=one.points,
                swapped=cells(effects[one.label]),
                ablated=cells(effect),
                swapped_images=images.get(one.label, ()),
                ablated_images=job.tiles.add(made.images, job.config.images),
            )
        )
    return rows


def _clean_runs(job: Job) -> int:
    # As many as `ablate` asks for to say what is usual, whatever the size of the atlas.
    return int(np.clip(job.sizes.n_reference, 40, 64))
