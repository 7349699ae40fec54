"""Specialization beyond twins: what untrained copies, or sizes alone, do not explain."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.errors import InputError
from interp.interventions.layers import Specialization
from interp.stats import student_quantile

# Confidence of the excess over twins, whose law is skewed: of 100 redraws of P5 as many as 8 came
# out above their twins at 95 %, 3 at 99 %.
EXCESS_LEVEL = 0.99


@dataclass(frozen=True)
class Excess:
    """Specialization of a model beyond its twins, with an interval of 99 % for a normal law.

    Where that law is exponential, 5 twins put the lower bound of one more draw of it above 0 in
    3.3 % of samples, not in .5 %.
    """

    value: float | None
    low: float | None
    high: float | None
    sampling: float | None
    """Half-width due to pairs alone: it falls with their number."""
    twins: tuple[float, ...]
    """Specialization of each twin that moves images."""
    n_pairs: int
    n_tried: int
    """Twins that were played, also those that move nothing."""

    def __post_init__(self) -> None:
        numbers = (self.value, self.low, self.high, self.sampling)
        if numbers == (None,) * 4:
            return
        value, low, high, sampling = (math.nan if x is None else x for x in numbers)
        if not (math.isfinite(sampling) and -math.inf < low <= value <= high < math.inf):
            raise InputError(
                f"an excess of {self.value} [{self.low}, {self.high}], sampling {self.sampling}: "
                "finite numbers in order are needed, or none at all"
            )


@functools.cache
def _quantile(df: float) -> float:
    return student_quantile(0.5 + EXCESS_LEVEL / 2, df)


def compare_twins(
    model: Specialization, twins: Sequence[Specialization], *, paired: bool = False
) -> Excess:
    """Specialization beyond twins: untrained copies, or band twins, each of another seed.

    excess = m - mean(t); half-width = q sqrt(se^2 + s^2 (1 + 1 / T)), s the standard deviation of T
    twins, se the bootstrap error of m, q Student's 99.5 % quantile with T - 1 degrees of freedom:
    a prediction interval, so that a model which is one more draw of the twins' law stays inside.
    It takes that law as normal; P5's is skewed, hence 99 % and not 95 %. Undefined where the
    model's specialization is. Twins that move nothing are left out.

    paired: the twins are of the model's own pairs, as band twins are. Then se is that of m -
    mean(t) over the same bootstrap samples, and q has Satterthwaite's degrees of freedom, for se is
    known far better than s.

    Raises InputError for fewer than two defined twins, or paired ones of other pairs.
    """
    defined = [twin for twin in twins if twin.value is not None]
    values = tuple(twin.value for twin in defined if twin.value is not None)
    if len(values) < 2:
        raise InputError(
            f"{len(values)} of {len(twins)} twins have a specialization; at least 2 are needed to "
            "know how much initializations differ"
        )
    if model.value is None or model.se is None:
        return Excess(None, None, None, None, values, model.n_pairs, len(twins))
    t = len(values)
    variance = float(np.var(values, ddof=1)) * (1 + 1 / t)
    se, df = model.se, float(t - 1)
    if paired:
        se = _paired_error(model, defined)
        share = variance / (se**2 + variance) if variance else 0.0
        # Beyond a thousand Student's law is normal.
        df = df / max(share, math.sqrt(df / 1e3)) ** 2
    quantile = _quantile(df)
    excess = model.value - float(np.mean(values))
    half = quantile * math.hypot(se, math.sqrt(variance))
    low, high, sampling = excess - half, excess + half, quantile * se
    return Excess(excess, low, high, sampling, values, model.n_pairs, len(twins))


def _paired_error(model: Specialization, twins: Sequence[Specialization]) -> float:
    draws = [one.draws for one in (model, *twins) if one.draws is not None]
    sizes = {one.n_pairs for one in (model, *twins)} | {-len(one) for one in draws}
    if len(draws) <= len(twins) or len(sizes) != 2:
        raise InputError(
            "paired twins need the bootstrap samples of the model's own pairs: measure both with "
            f"as many pairs and resamples (here {model.n_pairs} and "
            f"{sorted({twin.n_pairs for twin in twins})} pairs)"
        )
    return float((draws[0] - np.mean(draws[1:], axis=0)).std(ddof=1))


def exceed_nothing(model: Specialization, n_tried: int) -> Excess:
    """Specialization beyond 0, where swaps move none of `n_tried` untrained twins."""
    if model.value is None or model.se is None:
        return Excess(None, None, None, None, (), model.n_pairs, n_tried)
    half = _quantile(1e3) * model.se
    low, high = model.value - half, model.value + half
    return Excess(model.value, low, high, half, (), model.n_pairs, n_tried)
