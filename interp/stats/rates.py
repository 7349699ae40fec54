"""Rates out of repeated tests: exact intervals, simultaneous bands, power curves, coverage."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from interp.errors import InputError


class Rate(NamedTuple):
    """A share of repeats with its exact two-sided interval."""

    count: int
    repeats: int
    share: float
    low: float
    high: float


def estimate_rate(count: int, repeats: int, level: float = 0.95) -> Rate:
    """The share count / repeats with its exact binomial interval.

    Raises InputError unless 0 <= count <= repeats and repeats >= 1.
    Source: Clopper and Pearson 1934.
    """
    if not (repeats >= 1 and 0 <= count <= repeats):
        raise InputError(f"{count} of {repeats} repeats is no share")
    tail = (1 - level) / 2
    # Bisection: P(X >= count | rate) grows with the rate, P(X <= count | rate) falls.
    low = 0.0 if count == 0 else _solve(lambda r: _upper_tail(count, repeats, r) < tail)
    high = 1.0 if count == repeats else _solve(lambda r: _lower_tail(count, repeats, r) > tail)
    return Rate(count, repeats, count / repeats, low, high)


def _solve(below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def _masses(repeats: int, rate: float) -> np.ndarray:
    """Binomial probabilities of 0..repeats for 0 < rate < 1."""
    log_n = math.lgamma(repeats + 1)
    logs = [
        log_n
        - math.lgamma(j + 1)
        - math.lgamma(repeats - j + 1)
        + j * math.log(rate)
        + (repeats - j) * math.log1p(-rate)
        for j in range(repeats + 1)
    ]
    return np.exp(logs)


def _upper_tail(count: int, repeats: int, rate: float) -> float:
    return float(_masses(repeats, rate)[count:].sum())


def _lower_tail(count: int, repeats: int, rate: float) -> float:
    return float(_masses(repeats, rate)[: count + 1].sum())


def acceptance_band(
    repeats: int, rate: float, n_cells: int = 1, level: float = 0.999
) -> tuple[int, int]:
    """Lowest and highest count that a true rate explains, in all of n_cells cells at once.

    With each tail of each cell at most (1 - level) / (2 n_cells), all counts lie inside with
    probability at least `level`, under any dependence between cells (Bonferroni). Cells may have
    different repeats: call once for each.
    Raises InputError unless 0 < rate < 1 and repeats, n_cells >= 1.
    """
    if not 0 < rate < 1 or repeats < 1 or n_cells < 1:
        raise InputError(f"rate {rate}, {repeats} repeats, {n_cells} cells: no band")
    tail = (1 - level) / (2 * n_cells)
    masses = _masses(repeats, rate)
    below, above = np.cumsum(masses), np.cumsum(masses[::-1])
    # The first count that is not too rare, from either end.
    low = int(np.searchsorted(below, tail, side="right"))
    return low, repeats - int(np.searchsorted(above, tail, side="right"))


def power_curve(
    test: Callable[[float, np.random.Generator], float],
    strengths: Sequence[float],
    *,
    repeats: int = 200,
    alpha: float = 0.05,
    seed: int = 0,
) -> list[Rate]:
    """Share of simulated samples at each planted strength in which a test rejects.

    test(strength, generator) draws a sample with that strength planted and returns its p-value; at
    strength 0 the rate is the type-I error. Every repeat has a generator of its own, the same at
    every strength, so that curves are smooth in the strength.
    """
    out = []
    for strength in strengths:
        found = (test(strength, np.random.default_rng([seed, r])) for r in range(repeats))
        out.append(estimate_rate(sum(p <= alpha * (1 + 1e-9) for p in found), repeats))
    return out


def estimate_coverage(
    low: Float[np.ndarray, " r"], high: Float[np.ndarray, " r"], truth: float
) -> Rate:
    """Share of r intervals that hold the truth. Raises InputError for lengths that differ."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if low.shape != high.shape:
        raise InputError(f"{low.shape} lower and {high.shape} upper ends")
    return estimate_rate(int(((low <= truth) & (truth <= high)).sum()), low.size)
