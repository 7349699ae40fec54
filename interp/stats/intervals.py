"""Intervals: the jackknife over folds of whole clusters; the cluster bootstrap where it holds."""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InputError
from interp.stats.permuting import label_codes

# Folds of the jackknife: 19 degrees of freedom cost 7 % of the width of a normal interval.
FOLDS = 20
# Half of the clusters: the scale is 1, and n changes least among shares that leave enough out.
SHARE = 0.5
# Overlaps of fewer neighbors than this move in steps of more than a quarter.
MIN_NEIGHBORS = 4

_NEIGHBORS = "a row drawn twice becomes its own nearest neighbor"
_DIAGONAL = "a row drawn twice puts its squared norm, which debiasing removes, off the diagonal"
# By the names that `interp.geometry` gives its measures and descriptors.
_BOOTSTRAP_REFUSED = {
    "mutual_knn": _NEIGHBORS,
    "mutual_knn_cosine": _NEIGHBORS,
    "jaccard_knn": _NEIGHBORS,
    "cycle_knn": _NEIGHBORS,
    "lcs_knn": _NEIGHBORS,
    "edit_knn": _NEIGHBORS,
    "cknna": _NEIGHBORS,
    "cknna_code": _NEIGHBORS,
    "knn_label_overlap": _NEIGHBORS,
    "twonn": _NEIGHBORS,
    "gride": _NEIGHBORS,
    "mle": _NEIGHBORS,
    "cka": _DIAGONAL,
    "cka_minibatch": _DIAGONAL,
    "distance_correlation_u": _DIAGONAL,
    "maximum": "the maximum over cells is not smooth, and its resampled values lie above it",
}


class Interval(NamedTuple):
    """A two-sided interval and the standard error behind it."""

    low: Any
    high: Any
    se: Any


def make_folds(
    clusters: Sequence[Hashable], n_folds: int = FOLDS, seed: int = 0
) -> Int[np.ndarray, " n"]:
    """Fold of each row: unions of whole clusters, as equal in size as a greedy cut makes them.

    The largest clusters are placed first, each into the smallest fold; equal ones in random order.
    Raises InputError for fewer than two folds or fewer clusters than folds.
    """
    code = label_codes(clusters, len(clusters), "clusters")
    sizes = np.bincount(code)
    if not 2 <= n_folds <= len(sizes):
        raise InputError(
            f"{n_folds} folds from {len(sizes)} clusters: folds are unions of whole clusters, so "
            "2 <= n_folds <= number of clusters; use fewer folds or more images"
        )
    rng = np.random.default_rng(seed)
    fold_of = np.empty(len(sizes), dtype=np.int64)
    load = np.zeros(n_folds, dtype=np.int64)
    for c in np.lexsort((rng.random(len(sizes)), -sizes)):
        fold_of[c] = int(load.argmin())
        load[fold_of[c]] += sizes[c]
    return fold_of[code]


def jackknife(
    value: Float[np.ndarray, "*s"] | float,
    deleted: Float[np.ndarray, "f *s"],
    *,
    level: float = 0.95,
    statistic: str = "smooth",
) -> Interval:
    """t interval from values recomputed with one fold left out at a time.

    se^2 = (f - 1) / f sum_g (deleted_g - mean)^2, f - 1 degrees of freedom, centered at `value`.
    statistic: "smooth" (a measure, or a difference of two); "maximum" is refused: the jackknife is
    inconsistent for it.
    Raises InputError for fewer than two folds or a maximum.
    Source: Busing, Meijer and van der Leeden 1999, sec. 3 (delete-m jackknife, equal folds).
    """
    if statistic != "smooth":
        raise InputError(
            f"no jackknife interval for a {statistic}: it is not a smooth function of the sample; "
            "choose the cell on one half of the images and take its interval on the other"
        )
    f = len(deleted)
    if f < 2:
        raise InputError(f"the jackknife needs at least two folds, not {f}")
    deleted = np.asarray(deleted, dtype=np.float64)
    spread = (deleted - deleted.mean(0)) ** 2
    se = np.sqrt((f - 1) / f * spread.sum(0))
    half = student_quantile(0.5 + level / 2, f - 1) * se
    return Interval(value - half, value + half, se)


