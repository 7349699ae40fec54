"""Gromov-Wasserstein distance: how well rows can be matched so that distances agree, unpaired.

    GW^2 = min_P sum_ijkl (A_ik - B_jl)^2 P_ij P_kl,   P >= 0 with uniform row and column sums,

for the Euclidean distance matrices A of X and B of Y, each scaled to a mean square of 1 over all
n^2 entries (Memoli 2011, def. 5.7, without his factor 1/2). It does not know which row of Y belongs
to a row of X: a pairing that is no better than others can have distance 0, and permuted pairings
differ by their local minima alone. It asks whether two geometries have the same shape.

For Euclidean distances the sum is concave in P (Maron and Lipman 2018), so that a vertex is best: a
permutation where n = m. A descent takes exact assignments on the gradient while they gain
(conditional gradient, whose exact line search is always a whole step here), then the best exchange
of two partners while one gains. It ends in a local minimum; the least of several starts is the
value, and all are reported:

    paired     row i with row i, where the numbers of rows are equal
    uniform    every row with every row
    profiles   the cheapest matching of sorted distances, which also bounds GW from below
    random     matchings drawn by a seed, half of them the others backwards: GW stays symmetric
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import center, same_rows
from interp.geometry.measure import Measure, plain
from interp.geometry.soft_matching import transport

# A step takes n^3 operations: a minute at this size.
MAX_ROWS = 2000
STARTS = ("paired", "uniform", "profiles")
# Of 42 unrelated pairs of 5 to 100 rows four random starts lowered 14, by up to 11 %; eight, 17.
N_RANDOM = 4
MAX_STEPS = 500
# Least decrease of GW^2 that is worth another step; its scale is 1.
ENOUGH = 1e-10
# Digits of the gradient that decide an assignment: rows that tie must not be told by rounding.
DIGITS = 9


class GromovWasserstein(NamedTuple):
    """The least of several descents."""

    distance: float
    plan: Float[np.ndarray, "n m"]
    # Lower bound of the global minimum (Memoli 2011, def. 6.3: the third).
    lower: float
    # start -> distance where its descent ended.
    starts: dict[str, float]
    # start -> steps; MAX_STEPS: stopped before it settled.
    steps: dict[str, int]


def gromov_wasserstein_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Gromov-Wasserstein distance of two sets of rows: the least local minimum of seven starts.

    x, y: features of the same 4 <= n <= 2,000 images. Returns a value in [0, sqrt(2)], 0 for
    geometries equal up to rotation, scale and shift. Cost n^3 per step.
    Raises InputError for NaN, n < 4, n > 2,000, a constant representation.
    Source: Memoli 2011, def. 5.7.
    """
    same_rows(x, y)
    return solve_gromov_wasserstein(x, y).distance


def solve_gromov_wasserstein(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m e"],
    starts: tuple[str, ...] | None = None,
    n_random: int = N_RANDOM,
    seed: int = 0,
) -> GromovWasserstein:
    """As `gromov_wasserstein_distance`, with plan, bound and every start; n and m may differ.

    starts: of "paired" (n = m only), "uniform" and "profiles"; None: all that apply.
    n_random, seed: random starts beside them, an even number.
    """
    a, b = (_distances(z, name) for z, name in ((x, "x"), (y, "y")))
    same = len(a) == len(b)
    starts = STARTS[0 if same else 1 :] if starts is None else starts
    unknown = set(starts) - set(STARTS if same else STARTS[1:])
    if unknown or n_random % 2 or not len(starts) + n_random:
        raise InputError(
            f"starts {sorted(unknown)} and n_random = {n_random} for {len(a)} and {len(b)} rows: "
            "there are uniform, profiles and, for equal numbers of rows, paired; n_random is even"
        )
    bound = transport(_profile_costs(a, b).round(DIGITS))
    plans = {
        "paired": lambda: np.eye(len(a)) / len(a),
        "uniform": lambda: np.full((len(a), len(b)), 1 / (len(a) * len(b))),
        "profiles": lambda: bound.plan,
    }
    drawn = _random_plans(len(a), len(b), n_random, seed)
    begins = {start: plans[start]() for start in starts}
    begins |= {f"random {i}": plan for i, plan in enumerate(drawn)}
    ends = {start: _descend(a.numpy(), b.numpy(), plan) for start, plan in begins.items()}
    best = min(ends.values(), key=lambda end: end[0])
    return GromovWasserstein(
        math.sqrt(best[0]),
        best[1],
        math.sqrt(max(0.0, bound.cost)),
        {start: math.sqrt(end[0]) for start, end in ends.items()},
        {start: end[2] for start, end in ends.items()},
    )


