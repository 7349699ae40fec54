"""Statements about models: every training seed is shown; a trend over models survives each."""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.stats.intervals import Interval

# 8! = 40,320 orders are enumerated; from nine models on they are drawn.
ENUMERATED = 8
# Drawn orders of a trend: p down to 1e-5, known to 1 % of itself at 0.05.
DRAWN = 99_999


class SeedStatement(NamedTuple):
    """What every training seed shows; the statement holds where all of them do."""

    holds: bool
    shown: dict[Any, Interval]
    agree: tuple[Any, ...]  # seeds whose whole interval is on the claimed side
    against: tuple[Any, ...]  # seeds whose whole interval is on the other side
    open: tuple[Any, ...]  # the rest
    text: str


def all_seeds(
    intervals: Mapping[Hashable, Interval], *, side: str = "above", bound: float = 0.0
) -> SeedStatement:
    """A statement about a model from its training seeds: true of every one, or not made.

    Each seed is one trained network with an interval over images. Seeds are neither averaged nor
    resampled: two or three of them are no sample that a bootstrap could draw from, and an interval
    over images says nothing of another training run. Requiring all of them needs no correction (an
    intersection-union test: its p is the largest of theirs).

    intervals: seed -> interval; for two models (seed of A, seed of B) -> interval, crossed: every
    seed of A with every seed of B.
    side: "above" or "below": the claim that the quantity lies on this side of `bound`.
    Raises InputError for fewer than two seeds (of each model), a pair of seeds that is missing.
    Source: Berger 1982, thm 1 (intersection-union).
    """
    if side not in ("above", "below"):
        raise InputError(f"side {side!r}; there are above, below")
    _check_crossed(list(intervals))
    sign = 1 if side == "above" else -1
    agree, against, rest = [], [], []
    for seed, one in intervals.items():
        near, far = (one.low, one.high) if sign > 0 else (one.high, one.low)
        if sign * (near - bound) > 0:
            agree.append(seed)
        elif sign * (far - bound) < 0:
            against.append(seed)
        else:
            rest.append(seed)
    holds = len(agree) == len(intervals)
    parts = [f"{side} {bound:g} in {len(agree)} of {len(intervals)} training seeds"]
    parts += [f"on the other side in {len(against)}"] if against else []
    parts += [f"undecided in {len(rest)}"] if rest else []
    text = ", ".join(parts) + ("" if holds else ": no statement about the model")
    shown = dict(intervals)
    return SeedStatement(holds, shown, tuple(agree), tuple(against), tuple(rest), text)


def _check_crossed(seeds: list[Hashable]) -> None:
    pairs = [s for s in seeds if isinstance(s, tuple)]
    if pairs and len(pairs) < len(seeds):
        raise InputError("seeds of one model and pairs of seeds are mixed")
    width = {len(s) for s in pairs} if pairs else {1}
    if len(width) > 1:
        raise InputError(f"seeds of {sorted(width)} models are mixed")
    sides = [sorted({s[i] for s in pairs}, key=str) for i in range(width.pop())] if pairs else []
    for names in sides or [seeds]:
        if len(names) < 2:
            raise InputError(
                f"{len(names)} training seed: what one network shows may be its seed's; train "
                "another, or speak of this network only"
            )
    missing = [s for s in itertools.product(*sides) if s not in set(pairs)] if pairs else []
    if missing:
        raise InputError(f"seeds are crossed, and {missing[:3]} of {len(missing)} missing are not")


class Trend(NamedTuple):
    """A rank correlation over models, whole and without each model or family."""

    rho: float
    p: float
    n: int
    exact: bool  # all orders enumerated, not drawn
    without: dict[Any, tuple[float, float]]  # left out -> rho and p of the rest
    lowest: float
    highest: float


def leave_one_out_trend(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    names: Sequence[Hashable] | None = None,
    *,
    n_draws: int = DRAWN,
    seed: int = 0,
) -> Trend:
    """Spearman's rank correlation over models, and again without each model or family.

    Ties get their mean rank. p is two-sided, the share of orders of y with |rho| at least as large:
    all n! of them up to n = 8, above that (1 + b) / (1 + n_draws) over random ones.

    x: [n] one number per model, such as its size. y: [n] its alignment. names: [n] labels; models
    with one label, a family, are left out together. None: each by itself, named by its place.
    Raises InputError for NaN, lengths that differ, fewer than four models, fewer than three when a
    family is left out, an x or y that does not vary.
    """
    first, second = (np.asarray(z, dtype=np.float64) for z in (x, y))
    labels: list[Hashable] = list(range(len(first)) if names is None else names)
    if not len(first) == len(second) == len(labels):
        raise InputError(f"{len(first)} x, {len(second)} y and {len(labels)} names: one per model")
    if len(first) < 4:
        raise InputError(f"{len(first)} models: 3! = 6 orders cannot give p <= 0.05; use more")
    if not bool(np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("x or y has values that are NaN or infinite: leave those models out")
    rho, p, exact = _rank_test(first, second, n_draws, seed)
    without = {}
    for label in dict.fromkeys(labels):
        kept = np.array([other != label for other in labels])
        if kept.sum() < 3:
            raise InputError(f"without {label!r} {int(kept.sum())} models are left; 3 are needed")
        without[label] = _rank_test(first[kept], second[kept], n_draws, seed)[:2]
    rhos = [one for one, _ in without.values()]
    return Trend(rho, p, len(first), exact, without, min(rhos), max(rhos))


def _rank_test(x: np.ndarray, y: np.ndarray, n_draws: int, seed: int) -> tuple[float, float, bool]:
    a, b = _unit_ranks(x), _unit_ranks(y)
    n = len(a)
    # Ranks are multiples of a half: products are exact up to this.
    least = abs(float(a @ b)) - 1e-12
    if n <= ENUMERATED:
        orders = np.array(list(itertools.permutations(range(n))))
        reached = int((np.abs(b[orders] @ a) >= least).sum())
        return float(a @ b), reached / math.factorial(n), True
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(n), (n_draws, 1)), axis=1)
    reached = int((np.abs(b[orders] @ a) >= least).sum())
    return float(a @ b), (1 + reached) / (1 + n_draws), False


def _unit_ranks(x: np.ndarray) -> np.ndarray:
    """Mean ranks, centered and of norm 1."""
    below = (x[:, None] > x[None, :]).sum(1)
    equal = (x[:, None] == x[None, :]).sum(1)
    ranks = below + (equal + 1) / 2
    ranks = ranks - ranks.mean()
    norm = np.linalg.norm(ranks)
    if norm == 0:
        raise InputError(f"{len(x)} models have one value: there is no trend to test")
    return ranks / norm
