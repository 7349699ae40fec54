"""How a measure changes with the number of images and of neighbors.

A share of common neighbors at fixed k falls as n grows, and a debiased value does not; a claim that
holds at one n and one k alone is no claim. k is a fraction of n throughout. Images are drawn
without replacement, whole clusters at a time: repeated rows would be each other's neighbors.
"""

import dataclasses
import os
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.alignment.cells import (
    Measured,
    Setting,
    comparison_at,
    compute_block,
    make_setting,
    measured,
    share,
)
from interp.alignment.compare import label_rows
from interp.alignment.records import Comparison
from interp.alignment.representations import Representation
from interp.alignment.saving import plain, read_json, write_json
from interp.errors import InputError
from interp.geometry import get_measure
from interp.geometry.curves import FRACTIONS
from interp.geometry.neighbors import FRACTION, count_neighbors
from interp.stats import FOLDS

FORMAT = 1
# Permutations behind a null mean whose exact value is not known: its error is then a tenth of the
# null's standard deviation.
NULL_DRAWS = 100
# Subsamples per size: their spread is then known to a third.
DRAWS = 5
# Halvings of the whole sample that the default sizes go down to.
HALVINGS = 4
# A neighbor measure needs this many neighbors in the smallest subsample (k b / n >= 4).
MIN_NEIGHBORS = 4


@dataclass(frozen=True)
class CurvePoint:
    """A measure at one n and one k."""

    n: int
    k: int | None
    fraction: float | None
    """k / n as asked for."""
    value: float
    """Mean over subsamples of n images; of the whole sample, its value."""
    sd: float | None
    """Standard deviation over subsamples, which overlap: a description, not an error."""
    null_mean: float | None
    corrected: float | None
    """(value - null_mean) / (equal - null_mean)."""
    values: tuple[float, ...]
    low: float | None
    """95 % jackknife interval; of the whole sample only."""
    high: float | None


@dataclass(frozen=True)
class Curve:
    """A measure over n, or over k."""

    measure: str
    kind: str
    """"n" or "k"."""
    points: tuple[CurvePoint, ...]
    seed: int
    direction: str = ""
    """"x -> y" for a measure with a direction."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"format": FORMAT, **plain(dataclasses.asdict(self))}

    def save(self, path: str | os.PathLike) -> Path:
        """Write JSON; equal curves give equal bytes."""
        return write_json(path, self.as_dict())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Curve":
        """Read what `save` wrote. Raises InputError for another file or a newer format."""
        values = read_json(path, "Curve", FORMAT)
        try:
            points = tuple(
                CurvePoint(**{**p, "values": tuple(p["values"])}) for p in values["points"]
            )
            return cls(**{**values, "points": points})
        except (KeyError, TypeError) as error:
            raise InputError(f"{path} is not a saved Curve: {error!r}") from error


def n_curve(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    measure: str = "cka",
    *,
    sizes: Sequence[int] | None = None,
    n_draws: int = DRAWS,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    n_neighbors: float = FRACTION,
    n_folds: int = FOLDS,
    seed: int = 0,
) -> Curve:
    """A measure on subsamples of the images of several sizes, and on all of them.

    Args:
        x, y: features of the same n images.
        measure: a key of `interp.geometry.MEASURES`.
        sizes: numbers of images below n; None: n / 2, n / 4, n / 8, n / 16 where neighbors are
            enough. All n are always the last point.
        n_draws: subsamples of each size.
        clusters: [n] labels of near-duplicates, drawn together: sizes are then met up to a cluster.
        n_neighbors: neighbors as a fraction of the size, for measures that count them.
        n_folds: of the interval at all n; 0: none.
        seed: of the subsamples, folds and ties.

    Raises:
        InputError: sizes that leave too few rows, or fewer than 4 neighbors.
    """
    labels = label_rows(clusters, "clusters", len(x)) or tuple(map(str, range(len(x))))
    pair = _pair(x, y, labels)
    n, spec = len(labels), get_measure(measure)
    asked = _default_sizes(n, spec.uses_neighbors, n_neighbors) if sizes is None else sizes
    for size in asked:
        _check_size(size, n, spec.uses_neighbors, n_neighbors)
    rng = np.random.default_rng(seed)
    points = []
    for size in sorted(asked):
        parts = [_take(pair, rows) for rows in _subsamples(labels, size, n_draws, rng)]
        points.append(
            _point([_measure(p, measure, n_neighbors, 0, seed) for p in parts], n_neighbors)
        )
    whole = _measure(pair, measure, n_neighbors, n_folds, seed)
    points.append(_point([whole], n_neighbors))
    return Curve(measure, "n", tuple(points), seed, whole.direction)


def k_curve(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    measure: str = "mutual_knn",
    *,
    fractions: Sequence[float] = FRACTIONS,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    n_folds: int = FOLDS,
    seed: int = 0,
) -> Curve:
    """A neighbor measure over k as a fraction of n, from one graph per representation.

    Neighbors are searched once, for the largest k; the first k of them serve the smaller ones.

    Args:
        x, y: features of the same n images.
        measure: a key of `interp.geometry.MEASURES` that counts neighbors.
        fractions: k / n, each giving k >= 1; equal k are taken once.
        clusters: [n] labels of near-duplicates, left out together.
        n_folds: of the intervals; 0: none.
        seed: of folds and ties.

    Raises:
        InputError: a measure without neighbors, fractions that give no k.
    """
    spec = get_measure(measure)
    if not spec.uses_neighbors:
        raise InputError(f"{measure} counts no neighbors: a k-curve needs a measure that does")
    labels = label_rows(clusters, "clusters", len(x)) or tuple(map(str, range(len(x))))
    pair, n = _pair(x, y, labels), len(labels)
    by_k = {count_neighbors(n, f): f for f in sorted(fractions, reverse=True)}
    if not by_k:
        raise InputError("no fractions given: k_curve needs at least one")
    setting = make_setting(pair, 0, n_folds, max(by_k.values()), seed)
    used = measured(measure, setting)
    layers = [setting.prepare(spec, one) for one in pair]
    points, one = [], None
    for k, fraction in sorted(by_k.items()):
        narrow = [layer._replace(k=k) for layer in layers]
        one = _compare(used._replace(k=k), narrow, setting)
        points.append(_point([one], fraction))
    return Curve(measure, "k", tuple(points), seed, "" if one is None else one.direction)


def _pair(x: Any, y: Any, labels: tuple[str, ...]) -> list[Representation]:
    if len(x) != len(y):
        raise InputError(f"x has {len(x)} rows and y {len(y)}; row i of both is the same image")
    ids = tuple(map(str, range(len(labels))))
    return [
        Representation(name, "features", torch.as_tensor(z), ids, labels)
        for name, z in (("x", x), ("y", y))
    ]


def _default_sizes(n: int, neighbors: bool, fraction: float) -> list[int]:
    sizes = [n >> i for i in range(1, HALVINGS + 1)]
    enough = MIN_NEIGHBORS / fraction if neighbors else 20
    return [size for size in sizes if size >= enough]


def _check_size(size: int, n: int, neighbors: bool, fraction: float) -> None:
    if not 4 <= size < n:
        raise InputError(f"a subsample of {size} of {n} images: 4 to {n - 1} are possible")
    if neighbors and fraction * size < MIN_NEIGHBORS:
        raise InputError(
            f"{fraction} of a subsample of {size} images are {fraction * size:.2g} neighbors; "
            f"fewer than {MIN_NEIGHBORS} tell subsamples apart by their ties alone: take sizes of "
            f"at least {round(MIN_NEIGHBORS / fraction)}, or a larger n_neighbors"
        )


def _subsamples(
    labels: Sequence[str], size: int, count: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Rows of whole clusters in random order until `size` is reached, sorted."""
    _, code = np.unique(labels, return_inverse=True)
    members = np.split(np.argsort(code, kind="stable"), np.cumsum(np.bincount(code))[:-1])
    for _ in range(count):
        order = rng.permutation(len(members))
        sizes = np.cumsum([len(members[c]) for c in order])
        last = int(np.searchsorted(sizes, size))
        yield np.sort(np.concatenate([members[c] for c in order[: last + 1]]))


