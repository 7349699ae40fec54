"""One block of cells: values, nulls and intervals of all layer pairs of two models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from interp.alignment.records import Comparison, Family
from interp.alignment.representations import Representation
from interp.errors import InputError
from interp.geometry import Measure, get_measure
from interp.geometry.neighbors import count_neighbors
from interp.stats import (
    Interval,
    count_permutations,
    jackknife,
    make_folds,
    max_t,
    max_t_by_layer,
    permutations,
    student_quantile,
)

# Parts of a cross-validation: as `interp.geometry.regression` takes.
PARTS = 5
# Level of the tests and of the critical values.
ALPHA = 0.05
# Power at which a difference counts as detectable (Cohen 1988, sec. 2.4).
POWER = 0.8


def scaling(measure: Measure) -> str:
    """What a measure does to its rows first: part of the identity of a result."""
    if "translation" in measure.invariances:
        return "columns centered, Frobenius norm 1, float64"
    return "columns as they are, float64"


@dataclass(frozen=True)
class Setting:
    """What all cells of a comparison share."""

    n: int
    """Images."""
    positions: int
    """Rows per image; more than 1 for token features."""
    clusters: tuple[str, ...]
    strata: tuple[str, ...]
    n_permutations: int
    n_folds: int
    n_neighbors: float
    seed: int
    folds: np.ndarray | None = field(default=None, repr=False)
    """[rows] fold of each row, or None for no intervals."""
    split: np.ndarray | None = field(default=None, repr=False)
    """[rows] part of each row, for measures that fit on some and test on others."""

    @property
    def restricted(self) -> bool:
        """Whether not all n! pairings are allowed, so that closed-form moments do not hold."""
        grouped = len(set(self.clusters)) < len(self.clusters)
        return grouped or len(set(self.strata)) > 1 or self.positions > 1

    def orders(self, model: str) -> np.ndarray:
        """Permutations of the images for one model: [p, n]."""
        labels = {"strata": self.strata or None, "clusters": self.clusters or None}
        return permutations(self.n, self.n_permutations, seed=self.seed, model=model, **labels)

    @property
    def possible(self) -> float:
        """Reorderings of the images that strata and clusters allow."""
        labels = {"strata": self.strata or None, "clusters": self.clusters or None}
        return count_permutations(self.n, **labels)

    def spread(self, orders: np.ndarray) -> np.ndarray:
        """Reorderings of images as reorderings of rows: positions stay in place."""
        p = self.positions
        return (orders[:, :, None] * p + np.arange(p)).reshape(len(orders), -1)

    def prepare(self, measure: Measure, one: Representation) -> Any:
        """The prepared layer of one representation."""
        rows = one.x.reshape(-1, one.x.shape[-1])
        if measure.splits:
            return measure.prepare(rows, one.name, split=self.split)
        if not measure.uses_neighbors:
            return measure.prepare(rows, one.name)
        units = np.repeat(np.arange(self.n), self.positions) if self.positions > 1 else None
        options = {"n_neighbors": self.n_neighbors, "units": units, "seed": self.seed}
        return measure.prepare(rows, one.name, **options)

    def n_counted(self, measure: Measure) -> int | None:
        """Neighbors that the measure counts, or None."""
        rows = self.n * self.positions
        return count_neighbors(rows, self.n_neighbors) if measure.uses_neighbors else None


def make_setting(
    layers: Sequence[Representation],
    n_permutations: int,
    n_folds: int,
    n_neighbors: float,
    seed: int,
) -> Setting:
    """The setting of layers on the same images. Raises InputError when they do not fit together."""
    positions = {one.x.shape[1] if one.x.ndim == 3 else 1 for one in layers}
    if len(positions) > 1:
        raise InputError(f"layers with {sorted(positions)} positions per image: one is needed")
    first, p = layers[0], positions.pop()
    clusters = first.clusters or first.ids
    folds = np.repeat(make_folds(clusters, n_folds, seed), p) if n_folds else None
    parts = min(PARTS, len(set(clusters)))
    # Near-duplicates never stand on both sides of a fit.
    split = np.repeat(make_folds(clusters, parts, seed), p) if parts > 1 else None
    return Setting(
        n=len(first.ids),
        positions=p,
        clusters=first.clusters,
        strata=first.strata,
        n_permutations=n_permutations,
        n_folds=n_folds,
        n_neighbors=n_neighbors,
        seed=seed,
        folds=folds,
        split=split,
    )


class Measured(NamedTuple):
    """A measure as it is used in one comparison."""

    name: str
    spec: Measure
    k: int | None
    """Neighbors that it counts, or None."""

    @property
    def sign(self) -> int:
        """-1 where smaller is more alike: turns values so that larger always is."""
        return -1 if self.spec.distance else 1


def measured(name: str, setting: Setting) -> Measured:
    """The measure of that name. Raises InputError for an unknown one."""
    spec = get_measure(name)
    return Measured(name, spec, setting.n_counted(spec))


class Block(NamedTuple):
    """All pairs of a first and a second list of layers, as arrays [a, b] where not said."""

    value: np.ndarray
    null_mean: np.ndarray | None
    null_sd: np.ndarray | None
    permuted: np.ndarray | None  # [p, a, b]
    folds: np.ndarray | None  # [f, a, b]
    interval: Interval | None
    p: np.ndarray | None = None  # max-T adjusted
    critical: float | None = None  # of z, at ALPHA
    p_rows: np.ndarray | None = None  # [a] of each first layer with any second
    p_columns: np.ndarray | None = None  # [b] of each second layer with any first
    reverse: "Block | None" = None  # second list to first, still [a, b]


def compute_block(
    used: Measured,
    layers: tuple[Sequence[Any], Sequence[Any]],
    setting: Setting,
    orders: np.ndarray | None = None,
    folds: np.ndarray | None = None,
) -> Block:
    """Values of all pairs; nulls when `orders` of the second model are given, intervals with folds.

    Cells are standardized by the exact moments where every pairing is allowed and the measure has
    them, else by the permutations. A measure with a direction is taken both ways, from the same
    pairings, and both ways are one family.
    """
    if not used.spec.paired:
        # Without partners there is no pairing to permute.
        orders = None
    forward = _one_way(used, layers, setting, orders, folds)
    parts = [forward]
    if not used.spec.symmetric:
        # x against y[order] pairs the same rows as y against x[inverse].
        inverse = None if orders is None else np.argsort(orders, axis=1)
        parts.append(_turned(_one_way(used, layers[::-1], setting, inverse, folds)))
    if orders is not None:
        parts = _tested(used, parts, exact=_has_moments(used, setting))
    return parts[0]._replace(reverse=parts[1] if len(parts) > 1 else None)


def _has_moments(used: Measured, setting: Setting) -> bool:
    return used.spec.moments is not None and not setting.restricted


def _one_way(used: Measured, layers, setting: Setting, orders, folds) -> Block:
    measure = used.spec
    value = measure.values(*layers).numpy()
    mean = sd = permuted = deleted = interval = None
    if orders is not None:
        permuted = measure.permuted(*layers, setting.spread(orders)).numpy()
        if measure.moments is not None and not setting.restricted:
            mean, sd = (m.numpy() for m in measure.moments(*layers))
        else:
            mean, sd = permuted.mean(0), permuted.std(0, ddof=1)
    if folds is not None:
        deleted = measure.deleted(*layers, folds).numpy()
        interval = jackknife(value, deleted)
    return Block(value, mean, sd, permuted, deleted, interval)


def _turned(block: Block) -> Block:
    """The block of (second, first) with its cells at the places of (first, second)."""

    def turn(part: Any) -> Any:
        return None if part is None else np.swapaxes(part, -1, -2)

    interval = None if block.interval is None else Interval(*map(turn, block.interval))
    parts = (block.value, block.null_mean, block.null_sd, block.permuted, block.folds)
    value, mean, sd, permuted, folds = map(turn, parts)
    return Block(value, mean, sd, permuted, folds, interval)


def _tested(used: Measured, parts: list[Block], *, exact: bool) -> list[Block]:
    """The blocks with max-T p-values over all their cells, by layers, and one critical value."""

    def joined(name: str, axis: int = -1) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts], axis=axis)

    def z_scale(axis: int) -> tuple[np.ndarray, ...]:
        values, permuted = (used.sign * joined(name, axis) for name in ("value", "permuted"))
        mean, sd = used.sign * joined("null_mean", axis), joined("null_sd", axis)
        return (values, permuted, mean, sd) if exact else (values, permuted)

    def flat(part: np.ndarray) -> np.ndarray:
        return part.reshape(*part.shape[:-2], -1)

    p = max_t(*map(flat, z_scale(-1))).reshape(joined("value").shape)
    z = (used.sign * (joined("permuted") - joined("null_mean"))) / joined("null_sd")
    more = {
        "critical": critical_z(flat(z)),
        "p_rows": max_t_by_layer(*z_scale(-1)),
        "p_columns": max_t_by_layer(*(np.swapaxes(part, -1, -2) for part in z_scale(-2))),
    }
    ways = np.split(p, len(parts), axis=-1)
    return [part._replace(p=one, **more) for part, one in zip(parts, ways, strict=True)]


def critical_z(z: np.ndarray, alpha: float = ALPHA) -> float:
    """The value that the largest z of a family passes with probability alpha at most.

    z: [p, m] of permuted pairings, larger more alike. The ceil((1 - alpha)(1 + p))-th smallest of
    the p maxima, so that (1 + b) / (1 + p) <= alpha beyond it; infinite where p is too small.
    Source: Westfall and Young 1993, sec. 2.5 (single-step max-T).
    """
    largest = np.sort(z.max(axis=1))
    # The rounding guards (1 - 0.05) * 200 against 190.00000000000003.
    rank = math.ceil(round((1 - alpha) * (1 + len(largest)), 9))
    return float(largest[rank - 1]) if rank <= len(largest) else math.inf


def comparison_at(
    block: Block,
    at: tuple[int, int],
    used: Measured,
    setting: Setting,
    how: str,
    *,
    names: tuple[str, str] = ("", ""),
) -> Comparison:
    """One pair of a block as a record; names of the two layers, for measures with a direction."""
    value = float(block.value[at])
    mean, sd, p = (_number(part, at) for part in (block.null_mean, block.null_sd, block.p))
    z = used.sign * (value - mean) / sd if mean is not None and sd else None
    tau = _critical_value(block.critical, mean, sd, used.sign)
    low, high, se = _bounds(block.interval, at)
    back = block.reverse
    return Comparison(
        measure=used.name,
        value=value,
        null_mean=mean,
        null_sd=sd,
        z=z,
        p=p,
        low=low,
        high=high,
        n=setting.n,
        k=used.k,
        n_permutations=0 if p is None else setting.n_permutations,
        seed=setting.seed,
        preprocessing=how,
        distance=used.spec.distance,
        tau=tau,
        corrected=share(value, mean, used.spec.equal),
        calibrated=share(value, tau, used.spec.equal),
        se=se,
        detectable=_detectable(mean, tau, se, setting.n_folds),
        direction="" if used.spec.symmetric else f"{names[0]} -> {names[1]}",
        reverse=None if back is None else float(back.value[at]),
    )


def _critical_value(
    critical: float | None, mean: float | None, sd: float | None, sign: int
) -> float | None:
    """The critical z on the scale of the value; None where too few permutations leave none."""
    if mean is None or sd is None or critical is None or not math.isfinite(critical):
        return None
    return mean + sign * critical * sd


def share(value: float, bottom: float | None, top: float | None) -> float | None:
    """(value - bottom) / (top - bottom), for either sign; None where an end is missing or equal."""
    if bottom is None or top is None or bottom == top:
        return None
    return (value - bottom) / (top - bottom)


def _detectable(mean: float | None, tau: float | None, se: float | None, f: int) -> float | None:
    """As far off as the critical value, and power's quantile of the value's error beyond it."""
    if mean is None or tau is None or se is None:
        return None
    return abs(tau - mean) + student_quantile(POWER, f - 1) * se


def _number(part: np.ndarray | None, at: tuple[int, int]) -> float | None:
    return None if part is None else float(part[at])


def _bounds(interval: Interval | None, at: tuple[int, int]) -> tuple[float | None, ...]:
    return (None,) * 3 if interval is None else tuple(float(part[at]) for part in interval)


def block_family(
    block: Block,
    pair: tuple[str, str],
    places: tuple[Sequence[int], Sequence[int]],
    used: Measured,
) -> Family:
    """The hypothesis that no pairing of the layers of two models is aligned; p before Holm."""
    ways = [block] if block.reverse is None else [block, block.reverse]
    # The stronger of the two directions stands for a cell.
    z = np.max([used.sign * (one.value - one.null_mean) / one.null_sd for one in ways], axis=0)
    p = np.min([one.p for one in ways if one.p is not None], axis=0)
    a, b = np.unravel_index(np.lexsort((-z.ravel(), p.ravel()))[0], z.shape)
    best = (places[0][a], places[1][b])
    lowest = float(p[a, b])
    n_cells = z.size * len(ways)
    by_layer = [
        () if found is None else tuple(found.tolist()) for found in (block.p_rows, block.p_columns)
    ]
    return Family(*pair, used.name, n_cells, best, lowest, lowest, block.critical, *by_layer)
