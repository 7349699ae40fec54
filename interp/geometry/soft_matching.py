"""Soft matching: optimal transport between the units of two representations.

    d_T^2 = min_P sum_ij P_ij |x_i - y_j|^2,   P >= 0 with row sums 1 / d and column sums 1 / e,

over the columns (units) x_i of X and y_j of Y (Khosla and Williams 2023). For d = e an optimal P is
a permutation. Columns are centered and each representation is scaled so that the mean squared norm
of its units is 1 (theirs leaves the scale to the user): d_T is in [0, 2], a metric, and 0 exactly
where the two have the same units in the same proportions, in any order.

The correlation version, `soft_matching_correlation`, is the largest mean correlation of matched
units, max_P sum_ij P_ij corr(x_i, y_j); units that are constant have none and are left out.

The transport is exact: an assignment of copies where the least common multiple of d and e is at
most 4096, else a linear program.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import as_rows, center, same_rows
from interp.geometry.measure import Measure, plain

# An assignment of this many copies takes about as long as the linear program of 200 x 201 units.
MAX_COPIES = 4096
# Variables of the linear program: beyond, HiGHS takes hours.
MAX_VARIABLES = 1 << 20
# A column that varies by less than this share of its size is constant up to rounding.
CONSTANT = 1e-12


class Transport(NamedTuple):
    """A cheapest plan between uniform weights."""

    cost: float
    plan: Float[np.ndarray, "d e"]


def transport(cost: Float[np.ndarray, "d e"]) -> Transport:
    """The exact minimum of sum_ij P_ij C_ij over P >= 0, row sums 1 / d, column sums 1 / e.

    Raises InputError where d e > 2^20 and the least common multiple of d and e is above 4096.
    """
    d, e = cost.shape
    copies = math.lcm(d, e)
    plan = np.zeros((d, e))
    if copies <= MAX_COPIES:
        from scipy.optimize import linear_sum_assignment

        units, partners = np.repeat(np.arange(d), copies // d), np.repeat(np.arange(e), copies // e)
        rows, columns = linear_sum_assignment(cost[units][:, partners])
        np.add.at(plan, (units[rows], partners[columns]), 1 / copies)
    elif d * e <= MAX_VARIABLES:
        plan = _linear_program(cost)
    else:
        raise InputError(
            f"transport between {d} and {e} units: the least common multiple is {copies}, at most "
            f"{MAX_COPIES} are assigned, and a linear program takes at most {MAX_VARIABLES} pairs, "
            f"not {d * e}; leave out {max(d, e) % min(d, e)} units of the wider one"
        )
    return Transport(float((plan * cost).sum()), plan)


def _linear_program(cost: np.ndarray) -> np.ndarray:
    from scipy import sparse
    from scipy.optimize import linprog

    d, e = cost.shape
    sums = sparse.vstack(
        [
            sparse.kron(sparse.eye_array(d), np.ones((1, e))),
            sparse.kron(np.ones((1, d)), sparse.eye_array(e)),
        ],
        format="csr",
    )
    wanted = np.concatenate([np.full(d, 1 / d), np.full(e, 1 / e)])
    # The simplex ends in a vertex; an interior point would only come close to one.
    found = linprog(cost.ravel(), A_eq=sums, b_eq=wanted, method="highs-ds")
    if found.x is None:
        raise InputError(f"the transport between {d} and {e} units failed: {found.message}")
    return found.x.reshape(d, e)


def soft_matching_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Soft matching distance of two sets of units.

    x, y: features of the same n >= 4 images; widths may differ. Returns a value in [0, 2]; 0 for
    the same units. Cost n d e and an assignment of max(d, e)^3.
    Raises InputError for NaN, n < 4, a constant representation, widths that are too many for an
    exact transport (`transport`).
    Source: Khosla and Williams 2023, the soft matching distance.
    """
    same_rows(x, y)
    a, b = (center(z, name) * math.sqrt(z.shape[1]) for z, name in ((x, "x"), (y, "y")))
    squares = a.square().sum(0)[:, None] + b.square().sum(0) - 2 * a.T @ b
    plan = transport(squares.numpy()).plan
    i, j = (torch.as_tensor(part) for part in np.nonzero(plan))
    # Differences of matched units: what is equal is at 0 to the last digit.
    matched = (a[:, i] - b[:, j]).square().sum(0)
    return math.sqrt(float(matched @ torch.as_tensor(plan)[i, j]))


def soft_matching_correlation(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Largest mean correlation of matched units; arguments and errors as `soft_matching_distance`.

    Returns a value in [-1, 1]; 1 for units equal up to order, positive scale and shift.
    Source: Khosla and Williams 2023, the soft matching correlation score.
    """
    same_rows(x, y)
    a, b = (_standardized(z, name) for z, name in ((x, "x"), (y, "y")))
    return -transport(-(a.T @ b).numpy()).cost


def _standardized(x: Float[Tensor, "n d"], name: str) -> Float[Tensor, "n kept"]:
    center(x, name)
    rows = as_rows(x, name)
    sizes = torch.linalg.vector_norm(rows, dim=0)
    rows = rows - rows.mean(0)
    norms = torch.linalg.vector_norm(rows, dim=0)
    alive = norms > CONSTANT * sizes
    return rows[:, alive] / norms[alive]


_COST = "n d e + max(d, e)^3, for a pair and for a permutation: nothing is kept"

MEASURES: dict[str, Measure] = {
    "soft_matching": plain(
        soft_matching_distance,
        definition="root of the cheapest transport between centered units of mean squared norm 1",
        source="Khosla and Williams 2023",
        cost=_COST,
        bias="downwards: the best of many matches of unrelated units is closer than chance",
        null="not known; at most sqrt(2)",
        invariances=frozenset({"scale", "translation", "permutation"}),
        distance=True,
        equal=0.0,
    ),
    "soft_matching_correlation": plain(
        soft_matching_correlation,
        definition="largest mean correlation of units under a transport plan",
        source="Khosla and Williams 2023",
        cost=_COST,
        bias="upwards: the best of many matches of unrelated units correlates",
        null="not known",
        invariances=frozenset({"scale", "translation", "permutation"}),
    ),
}
