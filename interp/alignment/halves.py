"""Layers chosen on one half of the images and scored on the other.

The best of many cells overstates itself: of 24 x 24 independent pairs at n = 1024 the largest share
of common neighbors is 60 % above chance. A pair that other images chose does not, so that its
value, interval and levels are those of any fixed pair. Halves are unions of whole clusters: a
near-duplicate on the other side would carry the choice over.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from interp.alignment.layers import compare_layers, tested_pairs
from interp.alignment.outcome import Alignment, shared_leaks
from interp.alignment.pairing import hash_ids
from interp.alignment.records import (
    Cell,
    Comparison,
    Layer,
    Level,
    read_comparison,
    read_level,
)
from interp.alignment.representations import Representation, some_ids
from interp.alignment.saving import plain, read_json, write_json
from interp.alignment.sources import (
    SPECTRUM,
    Several,
    Source,
    load_levels,
    load_several,
    load_source,
)
from interp.errors import InputError
from interp.geometry import CORE
from interp.geometry.neighbors import FRACTION
from interp.stats import FOLDS, MIN_PERMUTATIONS, check_permutations, holm, make_folds

FORMAT = 1
# What a pair of layers is chosen by.
CRITERIA = ("corrected", "value", "z", "difference")
NOTE = (
    "Layers were chosen on one half of the images (whole clusters) and scored on the other; p is "
    "of the chosen cell alone, then Holm over model pairs, measures and halves. Intervals: 95 % "
    "jackknife over folds of whole clusters of the scoring half."
)


@dataclass(frozen=True)
class Choice:
    """The pair of layers that one half chose for a model pair and measure, scored on the other."""

    model_a: str
    model_b: str
    measure: str
    half: int
    """The half that scored: 0 or 1."""
    layer_a: str
    layer_b: str
    n_cells: int
    """Cells among which it was chosen."""
    searched_value: float
    """Value on the choosing half: overstated by the search."""
    comparison: Comparison
    """On the scoring half: value, null, p, interval."""
    p_holm: float | None
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class Choices:
    """Every choice of one sample set."""

    sample_set: str
    sample_hash: str
    n: tuple[int, int]
    """Images of the halves."""
    by: str
    """What layers were chosen by."""
    choices: tuple[Choice, ...]
    leaks: tuple[tuple[str, tuple[str, ...]], ...]
    """What two or more models share by their making."""
    seed: int
    note: str

    def table(self) -> list[dict[str, Any]]:
        """One flat row per choice."""
        rows = []
        for one in self.choices:
            own = {
                name: getattr(one, name)
                for name in ("model_a", "model_b", "half", "layer_a", "layer_b", "n_cells")
            }
            rest = {"searched_value": one.searched_value, "p_holm": one.p_holm}
            levels = {
                f"{level.name} [{level.stands_for}] {what}": getattr(level, what)
                for level in one.levels
                for what in ("value", "difference", "low", "high", "detectable")
            }
            rows.append(own | dataclasses.asdict(one.comparison) | rest | levels)
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"format": FORMAT, **plain(dataclasses.asdict(self))}

    def save(self, path: str | os.PathLike) -> Path:
        """Write JSON; equal results give equal bytes."""
        return write_json(path, self.as_dict())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Choices":
        """Read what `save` wrote. Raises InputError for another file or a newer format."""
        values = read_json(path, "Choices", FORMAT)
        try:
            choices = tuple(
                Choice(
                    **{
                        **one,
                        "comparison": read_comparison(one["comparison"]),
                        "levels": tuple(map(read_level, one["levels"])),
                    }
                )
                for one in values["choices"]
            )
            leaks = tuple((leak, tuple(models)) for leak, models in values["leaks"])
            given = {"n": tuple(values["n"]), "choices": choices, "leaks": leaks}
            return cls(**{**values, **given})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is not a saved Choices: {error!r}") from error


def half_images(
    ids: Sequence[str], clusters: Sequence[str] = (), *, seed: int = 0
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Image ids in two halves, each a union of whole clusters, as equal as clusters allow.

    Clusters are placed in random order, the largest first, each into the smaller half.
    ids: [n]. clusters: [n] or empty: every image is its own.
    Raises InputError for fewer than two clusters.
    """
    inside = make_folds(clusters or ids, 2, seed)
    first, second = (
        tuple(name for name, half in zip(ids, inside, strict=True) if half == wanted)
        for wanted in (0, 1)
    )
    return first, second


