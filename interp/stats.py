"""Nulls and intervals: permutations within strata, max-T, Holm, the jackknife over clusters."""

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InputError

__all__ = [
    "FOLDS",
    "MIN_PERMUTATIONS",
    "Interval",
    "bootstrap",
    "check_permutations",
    "holm",
    "jackknife",
    "make_folds",
    "max_t",
    "needed_permutations",
    "permutation_p",
    "permutations",
    "relative",
    "student_quantile",
]

# Fewer permutations than this resolve a p-value too coarsely to be printed.
MIN_PERMUTATIONS = 200
# Folds of the jackknife: 19 degrees of freedom cost 7 % of the width of a normal interval.
FOLDS = 20
# A permuted value this close below the observed one counts as a tie, that is against us: fast
# routes compute permuted values in float32.
TIE = 1e-5

_BOOTSTRAP_REFUSED = {
    "mutual_knn": "a row drawn twice becomes its own nearest neighbor",
    "cka": "a row drawn twice puts its squared norm, which debiasing removes, off the diagonal",
    "maximum": "the maximum over cells is not smooth, and its resampled values lie above it",
}


class Interval(NamedTuple):
    """A two-sided interval and the standard error behind it."""

    low: Any
    high: Any
    se: Any


def permutations(
    n: int,
    count: int,
    *,
    seed: int = 0,
    model: str = "",
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
) -> Int[np.ndarray, "count n"]:
    """Random reorderings of n rows: the p-th one sends row order[p, i] to place i.

    seed, model: each model has its own stream, shared by all its layers, calls and noise draws.
    strata: [n]; rows move only within their stratum (None: one stratum).
    clusters: [n]; whole clusters change places with clusters of the same make-up (as many rows in
    each stratum), rows inside them are shuffled: near-duplicates stay together, so that their
    dependence is in the null too. None: every row is its own cluster.
    Raises InputError for wrong lengths, and where nothing could move.
    Source: restricted permutation, Anderson and ter Braak 2003, sec. 3; Winkler et al. 2015.
    """
    stratum = _codes(strata, n, "strata")
    cluster = np.arange(n) if clusters is None else _codes(clusters, n, "clusters")
    groups = _exchangeable(stratum, cluster)
    single = [all(len(c) == 1 and len(c[0]) == 1 for c in group) for group in groups]
    if all(len(group) == 1 and alone for group, alone in zip(groups, single, strict=True)):
        raise InputError(
            f"no two of the {n} rows may change places: every stratum holds one row; "
            "permute within a coarser stratum"
        )
    digest = hashlib.sha256(model.encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
    out = np.empty((count, n), dtype=np.int64)
    for order in out:
        for group, alone in zip(groups, single, strict=True):
            _shuffle(group, alone, order, rng)
    return out


def _codes(labels: Sequence[Hashable] | None, n: int, name: str) -> np.ndarray:
    if labels is None:
        return np.zeros(n, dtype=np.int64)
    if len(labels) != n:
        raise InputError(f"{name} has {len(labels)} entries for {n} rows")
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(label, len(first)) for label in labels], dtype=np.int64)


def _exchangeable(stratum: np.ndarray, cluster: np.ndarray) -> list[list[list[np.ndarray]]]:
    """Groups of clusters of equal make-up; a cluster is its rows, one array per stratum."""
    groups: dict[tuple, list[list[np.ndarray]]] = {}
    by_cluster = np.argsort(cluster, kind="stable")
    for rows in np.split(by_cluster, np.cumsum(np.bincount(cluster))[:-1]):
        present, counts = np.unique(stratum[rows], return_counts=True)
        key = tuple(zip(present.tolist(), counts.tolist(), strict=True))
        groups.setdefault(key, []).append([rows[stratum[rows] == s] for s in present])
    return list(groups.values())


def _shuffle(
    group: list[list[np.ndarray]], single: bool, order: np.ndarray, rng: np.random.Generator
) -> None:
    if single:
        rows = np.concatenate([c[0] for c in group])
        order[rows] = rng.permutation(rows)
        return
    for target, source in zip(group, rng.permutation(len(group)), strict=True):
        for place, rows in zip(target, group[source], strict=True):
            order[place] = rng.permutation(rows)


def relative(first: Int[np.ndarray, "p n"], second: Int[np.ndarray, "p n"]) -> np.ndarray:
    """Reordering of the second model's rows that pairs two permuted models: [p, n].

    Reordering X by `first` and Y by `second` pairs the same rows as leaving X and reordering Y by
    the result.
    """
    return np.take_along_axis(second, np.argsort(first, axis=1), axis=1)


