"""Effect sizes: raw, chance-corrected, calibrated, and as a share of what could be reached.

    corrected = (s - E0) / (e - E0)      calibrated = (s - tau) / (e - tau)

for a value s with null mean E0 and critical value tau, e the measure's value for equal
representations (1 for similarities, 0 for distances; the same formula serves both). A layer that
is itself noisy cannot reach e. Its ceiling is the measure between two captures of it that differ
in noise alone; two layers with ceilings c and d can reach sqrt(c d), which is exact for cosines of
sums of signal and independent noise, as CKA is one (Spearman 1904, correction for attenuation), and
a convention elsewhere. Distances: the larger of the two.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.alignment.cells import (
    Setting,
    comparison_at,
    compute_block,
    make_setting,
    measured,
    share,
)
from interp.alignment.pairing import pair_up
from interp.alignment.records import Comparison
from interp.alignment.representations import Representation
from interp.alignment.saving import plain
from interp.alignment.sources import Source, load_source
from interp.errors import InputError
from interp.geometry import CORE, get_measure
from interp.geometry.neighbors import FRACTION
from interp.stats import FOLDS

# Measures whose Gram matrix is a sum over units, for which Spearman-Brown holds.
ADDITIVE = ("cka", "cka_biased")
# Splits of the units that are averaged: the spread of their mean is then below that of a split.
SPLITS = 5


@dataclass(frozen=True)
class EffectSizes:
    """One comparison on every scale; None where a scale is not defined."""

    measure: str
    raw: float
    null_mean: float | None
    tau: float | None
    corrected: float | None
    calibrated: float | None
    z: float | None
    ceiling: float | None
    share: float | None
    """(raw - null_mean) / (ceiling - null_mean)."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return plain(dataclasses.asdict(self))


def effect_sizes(one: Comparison, *, ceiling: float | None = None) -> EffectSizes:
    """A comparison on every scale of the module docstring.

    ceiling: what the two layers could reach, as from `pair_ceiling`; None: no share of it.
    """
    top = share(one.value, one.null_mean, ceiling)
    scales = (one.null_mean, one.tau, one.corrected, one.calibrated, one.z)
    return EffectSizes(one.measure, one.value, *scales, ceiling, top)


@dataclass(frozen=True)
class Ceiling:
    """What a layer reaches with itself, its own noise alone being different."""

    layer: str
    measure: str
    kind: str
    """"two captures" or "split halves of units"."""
    value: float
    low: float | None
    """95 % jackknife interval over images; None for halves of units."""
    high: float | None
    values: tuple[float, ...]
    """Each split; for two captures the one value."""
    raised: bool = False
    """Whether halves were raised to the whole by Spearman-Brown: 2 r / (1 + r)."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return plain(dataclasses.asdict(self))


def ceilings(
    models: Mapping[str, Source],
    again: Mapping[str, Source],
    *,
    measures: Sequence[str] = CORE,
    pooling: str = "mean",
    images: Sequence[str] | None = None,
    n_folds: int = FOLDS,
    n_neighbors: float = FRACTION,
    seed: int = 0,
) -> tuple[Ceiling, ...]:
    """Every layer against itself, captured a second time with other noise.

    Args:
        models: label -> source, as `compare_layers` takes them.
        again: the same models captured again on the same images: with another seed of noise
            (`Encoding(seed=1)`; a `limit` draws other images with it, so pass them as images=), or,
            where there is no noise, the same capture, whose ceiling is the measure's own top.
        measures: keys of `interp.geometry.MEASURES`.
        pooling, images, n_folds, n_neighbors, seed: as in `compare_layers`.

    Returns:
        One record per layer and measure, in order of models and layers.

    Raises:
        InputError: other models or layers in `again`, or the same noise in both.
    """
    if set(models) != set(again):
        raise InputError(f"again has models {sorted(again)}, models has {sorted(models)}")
    options = {"pooling": pooling, "strata": "source"}
    first = [one for m, source in models.items() for one in load_source(m, source, options)]
    second = {one.name: one for m, s in again.items() for one in load_source(m, s, options)}
    if missing := [one.name for one in first if one.name not in second]:
        raise InputError(
            f"the second capture lacks {len(missing)} layers: {', '.join(missing[:5])}"
        )
    paired = pair_up([*first, *(second[one.name] for one in first)], images)
    pairs = list(zip(paired[: len(first)], paired[len(first) :], strict=True))
    for one, other in pairs:
        if one.noise and one.noise == other.noise:
            raise InputError(
                f"{one.name} has the same noise in both captures, which hides it: give the second "
                "one another seed"
            )
    setting = make_setting(paired, 0, n_folds, n_neighbors, seed)
    return tuple(_ceiling(pair, name, setting) for name in measures for pair in pairs)


def _ceiling(pair: tuple[Representation, Representation], name: str, setting: Setting) -> Ceiling:
    one = _compare(pair, name, setting)
    value = one.value if one.reverse is None else (one.value + one.reverse) / 2
    return Ceiling(pair[0].name, name, "two captures", value, one.low, one.high, (value,))


def _compare(
    pair: tuple[Representation, Representation], name: str, setting: Setting
) -> Comparison:
    used = measured(name, setting)
    # Other names: rows at equal distance must not stand in one order on both sides.
    named = (pair[0], dataclasses.replace(pair[1], model=f"{pair[1].model} again"))
    layers = tuple([setting.prepare(used.spec, one)] for one in named)
    block = compute_block(used, (layers[0], layers[1]), setting, None, setting.folds)
    names = (named[0].name, named[1].name)
    return comparison_at(block, (0, 0), used, setting, pair[0].preprocessing, names=names)


def split_half_ceiling(
    one: Representation,
    measure: str = "cka",
    *,
    n_splits: int = SPLITS,
    n_neighbors: float = FRACTION,
    seed: int = 0,
) -> Ceiling:
    """What two random halves of a layer's units share, averaged over splits.

    For linear CKA, whose Gram is a sum over units, the whole is 2 r / (1 + r) of the halves' r, if
    units are exchangeable draws (Spearman 1910, Brown 1910). No other measure is such a sum: there
    the halves' own value stands, which is below what the whole reaches.
    Raises InputError for fewer than two units, or fewer than one split.
    """
    width = one.x.shape[-1]
    if width < 2 or n_splits < 1:
        raise InputError(f"{one.name} has {width} units and {n_splits} splits: two halves are none")
    get_measure(measure)
    setting = make_setting([one], 0, 0, n_neighbors, seed)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_splits):
        order = rng.permutation(width)
        halves = (order[: width // 2], order[width // 2 : 2 * (width // 2)])
        parts = tuple(dataclasses.replace(one, x=one.x[..., half]) for half in halves)
        found.append(_compare((parts[0], parts[1]), measure, setting).value)
    raised = measure in ADDITIVE
    values = tuple(2 * r / (1 + r) if raised else r for r in found)
    middle = float(np.mean(values))
    return Ceiling(one.name, measure, "split halves of units", middle, None, None, values, raised)


def pair_ceiling(first: Ceiling, second: Ceiling) -> float:
    """What two layers can reach with each other (module docstring).

    Raises InputError for ceilings of different measures.
    """
    if first.measure != second.measure:
        raise InputError(f"ceilings of {first.measure} and of {second.measure}")
    if get_measure(first.measure).distance:
        return max(first.value, second.value)
    return math.sqrt(max(0.0, first.value) * max(0.0, second.value))
