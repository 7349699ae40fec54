"""What a sample could have found: the smallest difference, the power against a shift."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.stats.intervals import student_quantile
from interp.stats.permuting import TIE

# Points of the integral over the estimated standard error: 6 digits down to df = 1, alpha = 0.01.
GRID = 2001


def detectable_difference(se: Any, df: int, alpha: float = 0.05, power: float = 0.8) -> Any:
    """Smallest true difference that a two-sided t test finds with this probability.

    The d with P(|T'| > t_{1 - alpha/2}) = power, T' noncentral t of noncentrality d / se: what a
    sample of this size could have seen, to stand beside every "undecided". It does not depend on
    the difference that was observed: power at the observed one only restates its p-value (Hoenig
    and Heisey 2001).

    se: standard error of the difference, a number or an array, in units of the measure. df: its
    degrees of freedom, folds - 1 for the jackknife. alpha: two-sided level; divide it by the number
    of comparisons that the verdict corrects for.
    Raises InputError for a negative or non-finite se, df < 1, alpha or power outside of (0, 1),
    power <= alpha.
    """
    errors = np.asarray(se, dtype=np.float64)
    if bool((errors < 0).any()) or not bool(np.isfinite(errors).all()):
        raise InputError("a standard error is negative or not finite: no interval, no difference")
    if df < 1 or not 0 < alpha < power < 1:
        raise InputError(
            f"df = {df}, alpha = {alpha}, power = {power}: df >= 1 and 0 < alpha < power < 1"
        )
    return se * _detectable(df, alpha, power)


@functools.cache
def _detectable(df: int, alpha: float, power: float) -> float:
    cut = student_quantile(1 - alpha / 2, df)
    low, high = 0.0, 2 * cut + 20.0
    while t_power(high, df, cut) < power:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if t_power(middle, df, cut) < power else (low, middle)
    return (low + high) / 2


def t_power(noncentrality: float, df: int, cut: float) -> float:
    """P(|T'| > cut) for noncentral t with df degrees of freedom.

    T' = (Z + noncentrality) / S with S^2 a chi-square over df: integrates the normal tails over S.
    """
    # S = r / sqrt(df) with r from a chi distribution, whose sd is below 1 / sqrt(2).
    r = np.linspace(max(0.0, math.sqrt(df) - 8), math.sqrt(df) + 8, GRID)
    with np.errstate(divide="ignore"):
        log = (df - 1) * np.log(r) if df > 1 else np.zeros(GRID)
    log = log - r**2 / 2 - (df / 2 - 1) * math.log(2) - math.lgamma(df / 2)
    density = np.exp(log)
    s = r / math.sqrt(df)
    tails = [
        math.erfc((cut * x - noncentrality) / math.sqrt(2)) / 2
        + math.erfc((cut * x + noncentrality) / math.sqrt(2)) / 2
        for x in s.tolist()
    ]
    weights = np.ones(GRID)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float((density * tails * weights).sum() * (r[1] - r[0]) / 3)


def permutation_power(
    null: Float[np.ndarray, " p"], shifts: Sequence[float], alpha: float = 0.05
) -> Float[np.ndarray, " s"]:
    """Power of a permutation test against a shift of its statistic, from its own null.

    Every one of the K permuted values in turn, moved by the shift, is tested against the K - 1
    others: p = (1 + b) / K. The share of p <= alpha; at shift 0 it is at most alpha. It supposes
    that an alternative moves the null without changing its shape: for a planted alternative that
    changes more, simulate with `power_curve`.

    null: permuted values of one cell. shifts: in units of the measure.
    Raises InputError for fewer than 1 / alpha permuted values.
    """
    values = np.sort(np.asarray(null, dtype=np.float64))
    count = len(values)
    if count * alpha < 1 - 1e-9:
        raise InputError(
            f"{count} permuted values cannot give p <= {alpha}; {math.ceil(1 / alpha)} are needed"
        )
    out = []
    for shift in shifts:
        moved = values + shift
        reach = moved - TIE * np.abs(moved)
        # Not against itself.
        b = count - np.searchsorted(values, reach, side="left") - (values >= reach)
        out.append(float(((1 + b) / count <= alpha * (1 + 1e-9)).mean()))
    return np.array(out)
