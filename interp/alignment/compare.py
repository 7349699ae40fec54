"""compare() two feature matrices; compare_layers() of several models, with their twins."""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.alignment.cells import (
    SCALING,
    Block,
    Setting,
    block_cells,
    block_family,
    comparison_at,
    compute_block,
    make_setting,
)
from interp.alignment.pairing import (
    hash_ids,
    pair_all_by_seed,
    pair_by_seed,
    pair_up,
    sample_set,
)
from interp.alignment.records import Alignment, Cell, Comparison, Family, Layer
from interp.alignment.representations import (
    Representation,
    load_representations,
    pixel_representation,
)
from interp.errors import InputError
from interp.geometry import CORE, get_measure
from interp.geometry.neighbors import FRACTION
from interp.stats import FOLDS, MIN_PERMUTATIONS, check_permutations, holm, relative
from interp.store import ActivationStore

NOTE = (
    "p: step-down max-T over the cells of a model pair and measure, one permutation of the images "
    "per model shared by all its layers; it asks whether any pairing exists at all. What counts is "
    "the difference to the untrained twins. Intervals: 95 % jackknife over folds of whole clusters."
)

# (store,), (store, points) or (store, points, calls), or a store for all its points.
Source = ActivationStore | tuple | Sequence[Representation]


def compare(
    x: Float[Tensor, "n ..."],
    y: Float[Tensor, "n ..."],
    measure: str = "cka",
    *,
    strata: Sequence[Hashable] | np.ndarray | None = None,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    n_permutations: int = MIN_PERMUTATIONS,
    n_folds: int = FOLDS,
    n_neighbors: float = FRACTION,
    seed: int = 0,
) -> Comparison:
    """How alike two representations of the same n images are, with its null and interval.

    Args:
        x, y: features [n, d] and [n, e], or [n, p, d] with p positions; row i of both is the same
            image. Arrays and tensors of any real dtype.
        measure: a key of `interp.geometry.MEASURES`.
        strata: [n] labels; images are permuted only within their stratum.
        clusters: [n] labels of near-duplicates: permuted and left out together.
        n_permutations: 0 for none (then p is None), else at least 200.
        n_folds: folds of the jackknife; 0 for no interval.
        n_neighbors: neighbors as a fraction of n, for measures that count them.
        seed: of permutations, folds and the order of rows at equal distance (mutual_knn).

    Returns:
        The value with the mean and sd of its null, p and jackknife interval.

    Raises:
        InputError: shapes, NaN, n < 4, constant features, too few permutations or clusters.
    """
    if len(x) != len(y):
        raise InputError(f"x has {len(x)} rows and y {len(y)}; row i of both is the same image")
    if n_permutations:
        check_permutations(n_permutations, 1)
    ids = tuple(map(str, range(len(x))))
    labels = (_labels(clusters, "clusters", len(x)), _labels(strata, "strata", len(x)))
    pair = [
        Representation(name, "features", torch.as_tensor(z), ids, *labels)
        for name, z in (("x", x), ("y", y))
    ]
    setting, spec = (
        make_setting(pair, n_permutations, n_folds, n_neighbors, seed),
        get_measure(measure),
    )
    first, second = ([setting.prepare(spec, one)] for one in pair)
    orders = setting.orders("y") if n_permutations else None
    block = compute_block(spec, (first, second), setting, orders, setting.folds)
    return comparison_at(block, (0, 0), measure, setting, setting.n_counted(spec), SCALING)


def _labels(given: Sequence[Hashable] | np.ndarray | None, name: str, n: int) -> tuple[str, ...]:
    """One label per image as text; of a list, an array or a tensor."""
    if given is None:
        return ()
    values = given.tolist() if isinstance(given, np.ndarray | torch.Tensor) else list(given)
    if not isinstance(values, list) or any(isinstance(one, list) for one in values):
        raise InputError(f"{name}: one label per image, not {getattr(given, 'shape', 'lists')}")
    if len(values) != n:
        raise InputError(f"{len(values)} {name} for {n} image ids: one label per image is needed")
    return tuple(map(str, values))


