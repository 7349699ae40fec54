"""From embedded images to a dose-response: own axes, sizes, shares, the largest of random draws."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InputError
from interp.interventions.steering_record import Control, Response, Share
from interp.stats import FOLDS, jackknife, make_folds

# Each half of the seeds finds an axis for the other, and the jackknife leaves out whole seeds.
MIN_SEEDS = 10

Moved = Mapping[str, np.ndarray]
"""Attribute -> [S, n, d_k], phi(edited) - phi(unedited)."""


class Design(NamedTuple):
    """How seeds are divided: the same for the handle and for every random direction."""

    half: Int[np.ndarray, " n"]
    """0 or 1: each half's changes are projected on the mean change of the other."""
    fold: Int[np.ndarray, " n"]
    """Part of the jackknife."""
    extreme: int
    """Index of the strength at which axes are found: farthest from the neutral one."""


def make_design(n: int, strengths: Sequence[float], neutral: float | None, seed: int) -> Design:
    """Divide n seeds into halves and folds at random.

    Raises InputError for fewer than 10 seeds.
    """
    if n < MIN_SEEDS:
        raise InputError(
            f"{n} seeds: a dose-response needs {MIN_SEEDS} or more, half of them to find an axis "
            "and half to be measured on it"
        )
    order = np.random.default_rng([seed, n]).permutation(n)
    half = np.zeros(n, int)
    half[order[n // 2 :]] = 1
    start = neutral or 0.0
    # Of two that are equally far, the larger one.
    far = max(range(len(strengths)), key=lambda i: (abs(strengths[i] - start), strengths[i]))
    return Design(half, make_folds(range(n), min(FOLDS, n), seed), far)


def find_scales(plain: Mapping[str, Float[np.ndarray, "n d"]]) -> dict[str, float]:
    """Root mean squared distance between the images of two seeds, by attribute.

    scale^2 = mean over i != j of |phi_i - phi_j|^2 = 2 / (n - 1) sum_i |phi_i - mean|^2.
    Raises InputError where all images are equal in an attribute.
    """
    found = {}
    for name, value in plain.items():
        spread = float(((value - value.mean(0)) ** 2).sum())
        if spread == 0:
            raise InputError(
                f"the unedited images of all {len(value)} seeds are equal in {name}: there is no "
                "scale for a change of it; leave the attribute out or vary seeds, classes, prompts"
            )
        found[name] = math.sqrt(2 * spread / (len(value) - 1))
    return found


def measure_along(
    moved: Float[np.ndarray, "s n d"], design: Design, keep: np.ndarray | None = None
) -> Float[np.ndarray, " s"]:
    """Mean projection of each seed's change on the axis that the other half of the seeds found.

    axis_h = mean over the seeds outside half h of moved[extreme], normalized; 0 without a change.
    keep: [n] bool, the seeds that count; None: all.
    """
    keep = np.ones(len(design.half), bool) if keep is None else keep
    total = np.zeros(len(moved))
    for h in (0, 1):
        inside, outside = keep & (design.half == h), keep & (design.half != h)
        axis = moved[design.extreme, outside].mean(0)
        length = np.linalg.norm(axis)
        if length > 0:
            total += (moved[:, inside] @ (axis / length)).sum(1)
    return total / keep.sum()


def measure_size(
    moved: Float[np.ndarray, "s n d"], keep: np.ndarray | None = None
) -> Float[np.ndarray, " s"]:
    """Root mean squared length of the changes at each strength."""
    part = moved if keep is None else moved[:, keep]
    return np.sqrt((part**2).sum(2).mean(1))


def measure_responses(
    moved: Moved, scales: Mapping[str, float], design: Design
) -> dict[str, tuple[Response, ...]]:
    """Responses of every attribute at every strength, with jackknife intervals over seeds."""
    found = {}
    for name, value in moved.items():
        scaled = value / scales[name]
        columns = []
        for measure in (lambda keep, x=scaled: measure_along(x, design, keep), _size_of(scaled)):
            point = measure(None)
            interval = jackknife(point, _deleted(measure, design.fold))
            columns += [point, interval.low, interval.high]
        found[name] = tuple(Response(*map(float, row)) for row in np.stack(columns, axis=1))
    return found


def _size_of(moved: np.ndarray) -> Callable[[np.ndarray | None], np.ndarray]:
    return lambda keep: measure_size(moved, keep)


def _deleted(
    measure: Callable[[np.ndarray | None], np.ndarray], fold: np.ndarray
) -> Float[np.ndarray, "f s"]:
    """The measure without each fold of seeds."""
    return np.stack([measure(fold != f) for f in np.unique(fold)])


def choose_target(
    moved: Moved, scales: Mapping[str, float], design: Design, target: str
) -> tuple[str, np.ndarray]:
    """The target attribute and [n] bool, the seeds on which its share may be measured.

    An empty target is the attribute moved most at the extreme strength on the first half; that
    half is then used up.
    """
    if target:
        return target, np.ones(len(design.half), bool)
    first = design.half == 0
    sizes = {
        name: measure_size(value[design.extreme : design.extreme + 1], first)[0] / scales[name]
        for name, value in moved.items()
    }
    return max(sizes, key=lambda name: sizes[name]), ~first


def measure_off_target(
    moved: Moved, scales: Mapping[str, float], design: Design, target: str, keep: np.ndarray
) -> tuple[Share, ...]:
    """1 - size(target)^2 / sum over attributes of size^2 at each strength, sizes in their scales.

    keep: [n] bool, the seeds that count. Nothing moved: no share.
    """
    squares = {name: ((value / scales[name]) ** 2).sum(2)[:, keep] for name, value in moved.items()}
    total = sum(squares.values())
    own, fold = squares[target], design.fold[keep]
    found = []
    for one, every in zip(own, np.asarray(total), strict=True):
        left = np.array([[x[fold != f].sum() for f in np.unique(fold)] for x in (one, every)])
        if left[1].min() == 0:
            found.append(Share(None, None, None))
            continue
        value = 1 - one.sum() / every.sum()
        interval = jackknife(value, 1 - left[0] / left[1])
        found.append(Share(float(value), float(interval.low), float(interval.high)))
    return tuple(found)


def expect_largest(values: Float[np.ndarray, "r *s"], n: int) -> Float[np.ndarray, "*s"]:
    """Expected largest of n of the r values, drawn without replacement.

    sum_i x_(i) C(i - 1, n - 1) / C(r, n) over the sorted values, which is unbiased for the
    expected maximum of n independent draws; the largest of all where n >= r.
    """
    r = len(values)
    if n >= r:
        return values.max(0)
    ordered = np.sort(values, axis=0)
    weights = np.array([math.comb(i, n - 1) / math.comb(r, n) for i in range(r)])
    return np.tensordot(weights, ordered, 1)


def measure_draw(
    moved: Moved, scales: Mapping[str, float], design: Design
) -> dict[str, Float[np.ndarray, "2 s"]]:
    """`|along|` and size of one random direction, by attribute and strength."""
    return {
        name: np.stack([np.abs(measure_along(value, design)), measure_size(value)]) / scales[name]
        for name, value in moved.items()
    }


def summarize_rows(
    rows: Sequence[Mapping[str, np.ndarray]], n_scanned: int
) -> dict[str, tuple[Control, ...]]:
    """Controls from what `measure_draw` gave for each direction; {} for none."""
    found = {}
    for name in rows[0] if rows else ():
        stacked = np.stack([row[name] for row in rows])
        largest, mean = expect_largest(stacked, n_scanned), stacked.mean(0)
        found[name] = tuple(
            Control(*map(float, (a, b, c, d)))
            for a, b, c, d in zip(largest[0], mean[0], largest[1], mean[1], strict=True)
        )
    return found