def permutation_p(observed: Float[np.ndarray, "*s"], permuted: Float[np.ndarray, "p *s"]) -> Any:
    """p = (1 + b) / (1 + K), b the permuted values at least as large as the observed one.

    Ties count against us. Never 0. Source: Phipson and Smyth 2010, eq. 2.
    """
    b = (permuted >= observed - TIE * np.abs(observed)).sum(0)
    return (1 + b) / (1 + len(permuted))


def max_t(
    observed: Float[np.ndarray, " m"],
    permuted: Float[np.ndarray, "p m"],
    mean: Float[np.ndarray, " m"] | None = None,
    sd: Float[np.ndarray, " m"] | None = None,
) -> Float[np.ndarray, " m"]:
    """Step-down max-T adjusted p-values of a family of cells, one-sided (larger is stronger).

    Each cell is standardized by its own null mean and sd: the exact ones where given, else those of
    its K permuted values and the observed one together, which leaves the K + 1 columns exchangeable
    and the test exact. Cells are taken from the largest z down; the p-value of a cell compares it
    with the maximum over itself and all weaker cells, p = (1 + b) / (1 + K), made monotone.
    Raises InputError when a cell's null does not vary or K < 1.
    Source: Westfall and Young 1993, algorithm 4.1.
    """
    if len(permuted) < 1:
        raise InputError("max-T needs at least one permutation")
    both = np.concatenate([observed[None], permuted])
    middle = both.mean(0) if mean is None else mean
    scale = both.std(0) if sd is None else sd
    if bool((scale <= 0).any()):
        still = int((scale <= 0).sum())
        raise InputError(f"{still} of {len(scale)} cells do not vary under permutation")
    z, z_null = (observed - middle) / scale, (permuted - middle) / scale
    strongest_first = np.argsort(-z, kind="stable")
    weaker = np.maximum.accumulate(z_null[:, strongest_first[::-1]], axis=1)[:, ::-1]
    ordered = z[strongest_first]
    b = (weaker >= ordered - TIE * np.abs(ordered)).sum(0)
    out = np.empty(len(z))
    out[strongest_first] = np.maximum.accumulate((1 + b) / (1 + len(permuted)))
    return out


def holm(p: Sequence[float]) -> Float[np.ndarray, " m"]:
    """Holm's step-down adjusted p-values: valid under any dependence. Source: Holm 1979."""
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    scaled = (len(raw) - np.arange(len(raw))) * raw[order]
    out = np.empty(len(raw))
    out[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return out


def needed_permutations(n_tests: int, alpha: float = 0.05) -> int:
    """Fewest permutations K at which Holm over n_tests can reject: n_tests / (1 + K) <= alpha."""
    return max(MIN_PERMUTATIONS, math.ceil(n_tests / alpha - 1 - 1e-9))


def check_permutations(n_permutations: int, n_tests: int, alpha: float = 0.05) -> None:
    """Refuse a number of permutations at which nothing could be rejected.

    Raises InputError that names the number needed.
    """
    needed = needed_permutations(n_tests, alpha)
    if n_permutations < needed:
        raise InputError(
            f"{n_permutations} permutations cannot give p <= {alpha} after Holm over {n_tests} "
            f"families (and a printed p needs {MIN_PERMUTATIONS}); use n_permutations={needed}, or "
            "fewer model pairs or measures"
        )


def make_folds(
    clusters: Sequence[Hashable], n_folds: int = FOLDS, seed: int = 0
) -> Int[np.ndarray, " n"]:
    """Fold of each row: unions of whole clusters, as equal in size as a greedy cut makes them.

    The largest clusters are placed first, each into the smallest fold; equal ones in random order.
    Raises InputError for fewer than two folds or fewer clusters than folds.
    """
    code = _codes(clusters, len(clusters), "clusters")
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


def student_quantile(p: float, df: int) -> float:
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
    Raises InputError for "mutual_knn", "cka" and "maximum", and for fewer than two clusters.
    """
    if measure in _BOOTSTRAP_REFUSED:
        raise InputError(
            f"no bootstrap of {measure}: {_BOOTSTRAP_REFUSED[measure]}; use the jackknife"
        )
    code = _codes(clusters, len(clusters), "clusters")
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
