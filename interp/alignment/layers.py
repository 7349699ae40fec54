"""compare_layers(): every layer of several models against every other, with reference levels."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from interp.alignment.beside import Beside, spectrum_level, twin_level
from interp.alignment.cells import Setting, make_setting
from interp.alignment.measuring import measure_cells
from interp.alignment.outcome import Alignment
from interp.alignment.pairing import (
    hash_ids,
    pair_all_by_seed,
    pair_by_noise,
    pair_by_seed,
    pair_up,
    sample_set,
)
from interp.alignment.records import Layer
from interp.alignment.representations import Representation
from interp.alignment.sources import (
    SPECTRUM,
    Several,
    Source,
    load_levels,
    load_several,
    load_source,
)
from interp.errors import InputError
from interp.geometry import CORE, get_measure
from interp.geometry.neighbors import FRACTION
from interp.stats import FOLDS, MIN_PERMUTATIONS, check_permutations, holm

NOTE = (
    "p: step-down max-T over the cells of a model pair and measure, one permutation of the images "
    "per model shared by all its layers; it asks whether any pairing exists at all. What counts is "
    "the difference to reference levels such as the untrained twins. Intervals: 95 % jackknife "
    "over folds of whole clusters; where a level has several initializations, to their mean."
)


def compare_layers(
    models: Mapping[str, Source],
    *,
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
) -> Alignment:
    """Compare every layer of every model with every other on one set of images.

    Args:
        models: label -> store, or (store, points) or (store, points, calls) with names or globs,
            or a list of Representations. The stores hold the same images.
        twins: label -> the same capture from the untrained twin, or a list of captures from several
            initializations (five or more show their spread); absent labels have none. In each
            cell the twins' mean stands beside the models' own with the paired difference. Samples
            of a twin, which are other images, pair with the model's of the same seed and options.
        pixels: add the images themselves (RGB at 16 x 16) as a reference level; or yours.
        levels: further reference levels: "colors", "random convolutions", "words", "tfidf",
            "caption length" (of the first store), "spectrum" (random features with each layer's
            spectrum), or Representations such as the latents of a VAE.
        shared_noise: label -> capture with `Encoding(noise="permuted")`: what models agree on when
            they share the noise and not the images.
        measures: keys of `interp.geometry.MEASURES`.
        pooling: "mean" over positions, or "tokens" (4 x 4 positions, each one's mean removed).
        strata: column of the generations table within which images are permuted; "" for none.
        images: image ids to keep; None: all, which must then be the same everywhere.
        pairing: "image": rows pair by image id. "seed": samples of different weights pair where
            seed and options agree, so that untrained generators can stand among the models.
        pairs: model pairs to test; None: all. The others get values without p or interval.
        leaks: label -> what the model shares with others by its making, beside what its store says.
        n_permutations: at least 200, and enough for Holm over model pairs x measures; 0: no p.
        n_folds: folds of the jackknife, unions of whole clusters; 0: no intervals.
        n_neighbors: neighbors as a fraction of the rows, for measures that count them.
        seed: of permutations, folds, random levels and the order of rows at equal distance; a
            model's permutations come from the seed and its label.
        progress: called with a line of text per measure and model pair.

    Returns:
        Every layer against every layer, with families of tests per model pair and measure.

    Raises:
        InputError: images that differ or repeat, a mix of real images and samples, a point that
            does not exist, too few permutations for the number of families.
    """
    options = {"pooling": pooling, "strata": strata}
    loaded = _load_all(models, twins or {}, shared_noise or {}, options)
    references = load_levels(models, pixels, levels, options)
    loaded = dataclasses.replace(loaded, layers=[*loaded.layers, *references])
    paired = _pair(loaded, pairing, images)
    everyone = [*paired.layers, *paired.others()]
    setting = make_setting(everyone, n_permutations, n_folds, n_neighbors, seed)
    layers = _with_leaks(paired.layers, leaks or {})
    beside = [
        twin_level("untrained twins", layers, paired.twins),
        twin_level("shared noise", layers, {m: [one] for m, one in paired.noisy.items()}),
    ]
    beside += [spectrum_level(layers, seed)] if SPECTRUM in levels else []
    job = Job(layers, [one for one in beside if one.counts], tuple(measures), setting)
    tested = tested_pairs(job.models, pairs)
    if n_permutations and tested:
        paired_measures = [name for name in measures if get_measure(name).paired]
        n_tests = max(1, len(tested) * len(paired_measures))
        check_permutations(n_permutations, n_tests, possible=setting.possible)
    return _run(job, tested, strata, progress)


@dataclass(frozen=True)
class Loaded:
    """Everything that has to stand on the same images."""

    layers: list[Representation]
    twins: dict[str, list[list[Representation]]]
    """Model -> one list of layers per initialization."""
    noisy: dict[str, list[Representation]]
    """Model -> its layers under shared noise."""

    def others(self) -> Iterator[Representation]:
        """All but the layers, in a fixed order."""
        for several in self.twins.values():
            for some in several:
                yield from some
        for some in self.noisy.values():
            yield from some

    def replaced(self, layers: list[Representation], others: Sequence[Representation]) -> "Loaded":
        """The same with other representations in `layers` and in the places of `others()`."""
        rest = iter(others)
        twins = {m: [[next(rest) for _ in some] for some in t] for m, t in self.twins.items()}
        noisy = {m: [next(rest) for _ in some] for m, some in self.noisy.items()}
        return Loaded(layers, twins, noisy)


@dataclass(frozen=True)
class Job:
    """Layers on the same images, the levels beside them, what is measured and how."""

    layers: list[Representation]
    beside: list[Beside]
    measures: tuple[str, ...]
    setting: Setting

    @property
    def models(self) -> tuple[str, ...]:
        """Labels of the models, references left out."""
        return tuple(dict.fromkeys(one.model for one in self.layers if not one.reference))

    @cached_property
    def orders(self) -> dict[str, np.ndarray]:
        """Permutations of the images by model, drawn once for all measures; none without nulls."""
        if not self.setting.n_permutations:
            return {}
        return {model: self.setting.orders(model) for model in self.models}

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


def _load_all(
    models: Mapping[str, Source],
    twins: Mapping[str, Several],
    noisy: Mapping[str, Source],
    options: Mapping[str, str],
) -> Loaded:
    for what, given in (("twins", twins), ("shared_noise", noisy)):
        if odd := sorted(set(given) - set(models)):
            raise InputError(f"{what} of {odd}, which are not among the models {sorted(models)}")
    return Loaded(
        [one for m, source in models.items() for one in load_source(m, source, options)],
        {m: load_several(m, source, options) for m, source in twins.items()},
        {m: load_source(m, source, options) for m, source in noisy.items()},
    )


def _pair(loaded: Loaded, pairing: str, images: Sequence[str] | None) -> Loaded:
    """Everything with the same images in the same rows."""
    if pairing not in ("image", "seed"):
        raise InputError(f"pairing {pairing!r} is image or seed")
    own = {one.model: one for one in reversed(loaded.layers)}
    twins = {
        m: [[pair_by_seed(one, own[m]) for one in some] for some in several]
        for m, several in loaded.twins.items()
    }
    # The images of the first model under each noise name the rows of all.
    first = next(iter(loaded.noisy.values()), [])
    noisy = {m: [pair_by_noise(one, first[0]) for one in some] for m, some in loaded.noisy.items()}
    loaded = Loaded(loaded.layers, twins, noisy)
    everyone = [*loaded.layers, *loaded.others()]
    if pairing == "seed":
        everyone = pair_all_by_seed(everyone, images)
    sample_set(everyone)
    paired = pair_up(everyone, images)
    count = len(loaded.layers)
    return loaded.replaced(paired[:count], paired[count:])


def _with_leaks(
    layers: Sequence[Representation], leaks: Mapping[str, Sequence[str]]
) -> list[Representation]:
    """The layers with the leaks that were given, and with that of shared noise where it is."""
    models = {one.model for one in layers}
    if odd := sorted(set(leaks) - models):
        raise InputError(f"leaks of {odd}, which are not among the models {sorted(models)}")
    users: dict[tuple[str, ...], set[str]] = {}
    for one in layers:
        if one.noise:
            users.setdefault(one.noise, set()).add(one.model)
    out = []
    for one in layers:
        more = [*one.leaks, *leaks.get(one.model, ())]
        if len(users.get(one.noise, ())) > 1:
            more.append("noise: the same draws")
        out.append(dataclasses.replace(one, leaks=tuple(dict.fromkeys(more))))
    return out


def tested_pairs(
    models: Sequence[str], pairs: Sequence[tuple[str, str]] | None
) -> set[frozenset[str]]:
    """The model pairs to test: all, or those asked for. Raises InputError for odd ones."""
    if pairs is None:
        return {frozenset((a, b)) for i, a in enumerate(models) for b in models[i + 1 :]}
    odd = sorted({m for pair in pairs for m in pair} - set(models))
    if odd or any(len(set(pair)) != 2 for pair in pairs):
        raise InputError(f"pairs {list(pairs)}: two different models each, of {', '.join(models)}")
    return {frozenset(pair) for pair in pairs}


def _run(
    job: Job,
    tested: set[frozenset[str]],
    strata: str,
    progress: Callable[[str], None] | None,
) -> Alignment:
    found = [measure_cells(job, name, tested, progress) for name in job.measures]
    families = [f for _, part in found for f in part]
    adjusted = holm([f.p for f in families]) if families else []
    first, setting = job.layers[0], job.setting
    kept = [f"within {strata}"] if len(set(setting.strata)) > 1 else []
    kept += ["whole clusters"] if len(set(setting.clusters)) < len(setting.clusters) else []
    return Alignment(
        sample_set=sample_set(job.layers),
        sample_hash=hash_ids(first.ids),
        models=job.models,
        layers=tuple(_layer(one, job.beside) for one in job.layers),
        measures=job.measures,
        cells=tuple(c for part, _ in found for c in part),
        families=tuple(
            dataclasses.replace(f, p_holm=float(q)) for f, q in zip(families, adjusted, strict=True)
        ),
        n=setting.n,
        n_permutations=setting.n_permutations,
        n_folds=setting.n_folds,
        seed=setting.seed,
        strata=", ".join(kept) or "free",
        preprocessing="; ".join(dict.fromkeys(one.preprocessing for one in job.layers)),
        note=NOTE,
        distances=tuple(name for name in job.measures if get_measure(name).distance),
    )


def _layer(one: Representation, beside: Sequence[Beside]) -> Layer:
    same: dict[str, Any] = {
        name: getattr(one, name)
        for name in ("model", "point", "call", "t", "log_snr", "depth", "reference", "leaks")
    }
    twin = any(level.name == "untrained twins" and one.model in level.counts for level in beside)
    return Layer(**same, width=one.x.shape[-1], twin=twin)
