"""Inner products of two weighted projections, tr(K L) = ||a'b||^2 with K = a a' and L = b b'.

    a = U_x diag(w_x), b = U_y diag(w_y)

with all weights 1 that is tr(P_X P_Y), the sum of squared canonical correlations; other weights
give in-sample R^2 and GULP. Permutations of the rows then need no eigenproblem at all, and because
rows of centered K and L sum to 0 their first two moments over all n! pairings are known: with
t = tr K, t2 = ||K||^2, s2 = sum_i K_ii^2 and u, u2, v2 the same of L,

    mean = t u / (n - 1),
    var  = 2 ((n - 1) t2 - t^2) ((n - 1) u2 - u^2) / ((n - 1)^2 (n + 1) (n - 2))
         + (n (n + 1) s2 - (n - 1) (t^2 + 2 t2)) (n (n + 1) v2 - (n - 1) (u^2 + 2 u2))
           / ((n + 1) n (n - 1) (n - 2) (n - 3)).

Source: Kazi-Aoual et al. 1995.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.geometry.canonical_basis import Basis, spectral
from interp.geometry.features import same_rows
from interp.geometry.measure import Measure

# Permutations keep Grams in memory up to this size, then multiply factors again.
MAX_GRAM_BYTES = 1 << 30

Weights = Callable[[Basis], Tensor]


class Traces(NamedTuple):
    """How a measure reads traces: value = finish(tr(K L), x, y)."""

    weight_x: Weights  # basis -> [r]
    weight_y: Weights
    # ([..., a, b] traces, x layers, y layers) -> values
    finish: Callable[[Tensor, Sequence[Basis], Sequence[Basis]], Tensor]

    def factors(
        self, xs: Sequence[Basis], ys: Sequence[Basis]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """a of every first and b of every second layer."""
        return [p.u * self.weight_x(p) for p in xs], [q.u * self.weight_y(q) for q in ys]


def traces(
    function: Callable[..., float], how: Traces, *, exact: bool = False, **fields: Any
) -> Measure:
    """A measure that is a function of tr(K L).

    exact: whether `finish` only multiplies, so that the moments of the trace are the measure's.
    """

    def score(p: Basis, q: Basis) -> float:
        first, second = how.factors([p], [q])
        return float(how.finish(_by_factors(first, second), [p], [q]))

    def values(xs: Sequence[Basis], ys: Sequence[Basis]) -> Tensor:
        same_rows(xs[0].u, ys[0].u)
        return how.finish(_by_factors(*how.factors(xs, ys)), xs, ys)

    def permuted(
        xs: Sequence[Basis], ys: Sequence[Basis], orders: Int[np.ndarray, "p n"]
    ) -> Tensor:
        same_rows(xs[0].u, ys[0].u)
        return how.finish(permuted_traces(*how.factors(xs, ys), orders), xs, ys)

    def moments(xs: Sequence[Basis], ys: Sequence[Basis]) -> tuple[Tensor, Tensor]:
        same_rows(xs[0].u, ys[0].u)
        mean, sd = trace_moments(*how.factors(xs, ys))
        return how.finish(mean, xs, ys), how.finish(sd, xs, ys)

    own = {"values": values, "permuted": permuted, "moments": moments if exact else None}
    return spectral(function, score, **{**own, **fields})


def _by_factors(first: Sequence[Tensor], second: Sequence[Tensor]) -> Float[Tensor, "a b"]:
    stacked, owner = torch.cat(list(second), 1), _owners(second)
    out = torch.zeros(len(first), len(second), dtype=torch.float64)
    for i, a in enumerate(first):
        out[i].index_add_(0, owner, (a.T @ stacked).square().sum(0).double())
    return out


def _owners(factors: Sequence[Tensor]) -> Tensor:
    widths = torch.tensor([b.shape[1] for b in factors])
    return torch.repeat_interleave(torch.arange(len(factors)), widths)


def permuted_traces(
    first: Sequence[Float[Tensor, "n _"]],
    second: Sequence[Float[Tensor, "n _"]],
    orders: Int[np.ndarray, "p n"],
) -> Float[Tensor, "p a b"]:
    """tr(K L) of every pair after the rows of the second factors are reordered: b[orders[i]].

    By relabeled float32 Grams (n (n + 1) / 2 numbers per layer, a permutation n^2 a b / 2) where
    they fit MAX_GRAM_BYTES and are cheaper, else by products of float32 factors (n R Q for total
    ranks R and Q). Error 1e-6 of sqrt(tr K^2 tr L^2).
    """
    if len(first) < len(second):
        return permuted_traces(second, first, np.argsort(orders, axis=1)).transpose(1, 2)
    n = first[0].shape[0]
    size = 4 * (n * (n + 1) // 2 * (len(first) + len(second)) + n * n * len(second))
    wide = sum(a.shape[1] for a in first) * sum(b.shape[1] for b in second)
    if size > MAX_GRAM_BYTES or wide < n * len(first) * len(second) / 4:
        a, b = ([one.float() for one in part] for part in (first, second))
        moved = ([one[order] for one in b] for order in torch.as_tensor(orders))
        return torch.stack([_by_factors(a, part) for part in moved])
    return _by_grams(first, second, orders)


def _by_grams(first, second, orders: np.ndarray) -> Tensor:
    n = first[0].shape[0]
    rows, cols = np.triu_indices(n)
    # Off the diagonal every entry counts twice.
    twice = torch.from_numpy(np.where(rows == cols, 1.0, 2.0))
    fixed = torch.stack([((a @ a.T)[rows, cols] * twice).float() for a in first])
    # [n * n, layers]: one gathered row serves all layers.
    moved = torch.stack([(b @ b.T).float().flatten() for b in second], 1).numpy()
    out = torch.empty(len(orders), len(first), len(second), dtype=torch.float64)
    for i, order in enumerate(orders):
        flat = order[rows] * n + order[cols]
        out[i] = fixed @ torch.from_numpy(np.take(moved, flat, axis=0))
    return out


def trace_moments(
    first: Sequence[Float[Tensor, "n _"]], second: Sequence[Float[Tensor, "n _"]]
) -> tuple[Float[Tensor, "a b"], Float[Tensor, "a b"]]:
    """Exact mean and sd of tr(K L) over all n! pairings (module docstring). Cost n r^2 a layer."""
    n = first[0].shape[0]
    x, y = (torch.stack([_sums(a) for a in part]) for part in (first, second))
    return centered_moments(x[:, None], y[None, :], n)


def _sums(a: Tensor) -> Float[Tensor, "3"]:
    rows = a.square().sum(1)
    return torch.stack([rows.sum(), (a.T @ a).square().sum(), rows @ rows])


def centered_moments(
    x: Float[Tensor, "... 3"], y: Float[Tensor, "... 3"], n: int
) -> tuple[Tensor, Tensor]:
    """Mean and sd of tr(K L) from (tr K, ||K||^2, sum K_ii^2) of either side; n >= 4."""
    (t, t2, s2), (u, u2, v2) = x.unbind(-1), y.unbind(-1)
    spread = 2 * ((n - 1) * t2 - t**2) * ((n - 1) * u2 - u**2)
    spread = spread / ((n - 1) ** 2 * (n + 1) * (n - 2))
    # What rows of unequal norm add.
    rows = (n * (n + 1) * s2 - (n - 1) * (t**2 + 2 * t2)) * (
        n * (n + 1) * v2 - (n - 1) * (u**2 + 2 * u2)
    )
    rows = rows / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    return t * u / (n - 1), (spread + rows).clamp(min=0).sqrt()