def subsample(
    statistic: Callable[[np.ndarray], Any],
    clusters: Sequence[Hashable],
    *,
    k: int | None = None,
    share: float = SHARE,
    n_resamples: int = 200,
    seed: int = 0,
    level: float = 0.95,
    measure: str = "smooth",
) -> Interval:
    """Interval from subsamples of whole clusters drawn without replacement.

    With b of n rows kept, value + sqrt(b / (n - b)) (mean - subsample value), its two tails cut:
    the delete-d jackknife with quantiles in place of Student's. No row is repeated, so that it
    holds where a bootstrap does not: neighbor measures with k a fraction of the rows.

    statistic: ids of the kept rows, ascending -> value or array; called with all rows too. It takes
    k as the same fraction of the rows that it is given.
    clusters: [n] labels of near-duplicates, kept or left out together.
    k: neighbors counted among all n rows; None for a measure that counts none.
    share: of the clusters kept. n_resamples: subsamples. level: of the interval.
    measure: "smooth" (a measure, or a difference of two); "maximum" is refused.
    Raises InputError where k b / n < 4, for fewer than two clusters kept or left out, a maximum.
    Source: Politis and Romano 1994; the scaling: Shao and Wu 1989 (delete-d jackknife).
    """
    if measure == "maximum":
        raise InputError(f"no subsampling interval for a maximum: {_BOOTSTRAP_REFUSED['maximum']}")
    code = label_codes(clusters, len(clusters), "clusters")
    count, n = int(code.max()) + 1, len(code)
    kept = round(share * count)
    if not 2 <= kept <= count - 2:
        raise InputError(
            f"{share} of {count} clusters keeps {kept}: at least two are kept and two left out; "
            "use more images"
        )
    if k is not None and k * kept / count < MIN_NEIGHBORS:
        raise InputError(
            f"k = {k} neighbors of n = {n} rows leave k b / n = {k * kept / count:.3g} of them in "
            f"subsamples of b = {kept * n / count:.0f} rows, fewer than {MIN_NEIGHBORS}: so few "
            f"are another quantity; use k >= {math.ceil(MIN_NEIGHBORS * count / kept)}"
        )
    rng = np.random.default_rng(seed)
    values, scales = [], []
    for _ in range(n_resamples):
        rows = np.flatnonzero(np.isin(code, rng.permutation(count)[:kept]))
        values.append(statistic(rows))
        scales.append(len(rows) / (n - len(rows)))
    return _from_subsamples(statistic(np.arange(n)), np.array(values), np.array(scales), level)


def _from_subsamples(value: Any, values: np.ndarray, scales: np.ndarray, level: float) -> Interval:
    scale = np.sqrt(scales).reshape(-1, *[1] * (values.ndim - 1))
    away = scale * (values - values.mean(0))
    tail = (1 - level) / 2
    low, high = np.quantile(away, [1 - tail, tail], axis=0)
    return Interval(value - low, value - high, away.std(0, ddof=1))


@functools.cache
def student_quantile(p: float, df: float) -> float:
    """Quantile of Student's t for 0.5 < p < 1, by bisection of its integrated density."""
    log_scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)

    # With t = sqrt(df) tan(a) the density is cos(a)^(df - 1) up to its constant: smooth, bounded.
    def mass(angle: float) -> float:
        a = np.linspace(0, angle, 2001)
        weights = np.ones(2001)
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        return float((np.cos(a) ** (df - 1) * weights).sum() * (angle / 2000) / 3)

    target = (p - 0.5) / (math.exp(log_scale) * math.sqrt(df))
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mass(middle) < target else (low, middle)
    return math.sqrt(df) * math.tan((low + high) / 2)


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence[Hashable],
    *,
    measure: str,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval from whole clusters drawn with replacement.

    statistic: row ids, with repeats, -> value. measure: the name of what it computes; measures that
    repeated rows break are refused with the reason, because duplicates are not new images.
    Raises InputError for measures of neighbors, debiased ones and "maximum", and for fewer than two
    clusters.
    """
    if measure in _BOOTSTRAP_REFUSED:
        raise InputError(
            f"no bootstrap of {measure}: {_BOOTSTRAP_REFUSED[measure]}; use the jackknife"
        )
    code = label_codes(clusters, len(clusters), "clusters")
    count = int(code.max()) + 1
    if count < 2:
        raise InputError("the bootstrap needs at least two clusters")
    members = [np.flatnonzero(code == c) for c in range(count)]
    rng = np.random.default_rng(seed)
    draws = (rng.integers(count, size=count) for _ in range(n_resamples))
    values = np.array([statistic(np.concatenate([members[c] for c in d])) for d in draws])
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high), float(values.std(ddof=1)))
