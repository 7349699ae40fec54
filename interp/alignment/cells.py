"""One block of cells: values, nulls, intervals and twins of all layer pairs of two models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from interp.alignment.records import Cell, Comparison, Family
from interp.alignment.representations import Representation
from interp.errors import InputError
from interp.geometry import Measure
from interp.geometry.neighbors import count_neighbors
from interp.stats import Interval, jackknife, make_folds, max_t, permutations

SCALING = "columns centered, Frobenius norm 1, float64"


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

    @property
    def restricted(self) -> bool:
        """Whether not all n! pairings are allowed, so that closed-form moments do not hold."""
        grouped = len(set(self.clusters)) < len(self.clusters)
        return grouped or len(set(self.strata)) > 1 or self.positions > 1

    def orders(self, model: str) -> np.ndarray:
        """Permutations of the images for one model: [p, n]."""
        labels = {"strata": self.strata or None, "clusters": self.clusters or None}
        return permutations(self.n, self.n_permutations, seed=self.seed, model=model, **labels)

    def spread(self, orders: np.ndarray) -> np.ndarray:
        """Reorderings of images as reorderings of rows: positions stay in place."""
        p = self.positions
        return (orders[:, :, None] * p + np.arange(p)).reshape(len(orders), -1)

    def prepare(self, measure: Measure, one: Representation) -> Any:
        """The prepared layer of one representation."""
        rows = one.x.reshape(-1, one.x.shape[-1])
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
    folds = None
    if n_folds:
        clusters = first.clusters or first.ids
        folds = np.repeat(make_folds(clusters, n_folds, seed), p)
    labels = (first.clusters, first.strata)
    return Setting(len(first.ids), p, *labels, n_permutations, n_folds, n_neighbors, seed, folds)


class Block(NamedTuple):
    """All pairs of a first and a second list of layers, as arrays [a, b] where not said."""

    value: np.ndarray
    null_mean: np.ndarray | None
    null_sd: np.ndarray | None
    p: np.ndarray | None  # max-T adjusted
    permuted: np.ndarray | None  # [p, a, b]
    folds: np.ndarray | None  # [f, a, b]
    interval: Interval | None


def compute_block(
    measure: Measure,
    layers: tuple[Sequence[Any], Sequence[Any]],
    setting: Setting,
    orders: np.ndarray | None = None,
    folds: np.ndarray | None = None,
) -> Block:
    """Values of all pairs; nulls when `orders` of the second model are given, intervals with folds.

    Cells are standardized by the exact moments where every pairing is allowed and the measure has
    them, else by the permutations.
    """
    value = measure.values(*layers).numpy()
    mean = sd = p = permuted = deleted = interval = None
    if orders is not None:
        permuted = measure.permuted(*layers, setting.spread(orders)).numpy()
        cells = (value.ravel(), permuted.reshape(len(permuted), -1))
        if measure.moments is not None and not setting.restricted:
            mean, sd = (m.numpy() for m in measure.moments(*layers))
            p = max_t(*cells, mean.ravel(), sd.ravel()).reshape(value.shape)
        else:
            mean, sd = permuted.mean(0), permuted.std(0, ddof=1)
            p = max_t(*cells).reshape(value.shape)
    if folds is not None:
        deleted = measure.deleted(*layers, folds).numpy()
        interval = jackknife(value, deleted)
    return Block(value, mean, sd, p, permuted, deleted, interval)


def comparison_at(
    block: Block, at: tuple[int, int], name: str, setting: Setting, k: int | None, how: str
) -> Comparison:
    """One pair of a block as a record."""
    value = float(block.value[at])
    mean, sd, p = (_number(part, at) for part in (block.null_mean, block.null_sd, block.p))
    z = (value - mean) / sd if mean is not None and sd else None
    low, high = _bounds(block.interval, at)
    count = 0 if p is None else setting.n_permutations
    return Comparison(
        name, value, mean, sd, z, p, low, high, setting.n, k, count, setting.seed, how
    )


def _number(part: np.ndarray | None, at: tuple[int, int]) -> float | None:
    return None if part is None else float(part[at])


def _bounds(interval: Interval | None, at: tuple[int, int]) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (float(interval.low[at]), float(interval.high[at]))


def block_cells(
    block: Block,
    twin: Block | None,
    places: tuple[Sequence[int], Sequence[int]],
    record: Any,
) -> Iterator[Cell]:
    """Cells of a block, i < j only; record(at, i, j) gives each one's Comparison."""
    other, change, interval = None, None, None
    if twin is not None:
        other, change = twin.value, block.value - twin.value
        if block.folds is not None and twin.folds is not None:
            interval = jackknife(change, block.folds - twin.folds)
    for a, i in enumerate(places[0]):
        for b, j in enumerate(places[1]):
            if i >= j:
                continue
            at = (a, b)
            folds = () if block.folds is None else tuple(block.folds[:, a, b].tolist())
            beside = (_number(other, at), _number(change, at), *_bounds(interval, at))
            yield Cell(i, j, record(at, i, j), *beside, folds)


def block_family(
    block: Block, pair: tuple[str, str], places: tuple[Sequence[int], Sequence[int]], name: str
) -> Family:
    """The hypothesis that no pairing of the layers of two models is aligned; p before Holm."""
    assert block.p is not None
    assert block.null_mean is not None
    assert block.null_sd is not None
    z = (block.value - block.null_mean) / block.null_sd
    a, b = np.unravel_index(np.lexsort((-z.ravel(), block.p.ravel()))[0], z.shape)
    p = float(block.p[a, b])
    return Family(*pair, name, z.size, (places[0][a], places[1][b]), p, p)