def compare_layers(
    models: Mapping[str, Source],
    *,
    twins: Mapping[str, Source] | None = None,
    pixels: bool | Representation = True,
    measures: Sequence[str] = CORE,
    pooling: str = "mean",
    strata: str = "source",
    images: Sequence[str] | None = None,
    pairing: str = "image",
    pairs: Sequence[tuple[str, str]] | None = None,
    n_permutations: int = MIN_PERMUTATIONS,
    n_folds: int = FOLDS,
    n_neighbors: float = FRACTION,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Alignment:
    """Compare every layer of every model with every other on one set of images.

    Args:
        models: label -> store, or (store, points) or (store, points, calls) with names or globs,
            or a list of Representations. The stores hold the same images.
        twins: label -> the same capture from the untrained twin; absent labels have none. In each
            cell the twins' value stands beside the models' own with the paired difference. Samples
            of a twin, which are other images, pair with the model's of the same seed and options.
        pixels: add the images themselves (RGB at 16 x 16) as a reference level; or yours.
        measures: keys of `interp.geometry.MEASURES`.
        pooling: "mean" over positions, or "tokens" (4 x 4 positions, each one's mean removed).
        strata: column of the generations table within which images are permuted; "" for none.
        images: image ids to keep; None: all, which must then be the same everywhere.
        pairing: "image": rows pair by image id. "seed": samples of different weights pair where
            seed and options agree, so that untrained generators can stand among the models.
        pairs: model pairs to test; None: all. The others get values without p or interval.
        n_permutations: at least 200, and enough for Holm over model pairs x measures; 0: no p.
        n_folds: folds of the jackknife, unions of whole clusters; 0: no intervals.
        n_neighbors: neighbors as a fraction of the rows, for measures that count them.
        seed: of permutations, folds and the order of rows at equal distance (mutual_knn).
        progress: called with a line of text per measure and model pair.

    Returns:
        Every layer against every layer, with families of tests per model pair and measure.

    Raises:
        InputError: images that differ or repeat, a mix of real images and samples, a point that
            does not exist, too few permutations for the number of families.
    """
    options = {"pooling": pooling, "strata": strata}
    layers = [one for m, source in models.items() for one in _load(m, source, options)]
    if isinstance(pixels, Representation):
        layers.append(dataclasses.replace(pixels, reference=True))
    elif pixels:
        layers.append(_pixels(models, options))
    if odd := sorted(set(twins or {}) - set(models)):
        raise InputError(f"twins of {odd}, which are not among the models {sorted(models)}")
    beside = [one for m, source in (twins or {}).items() for one in _load(m, source, options)]
    paired = _paired(layers, beside, pairing, images)
    layers, beside = paired[: len(layers)], paired[len(layers) :]
    setting = make_setting(paired, n_permutations, n_folds, n_neighbors, seed)
    job = _Job(layers, _match_twins(layers, beside, twins or {}), tuple(measures), setting)
    tested = _tested_pairs(job.models, pairs)
    if n_permutations and tested:
        check_permutations(n_permutations, len(tested) * len(measures))
    found = [_measure_cells(job, name, tested, progress) for name in measures]
    cells = [c for part, _ in found for c in part]
    families = [f for _, part in found for f in part]
    return _alignment(job, cells, families, strata)


def _paired(
    layers: list[Representation],
    beside: list[Representation],
    pairing: str,
    images: Sequence[str] | None,
) -> list[Representation]:
    """Layers and twins with the same images in the same rows."""
    if pairing not in ("image", "seed"):
        raise InputError(f"pairing {pairing!r} is image or seed")
    own = {one.model: one for one in reversed(layers)}
    everyone = [*layers, *(pair_by_seed(one, own[one.model]) for one in beside)]
    if pairing == "seed":
        everyone = pair_all_by_seed(everyone, images)
    sample_set(everyone)
    return pair_up(everyone, images)


@dataclass(frozen=True)
class _Job:
    layers: list[Representation]
    twins: list[Representation | None]
    measures: tuple[str, ...]
    setting: Setting

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.model for one in self.layers if not one.reference))

    def blocks(self) -> Iterator[tuple[tuple[str, str], tuple[list[int], list[int]]]]:
        """Every pair of models or references, each with the numbers of its layers."""
        groups: dict[str, list[int]] = {}
        for i, one in enumerate(self.layers):
            groups.setdefault(one.model, []).append(i)
        labels = list(groups)
        for i, a in enumerate(labels):
            for b in labels[i:]:
                if a != b or len(groups[a]) > 1:
                    yield (a, b), (groups[a], groups[b])


def _load(model: str, source: Source, options: dict[str, str]) -> list[Representation]:
    parts: Sequence[Any] = (source,) if isinstance(source, ActivationStore) else source
    if parts and isinstance(parts[0], ActivationStore) and len(parts) <= 3:
        points = parts[1] if len(parts) > 1 else ("*",)
        calls = parts[2] if len(parts) > 2 else None
        points = (points,) if isinstance(points, str) else points
        return load_representations(parts[0], points, model=model, calls=calls, **options)  # pyright: ignore[reportGeneralTypeIssues]
    wrong = [one for one in parts if not isinstance(one, Representation) or one.model != model]
    if wrong or not parts:
        raise InputError(
            f"{model!r} is given as {type(source).__name__}: a store, (store, points), (store, "
            f"points, calls) or a list of Representations with model={model!r} is needed"
        )
    return list(parts)


