"""The nearest rows of each row: exact, in slabs, with an order for rows at equal distance."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import as_rows, center

# Floats in one slab of distances: 32 MB in float64.
SLAB = 1 << 22
# A float32 matrix of all dissimilarities is kept up to this size (n = 8192), which halves the
# products; beyond, slabs.
MAX_WHOLE_BYTES = 1 << 28
# Side of its tiles.
TILE = 256
# Squared distances below this share of the squared norms are rounding: the rows are equal.
EQUAL = 1e-13


def nearest(
    x: Float[Tensor | np.ndarray, "n d"],
    width: int,
    *,
    units: np.ndarray | None = None,
    metric: str = "euclidean",
    ties: Int[np.ndarray, " n"] | None = None,
) -> Int[Tensor, "n w"]:
    """Ids of the `width` nearest rows of each row, nearest first; int32.

    Distances are taken in float64 and compared in float32, so that rows at equal distance tie
    instead of being ordered by rounding. They come from products about the common mean: rows nearer
    to each other than about 1e-5 of their distance from it may be ordered wrongly, and than 1e-7
    count as equal. Cost n^2 d / 2 up to n = 8192; beyond, n^2 d in slabs:
    never an n x n array above 256 MB.

    units: [n]; rows of the same unit (positions of one image) are not neighbors of each other.
    metric: "euclidean"; "cosine" about the origin or "dot", the largest inner product: these two
    are not translation-invariant, and under "dot" rows of large norm are everybody's neighbors.
    ties: [n] places of the rows on a circle, a permutation of 0..n - 1 as from `tie_order`: of rows
    at equal distance the next after row i come first. None: the lower id first, which must not be
    used on both sides of a comparison.
    Raises InputError for NaN, n < 4, a constant representation, a zero row under cosine, a width
    of more rows than there are.
    """
    return search_rows(metric_rows(x, metric), width, units, metric, ties)


def search_rows(
    rows: Float[Tensor, "n d"],
    width: int,
    units: np.ndarray | None,
    metric: str,
    ties: Int[np.ndarray, " n"] | None,
    wanted: Int[np.ndarray, " q"] | None = None,
) -> Int[Tensor, "q w"]:
    """`nearest` of rows as `metric_rows` gives them; `wanted`: of these rows alone."""
    n = rows.shape[0]
    check_width(n, width, units)
    asked = torch.arange(n) if wanted is None else torch.as_tensor(wanted)
    own = None if units is None else torch.as_tensor(units)
    places = torch.arange(n) if ties is None else torch.as_tensor(ties).long()
    starts = torch.zeros_like(places) if ties is None else places
    ids = places.argsort().int()
    out = torch.empty(len(asked), width, dtype=torch.int32)
    norms = rows.square().sum(1)
    small = wanted is None and 4 * n * n <= MAX_WHOLE_BYTES
    whole = _symmetric(rows, norms, metric) if small else None
    for part in _parts(len(asked), max(1, SLAB // n)):
        who = asked[part]
        apart = _apart(rows, norms, who, slice(0, n), metric) if whole is None else whole[part]
        if own is None:
            apart[torch.arange(len(who)), who] = torch.inf
        else:
            apart[own[who, None] == own[None, :]] = torch.inf
        best = apart.topk(min(width + 1, n), largest=False, sorted=True)
        out[part] = best.indices[:, :width]
        # A tie inside the list or at its end: the circle decides.
        again = (best.values[:, 1:] == best.values[:, :-1]).any(1).nonzero().flatten()
        begin = starts[who[again], None]
        way = (places[None, :] - begin) % n
        keys = (_sortable(apart[again]).long() << 32) | way
        found = keys.topk(width, dim=1, largest=False, sorted=True).values
        out[part.start + again] = ids[((found & 0xFFFFFFFF) + begin) % n]
    return out


def check_width(n: int, width: int, units: np.ndarray | None) -> None:
    """Raise InputError where some row has fewer than `width` rows of other units beside it."""
    largest = 1 if units is None else int(np.bincount(units).max())
    if not 1 <= width <= n - largest:
        raise InputError(f"{width} neighbors, but only {n - largest} of {n} rows of other images")


def _parts(n: int, step: int) -> list[slice]:
    return [slice(start, min(n, start + step)) for start in range(0, n, step)]


def _symmetric(rows: Tensor, norms: Tensor, metric: str) -> Float[Tensor, "n n"]:
    """Dissimilarities of all pairs, float32, at half of the products."""
    n = len(norms)
    out = torch.empty(n, n)
    for first in (blocks := _parts(n, TILE)):
        # The diagonal and what is right of it, at once; below it, the same turned.
        out[first, first.start :] = _apart(rows, norms, first, slice(first.start, n), metric)
        for second in blocks[blocks.index(first) + 1 :]:
            out[second, first] = out[first, second].T
    return out


def _apart(
    rows: Tensor, norms: Tensor, first: slice | Tensor, second: slice, metric: str
) -> Tensor:
    """Dissimilarities of two ranges of rows, in float64 and then rounded to float32."""
    if metric == "dot":
        products = rows[first] @ rows[second].T
        # Inner products that are only rounding are 0.
        lengths = norms[first, None] * norms[None, second]
        return -products.masked_fill_(products.square() <= EQUAL**2 * lengths, 0).float()
    x, y = norms[first, None], norms[None, second]
    squared = torch.addmm(y, rows[first], rows[second].T, alpha=-2).add_(x)
    # Most rows are equal to none but themselves: counting costs less than filling.
    near = squared <= EQUAL * (x.max() + y.max())
    if int(near.count_nonzero()) > len(x):
        squared.masked_fill_(squared <= EQUAL * (x + y), 0)
    return squared.float()


def _sortable(values: Tensor) -> Int[Tensor, "*s"]:
    """int32 in the order of the values rounded to float32; 0 and -0 are equal."""
    bits = (values.float() + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def metric_rows(
    x: Float[Tensor | np.ndarray, "n d"], metric: str, name: str = "x"
) -> Float[Tensor, "n d"]:
    """The checked rows whose nearest are searched, as the metric has them.

    Centered and of norm 1 ("euclidean"), each of norm 1 ("cosine"), or the whole of norm 1 ("dot").
    Raises InputError as `center`, for a zero row under cosine, and for another metric.
    """
    if metric == "euclidean":
        return center(x, name)
    rows = as_rows(x, name)
    if metric == "cosine":
        return _unit_rows(rows, name)
    if metric == "dot":
        rows = rows / rows.abs().max().clamp(min=torch.finfo(rows.dtype).tiny)
        return rows / torch.linalg.vector_norm(rows).clamp(min=1)
    raise InputError(f"metric {metric!r} is euclidean, cosine or dot")


def tie_order(n: int, name: str, seed: int = 0) -> Int[np.ndarray, " n"]:
    """Places [n] of n rows on a circle: random, the same for a name and a seed.

    Orders of different names are independent, which makes permutation tests exact under ties.
    """
    digest = hashlib.sha256(f"ties of {name}".encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")]).permutation(n)


def _unit_rows(rows: Tensor, name: str) -> Tensor:
    peaks = rows.abs().amax(1, keepdim=True)
    if bool((peaks == 0).any()):
        raise InputError(
            f"{name}: {int((peaks == 0).sum())} rows are zero and have no cosine; use euclidean"
        )
    rows = rows / peaks
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