def _distances(x: Float[Tensor, "n d"], name: str) -> Float[Tensor, "n n"]:
    rows = center(x, name)
    if len(rows) > MAX_ROWS:
        raise InputError(
            f"{name} has n = {len(rows)} rows; a step of Gromov-Wasserstein takes n^3 operations: "
            f"at most {MAX_ROWS}, take a subset"
        )
    out = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return out / out.square().mean().sqrt()


def _random_plans(n: int, m: int, count: int, seed: int) -> list[Float[np.ndarray, "n m"]]:
    rng = np.random.default_rng(seed)
    if n != m:
        return [transport(rng.random((n, m))).plan for _ in range(count)]
    orders = [rng.permutation(n) for _ in range(count // 2)]
    return [np.eye(n)[order] / n for order in [*orders, *map(np.argsort, orders)]]


def _profile_costs(a: Float[Tensor, "n n"], b: Float[Tensor, "m m"]) -> Float[np.ndarray, "n m"]:
    """Mean squared difference of sorted distances: the least that matching i with j can cost."""
    n, m = len(a), len(b)
    whole = math.lcm(n, m)
    steps = (np.arange(size + 1) * (whole // size) for size in (n, m))
    # The quantile functions of both are constant between these.
    cuts = np.unique(np.concatenate(list(steps)))
    weights = torch.as_tensor(np.diff(cuts) / whole).sqrt()
    first, second = (
        z.sort(1).values[:, torch.as_tensor(cuts[:-1] * len(z) // whole)] * weights for z in (a, b)
    )
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist").square().numpy()


def _descend(a: np.ndarray, b: np.ndarray, plan: np.ndarray) -> tuple[float, np.ndarray, int]:
    """(GW^2, plan, steps) of a local minimum below a start."""
    step, gain = 0, math.inf
    while gain > ENOUGH and step < MAX_STEPS:
        slope = a @ plan @ b
        toward = transport(-slope.round(DIGITS)).plan - plan
        gain = float(2 * (slope * toward).sum() + (a @ toward @ b * toward).sum())
        if gain > ENOUGH:
            plan, step = plan + toward, step + 1
    # A start that no assignment improves can be spread over many rows.
    if len(a) == len(b) == np.count_nonzero(plan):
        swaps, partner = _exchange(a, b, plan.argmax(1))
        plan, step = np.eye(len(a))[partner] / len(a), step + swaps
    return _loss(a, b, plan), plan, step


def _exchange(a: np.ndarray, b: np.ndarray, partner: np.ndarray) -> tuple[int, np.ndarray]:
    """(exchanges, partners) after exchanging the two whose distances gain most, while any gains.

    For M = A B of the partners, sum A B gains 2 (M_pq + M_qp - M_pp - M_qq + 2 A_pq B_pq) each.
    """
    n, b = len(a), b[np.ix_(partner, partner)]
    product = a @ b
    for count in range(MAX_STEPS):
        own = product.diagonal()
        gains = (product + product.T - own[:, None] - own + 2 * a * b).round(DIGITS)
        p, q = np.unravel_index(gains.argmax(), gains.shape)
        # In units of GW^2, the mean over n^2 entries.
        if 4 * gains[p, q] <= ENOUGH * n * n:
            return count, partner
        product += np.outer(a[:, q] - a[:, p], b[p] - b[q])
        order = np.arange(n)
        order[[p, q]] = q, p
        product, b, partner = product[:, order], b[np.ix_(order, order)], partner[order]
    return MAX_STEPS, partner


def _loss(a: np.ndarray, b: np.ndarray, plan: np.ndarray) -> float:
    n, m = plan.shape
    partner = plan.argmax(1)
    if n == m and np.allclose(plan[np.arange(n), partner], 1 / n, rtol=0, atol=1e-12):
        # Differences, so that equal distances are at 0 to the last digit.
        return float(np.mean((a - b[np.ix_(partner, partner)]) ** 2))
    squares = plan.sum(1) @ (a * a) @ plan.sum(1) + plan.sum(0) @ (b * b) @ plan.sum(0)
    return max(0.0, float(squares - 2 * (a @ plan @ b * plan).sum()))


MEASURES: dict[str, Measure] = {
    "gromov_wasserstein": plain(
        gromov_wasserstein_distance,
        definition="least root mean squared difference of distances over matchings of rows",
        source="Memoli 2011, def. 5.7; Maron and Lipman 2018",
        cost="n^3 per step of seven descents, for a pair and for a permutation; n <= 2000",
        bias="upwards where the descents miss the global minimum",
        null="unpaired: a permutation changes the local minima alone, so that tests have no power",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
        distance=True,
        equal=0.0,
        paired=False,
    ),
}
