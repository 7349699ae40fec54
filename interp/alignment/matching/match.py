"""match_features() of two SAEs over shared images: found on one half, scored on the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from interp.alignment.matching.examples import make_examples
from interp.alignment.matching.latents import Latents, line_up, read_latents
from interp.alignment.matching.pairs import (
    METHODS,
    Halves,
    Match,
    Null,
    Sides,
    fold_scores,
    make_orders,
    make_sides,
    match_null,
    match_sides,
)
from interp.alignment.matching.records import FeatureMatches, MatchLevel, MatchSide
from interp.alignment.pairing import hash_ids, sample_set
from interp.alignment.representations import Representation
from interp.errors import InputError
from interp.sae import SAE
from interp.stats import (
    FOLDS,
    MIN_PERMUTATIONS,
    check_permutations,
    jackknife,
    make_folds,
    permutation_p,
)
from interp.store import ActivationStore

NOTE = (
    "Matches are found on one half of the images (whole clusters) and r is their correlation on "
    "the other. The null repeats the whole matching under permuted pairing of the images; the "
    "threshold is the 95 % quantile of its largest r, universality = (r - threshold) / (1 - "
    "threshold), and p is max-T over all features of the match. It asks whether any pairing "
    "exists: what counts is the difference to the untrained twins, where they are given."
)
# A correlation of latents that are active on c images moves in steps of about 1 / c: on fewer, the
# null's maximum is above any match. Between 5 and 10 it did not move (SAEs of the zoo's models).
MIN_IMAGES = 5
# Pairs and images of each that a page shows.
SHOWN = (24, 8)

# Latents, or what `read_latents` takes: (sae, store) or (sae, store, call).
Source = Latents | tuple[SAE | str | Path, ActivationStore | str | Path] | tuple


def match_features(
    first: Source,
    second: Source,
    *,
    method: str = "mutual",
    by: str = "activations",
    pooling: str = "mean",
    strata: str = "source",
    twins: Sequence[tuple[Source, Source]] = (),
    seconds: tuple[Source | None, Source | None] = (None, None),
    min_images: int = MIN_IMAGES,
    n_permutations: int = MIN_PERMUTATIONS,
    n_folds: int = FOLDS,
    shown: tuple[int, int] = SHOWN,
    same_space: bool = False,
    allow_train: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> FeatureMatches:
    """Which latents of two SAEs respond to the same images, and how much of that is chance.

    Matches are found on one half of the images, whole clusters together, and scored by the
    correlation of activations on the other half. The null permutes the pairing of the images,
    within strata and inside each half, and repeats the whole matching.

    Args:
        first, second: (sae, store) or (sae, store, call), with paths or objects, or `Latents`.
            Stores are captures of the same images; images that trained an SAE are left out.
        method: mutual (both are each other's best), best (the first's best, many to one), hungarian
            (one to one, the largest sum) or soft (`interp.geometry.soft_matching`).
        by: activations, or decoder: matches found by the cosine of decoder rows, scored by
            activations all the same.
        pooling: mean or max over positions and calls, or positions: a row per position, each
            position's mean removed, for points of one grid.
        strata: column of the generations table within which images are permuted; "" for none.
        twins: pairs of SAEs of the untrained twins on the same images: reference levels.
        seconds: an SAE of another seed for either side: the ceiling of each feature.
        min_images: images of each half on which a latent must be active to be matched.
        n_permutations: at least 200; 0 for none, then no threshold and no p.
        n_folds: folds of the jackknife over held-out clusters; 0 for no interval.
        shown: pairs and images of each for the page; (0, 0) for none.
        same_space: the two points write the same space though their names differ (the residual
            stream of a transformer), so that decoders compare.
        allow_train: keep images that an SAE was trained on.
        seed: of halves, permutations and folds.
        progress: called with a line of text per matching.

    Returns:
        The matched pairs, strongest first, with their scores, null, levels and examples.

    Raises:
        InputError: captures of other images, latents that are too rare, decoders of different
            spaces, too few permutations or clusters, an unknown method.

    Source: universality by activation correlation, Bricken et al. 2023, "Towards Monosemanticity";
    held-out scoring and the repeated null are ours.
    """
    if method not in METHODS or by not in ("activations", "decoder"):
        raise InputError(f"method {method!r} is one of {METHODS}, by {by!r} activations or decoder")
    if n_permutations:
        check_permutations(n_permutations, 1)
    options = {"pooling": pooling, "strata": strata, "allow_train": allow_train}
    given = [first, second, *seconds, *(one for pair in twins for one in pair)]
    read = iter(line_up([_read(one, options) for one in given if one is not None]))
    lined: list[Any] = [None if one is None else next(read) for one in given]
    (a, b), rest = lined[:2], lined[2:]
    one_space = same_space or bool(a.space and a.space == b.space)
    job = _Job(
        method, by, *_halves(a, n_folds, seed), min_images, n_permutations, n_folds, seed, progress
    )
    main = _find(job, a, b, one_space)
    if not main.match.pairs.first.size:
        raise InputError(f"no latent of {a.name} and {b.name} is the other's best on these images")
    ceilings, levels = _beside(job, main, rest, one_space)
    columns = _columns(main, ceilings, one_space)
    return _record(
        job, main, columns, levels, make_examples((a, b), columns, job.halves.scored, shown)
    )


def _beside(
    job: "_Job", main: "_Found", rest: Sequence[Any], one_space: bool
) -> tuple[list["_Found | None"], list[MatchLevel]]:
    """The matches with the second seeds, and all levels; rest: two seeds, then pairs of twins."""
    ceilings = [
        None if other is None else _find(job, one, other, True)
        for one, other in zip((main.first, main.second), rest[:2], strict=True)
    ]
    levels = [
        _level(main, found, f"second seed of {found.first.name}") for found in ceilings if found
    ]
    for i in range(2, len(rest), 2):
        # Twins of the layers of one model share a space where the layers do.
        found = _find(job, rest[i], rest[i + 1], one_space)
        name = "untrained twins" + (f" {i // 2}" if len(rest) > 4 else "")
        levels.append(_level(main, found, name))
    return ceilings, levels


@dataclass(frozen=True)
class _Job:
    method: str
    by: str
    halves: Halves
    folds: np.ndarray | None
    """[n] fold of each image of the second half, -1 of the others."""
    min_images: int
    n_permutations: int
    n_folds: int
    seed: int
    progress: Callable[[str], None] | None


class _Found(NamedTuple):
    """One matching with its null and its values with a fold left out."""

    first: Latents
    second: Latents
    sides: Sides
    match: Match
    null: Null | None
    deleted: np.ndarray | None
    """[f] mean held-out correlation."""

    @property
    def r(self) -> dict[int, float]:
        """Held-out correlation of each matched latent of the first SAE."""
        ids, r = self.match.per_first(self.match.r)
        return dict(zip(self.sides.latents[0][ids].tolist(), r.tolist(), strict=True))

    @property
    def mean(self) -> float:
        """Over matched latents of the first SAE; 0 where none is matched."""
        return float(np.mean(list(self.r.values()))) if self.r else 0.0

    @property
    def threshold(self) -> float | None:
        """The value that the largest correlation of one permutation in twenty exceeds."""
        if self.null is None:
            return None
        return float(np.quantile(self.null.largest, 0.95, method="higher"))


def _read(source: Any, options: dict[str, Any]) -> Latents:
    if isinstance(source, Latents):
        return source
    if not isinstance(source, tuple) or not 2 <= len(source) <= 3:
        raise InputError(
            f"{type(source).__name__}: Latents, (sae, store) or (sae, store, call) is needed"
        )
    sae, store, *call = source
    return read_latents(sae, store, call=call[0] if call else None, **options)


def _halves(first: Latents, n_folds: int, seed: int) -> tuple[Halves, np.ndarray | None]:
    clusters = np.array(first.clusters or first.ids)
    half = make_folds(clusters.tolist(), 2, seed)
    halves = Halves(np.flatnonzero(half == 0), np.flatnonzero(half == 1))
    if not n_folds:
        return halves, None
    folds = np.full(len(clusters), -1)
    folds[halves.scored] = make_folds(clusters[halves.scored].tolist(), n_folds, seed)
    return halves, folds


def _find(job: _Job, first: Latents, second: Latents, one_space: bool) -> _Found:
    if job.by == "decoder":
        _check_decoders(first, second, one_space)
    sides = make_sides(first, second, job.halves, job.min_images, job.by)
    match = match_sides(sides, job.method)
    null = deleted = None
    if job.n_permutations:
        if job.progress:
            job.progress(f"{job.n_permutations} matchings of {first.name} and {second.name}")
        orders = make_orders(second, job.halves, job.n_permutations, job.seed)
        null = match_null(sides, job.method, orders)
    if job.folds is not None:
        first_ids, second_ids, weight = match.pairs
        ids = sides.latents[0][first_ids], sides.latents[1][second_ids]
        deleted = fold_scores((first, second), ids, job.folds) @ weight / max(1.0, weight.sum())
    return _Found(first, second, sides, match, null, deleted)


def _check_decoders(a: Latents, b: Latents, one_space: bool) -> None:
    widths = [None if one.dictionary is None else one.dictionary.shape[1] for one in (a, b)]
    if None in widths or widths[0] != widths[1]:
        raise InputError(f"decoders of widths {widths} do not compare: match by activations")
    if not one_space:
        raise InputError(
            f"{a.name} and {b.name} are not one space, in which decoders compare: match by "
            "activations, or pass same_space=True where both write one residual stream"
        )


def _level(main: _Found, found: _Found, name: str) -> MatchLevel:
    interval, difference = None, main.mean - found.mean
    if main.deleted is not None and found.deleted is not None:
        interval = jackknife(difference, main.deleted - found.deleted)
    share = None
    if found.threshold is not None:
        above = sum(r > found.threshold for r in found.r.values())
        share = above / len(found.sides.latents[0])
    n_pairs = len(found.match.pairs.first)
    low, high = (None, None) if interval is None else (float(interval.low), float(interval.high))
    return MatchLevel(name, *found.sides.shape, n_pairs, found.mean, share, difference, low, high)


def _columns(main: _Found, ceilings: Sequence[_Found | None], one_space: bool) -> dict[str, tuple]:
    """One entry per matched latent of the first SAE, strongest first."""
    match, (ours, theirs) = main.match, main.sides.latents
    first, r = match.per_first(match.r)
    # Of a soft match the partner with the largest weight is named.
    heaviest = np.lexsort((match.pairs.second, -match.pairs.weight, match.pairs.first))
    partner = match.pairs.second[
        heaviest[np.unique(match.pairs.first[heaviest], return_index=True)[1]]
    ]
    order = np.lexsort((ours[first], -r))
    first, r, partner = first[order], r[order], partner[order]
    latents = ours[first].tolist(), theirs[partner].tolist()
    p, scores = (None,) * len(r), np.zeros(len(r))
    if main.null is not None and main.threshold is not None:
        p = tuple(permutation_p(r, main.null.largest[:, None]).tolist())
        scores = np.maximum(0, (r - main.threshold) / (1 - main.threshold))
    tops = [
        tuple(None if found is None else found.r.get(i) for i in ids)
        for found, ids in zip(ceilings, latents, strict=True)
    ]
    cosine: tuple = (None,) * len(r)
    rows = main.first.dictionary, main.second.dictionary
    if one_space and rows[0] is not None and rows[1] is not None:
        cosine = tuple(F.cosine_similarity(rows[0][latents[0]], rows[1][latents[1]]).tolist())
    return {
        "latent_first": tuple(latents[0]),
        "latent_second": tuple(latents[1]),
        "found": tuple(match.per_first(match.r_found)[1][order].tolist()),
        "r": tuple(r.tolist()),
        "universality": tuple(scores.tolist()),
        "p": p,
        "ceiling_first": tops[0],
        "ceiling_second": tops[1],
        "cosine": cosine,
    }  # fmt: skip


def _record(
    job: _Job,
    main: _Found,
    columns: dict[str, tuple],
    levels: Sequence[MatchLevel],
    examples: Any,
) -> FeatureMatches:
    a, null = main.first, None if main.null is None else main.null.mean
    low = high = None
    if main.deleted is not None:
        low, high, _ = map(float, jackknife(main.mean, main.deleted))
    return FeatureMatches(
        _side(main.first, main.sides.latents[0]),
        _side(main.second, main.sides.latents[1]),
        method=job.method,
        by=job.by,
        pooling=a.pooling,
        **columns,
        threshold=main.threshold,
        mean=main.mean,
        low=low,
        high=high,
        null_mean=None if null is None else float(null.mean()),
        null_sd=None if null is None else float(null.std(ddof=1)),
        p_mean=None if null is None else float(permutation_p(np.array(main.mean), null)),
        levels=tuple(levels),
        examples=examples,
        n_found=len(job.halves.found),
        n_scored=len(job.halves.scored),
        min_images=job.min_images,
        n_permutations=job.n_permutations,
        n_folds=job.n_folds,
        seed=job.seed,
        strata=_kept(a),
        sample_set=_sample_set(a),
        sample_hash=hash_ids(a.ids),
        note=NOTE,
    )


def _side(one: Latents, counted: np.ndarray) -> MatchSide:
    names = (one.model, one.point, one.call)
    return MatchSide(*names, one.n_latents, tuple(counted.tolist()), one.sae, one.store)


def _kept(one: Latents) -> str:
    """What the permutations kept."""
    kept = ["within strata"] if len(set(one.strata)) > 1 else []
    kept += ["whole clusters"] if len(set(one.clusters)) not in (0, len(one.ids)) else []
    return ", ".join(kept) or "free"


def _sample_set(one: Latents) -> str:
    rows = torch.zeros(len(one.ids), 1)
    return sample_set([Representation(one.model, one.point, rows, one.ids, maker=one.maker)])