def choose_and_score(
    models: Mapping[str, Source],
    *,
    by: str = "corrected",
    swap: bool = True,
    twins: Mapping[str, Several] | None = None,
    pixels: bool | Representation = True,
    levels: Sequence[str | Representation] = (),
    shared_noise: Mapping[str, Source] | None = None,
    measures: Sequence[str] = CORE,
    pooling: str = "mean",
    strata: str = "source",
    images: Sequence[str] | None = None,
    pairing: str = "image",
    pairs: Sequence[tuple[str, str]] | None = None,
    leaks: Mapping[str, Sequence[str]] | None = None,
    n_permutations: int = MIN_PERMUTATIONS,
    n_folds: int = FOLDS,
    n_neighbors: float = FRACTION,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Choices:
    """The best pair of layers of every two models, chosen on one half and scored on the other.

    Args:
        models, twins, pixels, levels, shared_noise, measures, pooling, strata, images, pairing,
            pairs, leaks, n_permutations, n_folds, n_neighbors, seed, progress: as in
            `compare_layers`.
        by: what is largest in the chosen cell: "corrected" ((s - E0) / (e - E0): width and
            chance taken off), "value" (for a distance the smallest), "z", or "difference" to the
            untrained twins.
        swap: choose on each half and score on the other, so that every image scores once; the two
            choices of a pair need not agree, and where they differ no layer is the best one.

    Returns:
        One record per model pair, measure and scoring half.

    Raises:
        InputError: as `compare_layers`; an unknown criterion; "difference" without twins.
    """
    _check_criterion(by, bool(twins), n_permutations)
    options = {"pooling": pooling, "strata": strata}
    references: list[Representation | str] = [*load_levels(models, pixels, levels, options)]
    references += [one for one in levels if one == SPECTRUM]
    sides = _load_sides(models, twins or {}, shared_noise or {}, references, options)
    tested = _ordered(tested_pairs(list(sides.own), pairs), list(sides.own))
    if n_permutations and tested:
        check_permutations(n_permutations, len(tested) * len(measures) * (2 if swap else 1))
    halves = _halves(sides.own, images, seed)
    same: dict[str, Any] = {"pairing": pairing, "leaks": leaks, "n_neighbors": n_neighbors}
    same |= {"n_permutations": n_permutations, "strata": strata, "seed": seed, "progress": progress}
    found: list[tuple[Choice, Alignment]] = []
    for scoring in (1, 0) if swap else (1,):
        searched = _search(sides, halves[1 - scoring], (tested, measures), by, same)
        more = {"images": halves[scoring], "n_folds": n_folds, **same}
        for pair, name in itertools.product(tested, measures):
            found.append(_score(_choose(searched, pair, name, by), scoring, sides, more))
    return _collected(found, halves, by, seed)


def _check_criterion(by: str, twins: bool, n_permutations: int) -> None:
    if by not in CRITERIA or (by == "difference" and not twins):
        raise InputError(
            f"layers are chosen by {', '.join(CRITERIA)}, not {by!r}; 'difference' needs twins"
        )
    if by in ("corrected", "z") and not n_permutations:
        raise InputError(f"choosing by {by!r} needs a null: n_permutations=200, or by='value'")


class _Sides(NamedTuple):
    """What stands on either side of a cell, loaded once for both halves."""

    own: dict[str, list[Representation]]
    twins: dict[str, list[list[Representation]]]
    noisy: dict[str, list[Representation]]
    levels: Sequence[Representation | str]


def _load_sides(
    models: Mapping[str, Source],
    twins: Mapping[str, Several],
    noisy: Mapping[str, Source],
    levels: Sequence[Representation | str],
    options: Mapping[str, str],
) -> _Sides:
    return _Sides(
        {m: load_source(m, source, options) for m, source in models.items()},
        {m: load_several(m, source, options) for m, source in twins.items()},
        {m: load_source(m, source, options) for m, source in noisy.items()},
        levels,
    )


def _search(
    sides: _Sides,
    half: tuple[str, ...],
    wanted: tuple[list[tuple[str, str]], Sequence[str]],
    by: str,
    options: Mapping[str, Any],
) -> Alignment:
    """All cells on one half: values, and the null or the twins where the choice needs them."""
    if by not in ("corrected", "z"):
        options = {**options, "n_permutations": 0}
    twins = sides.twins if by == "difference" else None
    pairs, measures = wanted
    given = {"twins": twins, "pixels": False, "images": half, "pairs": pairs, "n_folds": 0}
    return compare_layers(sides.own, measures=measures, **given, **options)


class _Chosen(NamedTuple):
    """The layers that one half chose, in the order of the measure's direction."""

    ends: tuple[Layer, Layer]
    measure: str
    n_cells: int
    value: float


def _ordered(pairs: set[frozenset[str]], models: Sequence[str]) -> list[tuple[str, str]]:
    places = sorted(tuple(sorted(map(models.index, pair))) for pair in pairs)
    return [(models[a], models[b]) for a, b in places]


def _choose(searched: Alignment, pair: tuple[str, str], name: str, by: str) -> _Chosen:
    sign = -1 if name in searched.distances else 1
    best: tuple[float, _Chosen] | None = None
    cells = [
        c
        for c in searched.cells
        if c.comparison.measure == name
        and {searched.layers[c.i].model, searched.layers[c.j].model} == set(pair)
    ]
    for c in cells:
        ends = (searched.layers[c.i], searched.layers[c.j])
        for one, way in ((c.comparison, ends), (c.reverse, ends[::-1])):
            if one is None:
                continue
            score = _criterion(c, one, by, sign)
            if best is None or score > best[0]:
                best = (score, _Chosen((way[0], way[1]), name, len(cells), one.value))
    assert best is not None
    return best[1]


def _criterion(cell: Cell, one: Comparison, by: str, sign: int) -> float:
    """What is larger in a cell that is more alike."""
    if by == "z":
        return -math.inf if one.z is None else one.z
    if by == "difference":
        # Both directions of a cell share its twins' level.
        return -math.inf if cell.difference is None else sign * cell.difference
    if by == "corrected" and one.corrected is not None:
        return one.corrected
    # Without a value for equal representations, what is above chance.
    bottom = one.null_mean if by == "corrected" and one.null_mean is not None else 0.0
    return sign * (one.value - bottom)


def _score(
    chosen: _Chosen, half: int, sides: _Sides, options: Mapping[str, Any]
) -> tuple[Choice, Alignment]:
    """The chosen cell on the other half, as a comparison of one layer with one."""
    ends = chosen.ends
    models = {one.model: _only(sides.own[one.model], one) for one in ends}
    twins = {
        one.model: [_only(some, one) for some in sides.twins[one.model]]
        for one in ends
        if one.model in sides.twins
    }
    noisy = {
        one.model: _only(sides.noisy[one.model], one) for one in ends if one.model in sides.noisy
    }
    given = {"twins": twins, "shared_noise": noisy, "pixels": False, "levels": sides.levels}
    judged = compare_layers(models, measures=(chosen.measure,), **given, **options)
    cell = judged.cell(0, 1)
    first, second = chosen.ends
    choice = Choice(
        model_a=first.model,
        model_b=second.model,
        measure=chosen.measure,
        half=half,
        layer_a=first.name,
        layer_b=second.name,
        n_cells=chosen.n_cells,
        searched_value=chosen.value,
        comparison=cell.comparison,
        p_holm=None,
        levels=cell.levels,
    )
    return choice, judged


def _only(some: Sequence[Representation], layer: Layer) -> list[Representation]:
    found = [one for one in some if (one.point, one.call) == (layer.point, layer.call)]
    if not found:
        raise InputError(f"the twin or second capture of {layer.model} lacks {layer.name}")
    return found


def _collected(
    found: Sequence[tuple[Choice, Alignment]],
    halves: tuple[tuple[str, ...], tuple[str, ...]],
    by: str,
    seed: int,
) -> Choices:
    p = [one.comparison.p for one, _ in found if one.comparison.p is not None]
    adjusted = iter(holm(p).tolist()) if p else itertools.repeat(None)
    layers = [layer for _, judged in found for layer in judged.layers]
    return Choices(
        sample_set=found[0][1].sample_set if found else "",
        sample_hash=hash_ids([*halves[0], *halves[1]]),
        n=(len(halves[0]), len(halves[1])),
        by=by,
        choices=tuple(
            dataclasses.replace(one, p_holm=q)
            for (one, _), q in zip(found, adjusted)  # noqa: B905
        ),
        leaks=shared_leaks(layers),
        seed=seed,
        note=NOTE,
    )


def _halves(
    own: Mapping[str, list[Representation]], images: Sequence[str] | None, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    first = next(one for some in own.values() for one in some)
    clusters = dict(zip(first.ids, first.clusters or first.ids, strict=True))
    kept = sorted(first.ids if images is None else images)
    if missing := [name for name in kept if name not in clusters]:
        raise InputError(f"{first.name} lacks {len(missing)} of images=: {some_ids(missing)}")
    return half_images(kept, [clusters[name] for name in kept], seed=seed)