def _pixels(models: Mapping[str, Source], options: dict[str, str]) -> Representation:
    for source in models.values():
        store = source[0] if isinstance(source, tuple) and source else source
        if isinstance(store, ActivationStore):
            return pixel_representation(store, **options)
    raise InputError("no store to take pixels from: pass a Representation, or pixels=False")


def _match_twins(layers, beside, twins: Mapping[str, Source]) -> list[Representation | None]:
    known = {(one.model, one.point, one.call): one for one in beside}
    out = []
    for one in layers:
        twin = known.get((one.model, one.point, one.call))
        if twin is None and one.model in twins:
            raise InputError(f"the untrained twin of {one.model} lacks {one.name}")
        out.append(twin)
    return out


def _tested_pairs(models: tuple[str, ...], pairs) -> set[frozenset[str]]:
    if pairs is None:
        return {frozenset((a, b)) for i, a in enumerate(models) for b in models[i + 1 :]}
    odd = sorted({m for pair in pairs for m in pair} - set(models))
    if odd or any(len(set(pair)) != 2 for pair in pairs):
        raise InputError(f"pairs {list(pairs)}: two different models each, of {', '.join(models)}")
    return {frozenset(pair) for pair in pairs}


def _measure_cells(
    job: _Job, name: str, tested: set[frozenset[str]], progress: Callable[[str], None] | None
) -> tuple[list[Cell], list[Family]]:
    measure, setting = get_measure(name), job.setting
    own = [setting.prepare(measure, one) for one in job.layers]
    twins = [
        mine if twin is None else setting.prepare(measure, twin)
        for twin, mine in zip(job.twins, own, strict=True)
    ]
    orders = {m: setting.orders(m) for m in job.models} if setting.n_permutations else {}
    k = setting.n_counted(measure)

    def record(block: Block, at: tuple[int, int], i: int, j: int) -> Comparison:
        how = f"{job.layers[i].preprocessing} | {job.layers[j].preprocessing}; {SCALING}"
        return comparison_at(block, at, name, setting, k, how)

    cells: list[Cell] = []
    families: list[Family] = []
    for pair, places in job.blocks():
        if progress:
            progress(f"{name}: {pair[0]} x {pair[1]}, {len(places[0])} x {len(places[1])} layers")
        test = frozenset(pair) in tested
        # Within a model there is nothing to permute; an interval there has no use and a cost.
        judged = test or any(job.layers[part[0]].reference for part in places)
        moved = relative(orders[pair[0]], orders[pair[1]]) if test and orders else None
        folds = setting.folds if judged else None
        block = compute_block(measure, _pick(own, places), setting, moved, folds)
        beside = None
        if judged and any(job.twins[i] is not None for part in places for i in part):
            beside = compute_block(measure, _pick(twins, places), setting, None, folds)
        cells += block_cells(block, beside, places, partial(record, block))
        if block.p is not None:
            families.append(block_family(block, pair, places, name))
    return cells, families


def _pick(prepared: Sequence[Any], places: tuple[list[int], list[int]]) -> tuple[list, list]:
    return [prepared[i] for i in places[0]], [prepared[j] for j in places[1]]


def _alignment(job: _Job, cells, families: list[Family], strata: str) -> Alignment:
    adjusted = holm([f.p for f in families]) if families else []
    families = [
        dataclasses.replace(f, p_holm=float(q)) for f, q in zip(families, adjusted, strict=True)
    ]
    first, setting = job.layers[0], job.setting
    kept = [f"within {strata}"] if len(set(setting.strata)) > 1 else []
    kept += ["whole clusters"] if len(set(setting.clusters)) < len(setting.clusters) else []
    return Alignment(
        sample_set=sample_set(job.layers),
        sample_hash=hash_ids(first.ids),
        models=job.models,
        layers=tuple(map(_layer, job.layers, job.twins)),
        measures=job.measures,
        cells=tuple(cells),
        families=tuple(families),
        n=setting.n,
        n_permutations=setting.n_permutations,
        n_folds=setting.n_folds,
        seed=setting.seed,
        strata=", ".join(kept) or "free",
        preprocessing="; ".join(dict.fromkeys(one.preprocessing for one in job.layers)),
        note=NOTE,
    )


def _layer(one: Representation, twin: Representation | None) -> Layer:
    return Layer(
        model=one.model,
        point=one.point,
        call=one.call,
        t=one.t,
        log_snr=one.log_snr,
        depth=one.depth,
        width=one.x.shape[-1],
        twin=twin is not None,
        reference=one.reference,
    )