def _take(pair: Sequence[Representation], rows: np.ndarray) -> list[Representation]:
    keep = torch.as_tensor(rows)
    return [
        dataclasses.replace(
            one,
            x=one.x[keep],
            ids=tuple(one.ids[r] for r in rows),
            clusters=tuple(one.clusters[r] for r in rows),
        )
        for one in pair
    ]


def _measure(
    pair: Sequence[Representation], measure: str, n_neighbors: float, n_folds: int, seed: int
) -> Comparison:
    setting = make_setting(pair, 0, n_folds, n_neighbors, seed)
    used = measured(measure, setting)
    return _compare(used, [setting.prepare(used.spec, one) for one in pair], setting)


def _compare(used: Measured, layers: Sequence[Any], setting: Setting) -> Comparison:
    """A comparison without a p-value, but with the mean of its null: exact where it is known."""
    ends = ([layers[0]], [layers[1]])
    block = compute_block(used, ends, setting, None, setting.folds)
    one = comparison_at(block, (0, 0), used, setting, "", names=("x", "y"))
    if used.spec.moments is not None and not setting.restricted:
        mean = float(used.spec.moments(*ends)[0][0, 0])
    else:
        draws = dataclasses.replace(setting, n_permutations=NULL_DRAWS).orders("y")
        mean = float(used.spec.permuted(*ends, setting.spread(draws)).mean())
    corrected = share(one.value, mean, used.spec.equal)
    return dataclasses.replace(one, null_mean=mean, corrected=corrected)


def _point(found: Sequence[Comparison], fraction: float) -> CurvePoint:
    first = found[0]
    values = tuple(one.value for one in found)
    alone = len(found) == 1
    null = [one.null_mean for one in found if one.null_mean is not None]
    fair = [one.corrected for one in found if one.corrected is not None]
    return CurvePoint(
        n=round(float(np.mean([one.n for one in found]))),
        k=first.k,
        fraction=None if first.k is None else fraction,
        value=float(np.mean(values)),
        sd=None if alone else float(np.std(values, ddof=1)),
        null_mean=float(np.mean(null)) if null else None,
        corrected=float(np.mean(fair)) if fair else None,
        values=values,
        low=first.low if alone else None,
        high=first.high if alone else None,
    )
