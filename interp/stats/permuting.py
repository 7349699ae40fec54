"""Permutations of rows: free, within strata, of whole clusters; their p-values."""

import hashlib
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InputError

# A permuted value this close below the observed one counts as a tie, that is against us: fast
# routes compute permuted values in float32.
TIE = 1e-5


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
    stratum = label_codes(strata, n, "strata")
    cluster = np.arange(n) if clusters is None else label_codes(clusters, n, "clusters")
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


def count_permutations(
    n: int,
    *,
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
) -> float:
    """Distinct reorderings among which `permutations` draws; infinite above 1e300.

    Product over groups of exchangeable clusters of (clusters in the group)! and, for each of them,
    (its rows in each stratum)!. Arguments and errors as for `permutations`.
    """
    stratum = label_codes(strata, n, "strata")
    cluster = np.arange(n) if clusters is None else label_codes(clusters, n, "clusters")
    log = 0.0
    for group in _exchangeable(stratum, cluster):
        inside = sum(math.lgamma(len(rows) + 1) for one in group for rows in one)
        log += math.lgamma(len(group) + 1) + inside
    # Beyond what a float64 holds.
    return math.inf if log > 690 else float(round(math.exp(log)))


def label_codes(labels: Sequence[Hashable] | None, n: int, name: str) -> np.ndarray:
    """Whole numbers [n] from 0 in order of first appearance; all 0 for None."""
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


def permutation_p(
    observed: Float[np.ndarray, "*s"] | float, permuted: Float[np.ndarray, "p *s"]
) -> Any:
    """p = (1 + b) / (1 + K), b the permuted values at least as large as the observed one.

    Ties count against us. Never 0. Source: Phipson and Smyth 2010, eq. 2.
    """
    b = (permuted >= observed - TIE * np.abs(observed)).sum(0)
    return (1 + b) / (1 + len(permuted))
