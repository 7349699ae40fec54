"""study(): capture what has to be captured, compare everything, score, read."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.alignment import (
    Alignment,
    Choices,
    Representation,
    choose_and_score,
    compare_layers,
    half_images,
)
from interp.alignment.pairing import pair_up
from interp.alignment.recipes import RecipeScore, score_models
from interp.alignment.sources import Several
from interp.errors import InputError, InterpError
from interp.geometry import get_measure
from interp.stats import needed_permutations
from interp.studies.beside import prepared, reference_levels, without_constant
from interp.studies.options import Judging, Showing, split_options
from interp.studies.record import Study, check_folder
from interp.studies.sides import Finding, Labels, Side, find_side, name_models

# A p of 0.002 at best; the number that Holm needs grows with pairs and measures.
PERMUTATIONS = 500


def study(
    models: Mapping[str, Any] | Sequence[Any],
    *,
    twins: Mapping[str, Any] | None = None,
    references: Mapping[str, Any] | None = None,
    points: Sequence[str] | Mapping[str, Sequence[str]] = (),
    ids: Sequence[str] | Mapping[str, Sequence[str]] = (),
    clusters: Sequence[Any] = (),
    strata: str | Sequence[Any] = "source",
    showing: Showing | None = None,
    judging: Judging | None = None,
    out: str | Path | None = None,
    made_by: str = "",
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Study:
    """Compare models, stores or feature matrices: table, reference levels, tests, reading.

    `print(interp.study([x, y]))` answers for two matrices; `interp.study(["zoo:vit", "zoo:ddpm"],
    images="glyphs/heldout", limit=256, out="comparison")` captures the models and their untrained
    twins on the way, keeps the stores, and writes page, figures, table and reading.

    Args:
        models: label -> model, or models, of which each is a spec ("zoo:vit", "diffusers:...",
            "transformers:...", "lens:..."), a loaded model, a store or its folder, (store, points,
            calls), a .npy, .npz or .safetensors file, an array [n, d] or [n, positions, d], several
            arrays (layers), or Representations.
        twins: label -> an untrained twin given in the same ways, or a list of several; those of
            specs are made (`untrained`).
        references: label -> an array or file with features of your own that stand for a layer, such
            as pixels or the latents of an autoencoder.
        points: names or patterns of points, for all models or by label; none: ends of blocks of
            specs, all points of stores.
        ids: names of the rows of matrices, for all or by label; none: row i is image i in each.
        clusters: near-duplicate group of each row of the (first) matrix.
        strata: column of the stores within which images are permuted ("" for none), or the group of
            each row of the (first) matrix.
        showing: what specs are shown; judging: what is measured, and how.
        out: folder to write to (`Study.save`); None: nothing is written but stores.
        made_by: command or call, for the record.
        progress: called with a line of text per step.
        **options: fields of `Showing` and `Judging` by name.

    Returns:
        The comparison, with `reading`, `verdicts`, `figure()`, `table()` and `save(folder)`.

    Raises:
        InterpError: models that cannot be loaded, images or rows that do not pair, too few images,
            folds or permutations, unknown options. Stores that are finished are kept.
    """
    showing, judging = split_options(options, showing, judging)
    for name in judging.measures:
        get_measure(name)
    if out is not None:
        check_folder(out)
    say = progress or (lambda line: None)
    named = name_models(models)
    column, groups = (strata, ()) if isinstance(strata, str) else ("", _texts(strata))
    labels = Labels(_by_label(ids, named, references or {}), _texts(clusters), groups)
    by_label = points if isinstance(points, Mapping) else {"": tuple(points)}
    folder = Path(showing.activations or (Path(out or ".") / "activations"))
    how = Finding(showing, judging, labels, by_label, column, folder, say)
    _check_labels(by_label, named)
    sides = [find_side(label, given, how) for label, given in named.items()]
    sides = _with_twins(sides, twins or {}, how)
    sides, dead = without_constant(prepared(sides, judging))
    levels, missing = reference_levels(sides, references or {}, how)
    result = _judge(sides, levels, how)
    unit = "image" if any(side.store is not None for side in sides) else "row"
    problems = (*dead, *missing, *result.problems)
    result = dataclasses.replace(result, problems=problems, made_by=made_by, unit=unit)
    if out is not None:
        result.save(out)
    return result


def _texts(labels: Sequence[Any]) -> tuple[str, ...]:
    values = labels.tolist() if hasattr(labels, "tolist") else labels  # pyright: ignore
    return tuple(map(str, values))


def _by_label(
    ids: Any, models: Mapping[str, Any], references: Mapping[str, Any]
) -> dict[str, tuple[str, ...]]:
    """The ids of each label, in the order of the models and references."""
    if both := sorted(set(models) & set(references)):
        raise InputError(f"{both[0]!r} is a model and a reference: give one another label")
    named = [*models, *references]
    if isinstance(ids, Mapping):
        _check_labels(ids, named)
        return {label: _texts(ids[label]) for label in named if label in ids}
    return dict.fromkeys(named, _texts(ids)) if len(ids) else {}


def _check_labels(given: Mapping[str, Any], named: Iterable[str]) -> None:
    if odd := sorted(set(given) - set(named) - {""}):
        raise InputError(f"{odd[0]!r} is not among the models {', '.join(named)}")


def _with_twins(sides: list[Side], twins: Mapping[str, Any], how: Finding) -> list[Side]:
    _check_labels(twins, {side.label: side for side in sides})
    out = []
    for side in sides:
        given = twins.get(side.label)
        several = given if isinstance(given, list) else [] if given is None else [given]
        found = [find_side(side.label, one, how).layers for one in several]
        out.append(dataclasses.replace(side, twins=[*side.twins, *found]))
    return out


def _judge(
    sides: Sequence[Side],
    levels: Sequence[str | Representation],
    how: Finding,
) -> Study:
    judging, say = how.judging, how.say
    pairs = len(judging.pairs or ()) or len(sides) * (len(sides) - 1) // 2
    permutations = judging.n_permutations
    if permutations is None:
        # Both halves are tested.
        tests = pairs * len(judging.measures) * 2
        permutations = max(PERMUTATIONS, needed_permutations(tests))
    twins: dict[str, Several] = {side.label: list(side.twins) for side in sides if side.twins}
    given: dict[str, Any] = {
        "models": {side.label: side.layers for side in sides},
        "twins": twins,
        "shared_noise": {side.label: side.noisy for side in sides if side.noisy},
        "pixels": False,
        "levels": levels,
        "strata": how.column or "group",
        "n_permutations": permutations,
        "progress": say,
    }
    same = ("measures", "pooling", "pairs", "pairing", "n_folds", "n_neighbors", "seed")
    given |= {name: getattr(judging, name) for name in same}
    alignment = compare_layers(**given)
    choices, problems = _halve(alignment, given, judging)
    scores, more = _score(sides, judging, permutations, say)
    return Study(alignment, choices, tuple(scores), (*problems, *more))


def _halve(
    alignment: Alignment, given: dict[str, Any], judging: Judging
) -> tuple[Choices | None, list[str]]:
    """Layers chosen on one half and scored on the other, where there was something to choose."""
    searched = any(family.n_cells > 1 for family in alignment.families)
    if not judging.halves or not searched:
        return None, []
    given["progress"]("halves: layers chosen on one half of the images, scored on the other")
    folds = _folds_of_halves(next(iter(given["models"].values()))[0], judging)
    try:
        return choose_and_score(**{**given, "n_folds": folds}), []
    except InterpError as error:
        return None, [f"layers chosen on one half of the images: {error}"]


def _folds_of_halves(one: Representation, judging: Judging) -> int:
    """As many folds as asked for, or as the clusters of a half allow."""
    clusters = one.clusters or one.ids
    halves = half_images(one.ids, clusters, seed=judging.seed)
    cluster = dict(zip(one.ids, clusters, strict=True))
    return min(judging.n_folds, *(len({cluster[name] for name in half}) for half in halves))


def _score(
    sides: Sequence[Side],
    judging: Judging,
    permutations: int,
    say: Callable[[str], None],
) -> tuple[list[RecipeScore], list[str]]:
    """Published scores; what a recipe cannot take is a problem, not the end of the study."""
    if not judging.recipes or not permutations:
        return [], []
    say("published score: prh")
    own = {side.label: side.layers for side in sides}
    first = {side.label: side.twins[0] for side in sides if side.twins}
    try:
        everyone = pair_up([one for some in (*own.values(), *first.values()) for one in some])
        rest = iter(everyone)
        own = {label: [next(rest) for _ in some] for label, some in own.items()}
        first = {label: [next(rest) for _ in some] for label, some in first.items()}
        seed = judging.seed
        return score_models(
            own, twins=first, pairs=judging.pairs, n_permutations=permutations, seed=seed
        ), []
    except InterpError as error:
        return [], [f"the published score prh: {error}"]
