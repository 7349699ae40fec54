"""Who does what among layers: first-in, last-in and Shapley shares, redundancy, specialization."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.interventions.effects import (
    LEVEL,
    RESAMPLES,
    Embedded,
    Pairs,
    draw_pairs,
    make_moments,
    solve_shares,
)
from interp.interventions.numbers import check_whole

# Up to this many layers all 2^L subsets are run and the Shapley share has no Monte Carlo error.
EXACT = 6
ORDERS = 64
# First-in and last-in count as equal where their difference lies within this, with confidence.
AGREE = 0.1
# A total share below this, spread evenly, is too near 0 to be divided by.
LEAST_TOTAL = 0.05

Swap = Callable[[frozenset[int]], Embedded]


@dataclass(frozen=True)
class Game:
    """Donor shares of all tried subsets of layers, as moments by pair.

    The value of a subset is v_k(S) = alpha_k of the swap of the layers of S together; v of none is
    0, the image without an edit.
    """

    layers: tuple[str, ...]
    attributes: tuple[str, ...]
    role: str
    """"write", or "descendant" for graph cuts, which are reported and support no claim."""
    subsets: tuple[frozenset[int], ...]
    moments: np.ndarray
    """[subsets, n_pairs, k, 6]."""
    orders: np.ndarray | None
    """[n_orders, L], random orders of a Monte Carlo Shapley share; None: exact."""
    in_full: int = 0
    """Batches of which nothing was used again, because a module keeps a state."""

    @property
    def n_pairs(self) -> int:
        """Number of disjoint pairs."""
        return self.moments.shape[1]


@dataclass(frozen=True)
class LayerShares:
    """Shares of each layer by attribute, with 95 % bootstrap intervals; arrays [k, L].

    Shares of an attribute are to be interpreted only where `kinds` says "additive".
    """

    layers: tuple[str, ...]
    attributes: tuple[str, ...]
    role: str
    first_in: np.ndarray
    """v({l})."""
    last_in: np.ndarray
    """v(N) - v(N without l)."""
    shapley: np.ndarray
    shapley_low: np.ndarray
    shapley_high: np.ndarray
    shapley_se: np.ndarray
    """Monte Carlo error of the Shapley share over random orders; 0 where it is exact."""
    gap_low: np.ndarray
    """Interval of first-in minus last-in, Bonferroni-corrected over attributes and layers."""
    gap_high: np.ndarray
    total: np.ndarray
    """[k]: v(N)."""
    redundancy: np.ndarray
    """[k]: sum_l v({l}) - v(N); positive redundant, negative synergistic."""
    redundancy_low: np.ndarray
    redundancy_high: np.ndarray
    interactions: np.ndarray | None
    """[k, L, L]: v({i, j}) - v({i}) - v({j}); None where pairs of layers were not run."""
    kinds: tuple[str, ...]
    """[k]: "additive", "redundant", "synergistic", "mixed" or "undecided"."""
    n_pairs: int


@dataclass(frozen=True)
class Specialization:
    """How far layers differ in what they do, 0 not at all, 1 each layer one attribute."""

    value: float | None
    """None where the total share is near 0. May be negative."""
    low: float | None
    high: float | None
    se: float | None
    """Bootstrap standard error over pairs."""
    n_pairs: int
    draws: np.ndarray | None = field(default=None, repr=False, compare=False)
    """Of each bootstrap sample of pairs; the same samples for games of as many pairs."""


def play(
    pairs: Pairs,
    swap: Swap,
    layers: Sequence[str],
    *,
    role: str = "write",
    n_orders: int = ORDERS,
    interactions: bool = True,
    seed: int = 0,
) -> Game:
    """Swap subsets of layers: all of them up to 6 layers, else those that the shares need.

    Args:
        pairs: donors and recipients.
        swap: layer numbers -> embeddings of the recipients with these layers of the donor in place.
        layers: names; at least two.
        role: "write" or "descendant".
        n_orders: random orders of layers for the Monte Carlo Shapley share, at least 2.
        interactions: with more than 6 layers, run all pairs of layers too.
        seed: of the orders.

    Raises:
        InputError: fewer than two layers or orders, an unknown role, or embeddings that do not fit.
    """
    check_whole("seed", seed, 0)
    n = len(layers)
    if n < 2 or n_orders < 2 or role not in ("write", "descendant"):
        raise InputError(
            f"{n} layers, {n_orders} orders, role {role!r}: at least 2 and 2, and write or "
            "descendant, are needed"
        )
    full, orders = range(n), None
    if n <= EXACT:
        wanted = [s for size in range(1, n + 1) for s in itertools.combinations(full, size)]
    else:
        rng = np.random.default_rng([seed, n])
        orders = np.stack([rng.permutation(n) for _ in range(n_orders)])
        wanted = [(i,) for i in full] + [tuple(j for j in full if j != i) for i in full]
        wanted += [tuple(order[: i + 1].tolist()) for order in orders for i in full]
        wanted += list(itertools.combinations(full, 2)) if interactions else []
    subsets = tuple(dict.fromkeys(frozenset(s) for s in wanted))
    moments = np.stack([make_moments(pairs, swap(s)) for s in subsets])
    return Game(tuple(layers), pairs.attributes, role, subsets, moments, orders)


def _values(game: Game, weights: np.ndarray | None) -> np.ndarray:
    """v of each subset: [..., k, subsets]; weights [b, n_pairs], None for each pair once."""
    if weights is None:
        alpha = solve_shares(game.moments.sum(1)).alpha
    else:
        alpha = solve_shares(np.tensordot(weights, game.moments, (1, 1))).alpha
    return np.moveaxis(alpha, -2, -1)


def _shapley_map(game: Game) -> np.ndarray:
    """The Shapley share is linear in v: [n_orders or 1, subsets, L]."""
    n, place = len(game.layers), {s: i for i, s in enumerate(game.subsets)}
    if game.orders is None:
        out = np.zeros((1, len(place), n))
        for s, i in place.items():
            for layer in range(n):
                inside = layer in s
                size = len(s) - inside
                weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
                out[0, i, layer] = weight if inside else -weight
        return out
    out = np.zeros((len(game.orders), len(place), n))
    for o, order in enumerate(game.orders.tolist()):
        for i, layer in enumerate(order):
            out[o, place[frozenset(order[: i + 1])], layer] += 1
            if i:
                out[o, place[frozenset(order[:i])], layer] -= 1
    return out


def shapley(values: Float[np.ndarray, "*s subsets"], n_layers: int) -> Float[np.ndarray, "*s L"]:
    """Exact Shapley shares of a game given as v of every subset, indexed by its bit mask.

    phi_l = sum over S without l of |S|! (L - |S| - 1)! / L! [v(S with l) - v(S)].
    Raises InputError unless the last axis is 2^L. Source: Shapley 1953.
    """
    v = np.asarray(values, dtype=np.float64)
    if v.shape[-1] != 2**n_layers:
        raise InputError(f"{v.shape[-1]} values for {n_layers} layers; 2^L = {2**n_layers} needed")
    out = np.zeros((*v.shape[:-1], n_layers))
    masks = np.arange(2**n_layers)
    sizes = np.array([mask.bit_count() for mask in masks.tolist()])
    for layer in range(n_layers):
        without = masks[(masks >> layer) & 1 == 0]
        weight = [
            math.factorial(s) * math.factorial(n_layers - s - 1) / math.factorial(n_layers)
            for s in sizes[without].tolist()
        ]
        out[..., layer] = (v[..., without | (1 << layer)] - v[..., without]) @ np.array(weight)
    return out


def measure_layers(game: Game, *, n_resamples: int = RESAMPLES, seed: int = 0) -> LayerShares:
    """Shares of layers with bootstrap intervals over pairs, and whether they may be interpreted.

    An attribute is "additive" where first-in and last-in of every layer agree within .1 with
    confidence; else "redundant" or "synergistic" where some differ with confidence in one
    direction, "mixed" where they do in both, and "undecided" where none does.
    """
    n, k = len(game.layers), len(game.attributes)
    place = {s: i for i, s in enumerate(game.subsets)}
    single = [place[frozenset([i])] for i in range(n)]
    others = [place[frozenset(range(n)) - {i}] for i in range(n)]
    whole = place[frozenset(range(n))]
    point = _values(game, None)
    drawn = _values(game, draw_pairs(game.n_pairs, n_resamples, seed))
    tail = (1 - LEVEL) / 2
    gaps = drawn[..., single] - (drawn[..., [whole]] - drawn[..., others])
    gap_low, gap_high = np.quantile(gaps, [tail / (k * n), 1 - tail / (k * n)], axis=0)
    excess = drawn[..., single].sum(-1) - drawn[..., whole]
    redundancy_low, redundancy_high = np.quantile(excess, [tail, 1 - tail], axis=0)
    by_order = np.einsum("ks,osl->okl", point, _shapley_map(game))
    spread = np.zeros((k, n))
    if len(by_order) > 1:
        spread = by_order.std(0, ddof=1) / math.sqrt(len(by_order))
    low, high = np.quantile(drawn @ _shapley_map(game).mean(0), [tail, 1 - tail], axis=0)
    return LayerShares(
        layers=game.layers,
        attributes=game.attributes,
        role=game.role,
        first_in=point[:, single],
        last_in=point[:, [whole]] - point[:, others],
        shapley=by_order.mean(0),
        shapley_low=low,
        shapley_high=high,
        shapley_se=spread,
        gap_low=gap_low,
        gap_high=gap_high,
        total=point[:, whole],
        redundancy=point[:, single].sum(1) - point[:, whole],
        redundancy_low=redundancy_low,
        redundancy_high=redundancy_high,
        interactions=_interactions(point, place, single),
        kinds=tuple(_kind(a, b) for a, b in zip(gap_low, gap_high, strict=True)),
        n_pairs=game.n_pairs,
    )


def _interactions(
    point: np.ndarray, place: dict[frozenset[int], int], single: list[int]
) -> np.ndarray | None:
    n = len(single)
    duos = list(itertools.combinations(range(n), 2))
    if not all(frozenset(duo) in place for duo in duos):
        return None
    out = np.zeros((len(point), n, n))
    for i, j in duos:
        together = point[:, place[frozenset((i, j))]]
        out[:, i, j] = out[:, j, i] = together - point[:, single[i]] - point[:, single[j]]
    return out


def _kind(low: np.ndarray, high: np.ndarray) -> str:
    if low.min() >= -AGREE and high.max() <= AGREE:
        return "additive"
    redundant, synergistic = bool((low > 0).any()), bool((high < 0).any())
    if redundant and synergistic:
        return "mixed"
    return "redundant" if redundant else "synergistic" if synergistic else "undecided"


def specialize(
    first: Float[np.ndarray, "*b t k L"], second: Float[np.ndarray, "*b t k L"]
) -> Float[np.ndarray, " *b"]:
    """Cross-validated specialization of the share matrices of two halves of the pairs.

    sum R1 R2 / sum M1 M2 / (1 - 1 / K), R the double-centered M (rows and columns to mean 0),
    sums over all t; K attributes. t > 1 is the specialization given the step. 0 where every layer
    has the same share of everything, 1 where each layer has one attribute (and these are spread
    evenly); unbiased numerator and denominator, so it may be negative. NaN where sum M1 M2 is less
    than what a total share of .05 spread evenly over the layers of one t would give.
    Raises InputError for shapes that differ or fewer than two attributes or layers.
    """
    if first.shape != second.shape or first.ndim < 3 or min(first.shape[-2:]) < 2:
        raise InputError(
            f"share matrices {first.shape} and {second.shape}: two equal [..., steps, attributes "
            ">= 2, layers >= 2] are needed"
        )
    k, n = first.shape[-2:]
    centered = [
        m - m.mean(-1, keepdims=True) - m.mean(-2, keepdims=True) + m.mean((-2, -1), keepdims=True)
        for m in (first, second)
    ]
    top = (centered[0] * centered[1]).sum((-3, -2, -1))
    bottom = (first * second).sum((-3, -2, -1))
    defined = bottom >= LEAST_TOTAL**2 * k / n
    return np.where(defined, top / np.where(defined, bottom, 1) / (1 - 1 / k), np.nan)


def measure_specialization(
    games: Game | Sequence[Game], *, n_resamples: int = RESAMPLES, seed: int = 0
) -> Specialization:
    """Specialization of Shapley shares: one random half of the pairs against the other.

    games: one, or one per step (the same layers and pairs) for the specialization given the step.
    The interval is a percentile bootstrap over pairs, within halves. Resamples in which the total
    share is near 0 make the whole undefined. Raises InputError where the games differ.
    """
    games = [games] if isinstance(games, Game) else list(games)
    shapes = {(len(g.layers), g.attributes, g.n_pairs) for g in games}
    if len(shapes) != 1:
        raise InputError(f"{len(games)} games of {len(shapes)} kinds: give games of equal layers")
    n_pairs = games[0].n_pairs
    check_whole("seed", seed, 0)
    half = np.random.default_rng([seed, 2]).permutation(n_pairs) % 2
    weights = draw_pairs(n_pairs, n_resamples, seed, half)
    maps = [_shapley_map(g).mean(0) for g in games]
    shares = []
    for side in (0, 1):
        chosen = np.concatenate([np.ones((1, n_pairs)), weights]) * (half == side)
        parts = [_values(g, chosen) @ m for g, m in zip(games, maps, strict=True)]
        shares.append(np.stack(parts, axis=1))
    found = specialize(*shares)
    if np.isnan(found).any():
        return Specialization(None, None, None, None, n_pairs)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found[1:], [tail, 1 - tail])
    se = float(found[1:].std(ddof=1))
    return Specialization(float(found[0]), float(low), float(high), se, n_pairs, found[1:])
