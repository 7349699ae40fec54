"""What a comparison of many layers costs, before it starts: operations, bytes, seconds."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from interp.errors import InputError
from interp.geometry import cka_sums, neighbors, search

# Rows of a product that is as fast as larger ones, and how often it is timed.
PROBE, REPEATS = 1024, 5
MEASURES = ("cka", "cka_biased", "mutual_knn")


class Cost(NamedTuple):
    """An estimate; of time a lower bound, for products alone."""

    measure: str
    route: str
    """ "feature" or "gram" (`cka_sums`); "whole" or "slabs" (`search.nearest`)."""
    flops: float
    """Multiplications and additions, 2 per product; those of float64 count twice."""
    read_bytes: float
    """Features that are read, again for every pair where they are not kept."""
    kept_bytes: float
    """What is kept: copies of smaller layers, ids of neighbors, Gram matrices for permutations."""
    workspace_bytes: float
    """Beyond the features and what is kept."""
    seconds: float | None
    """`flops` at the rate given."""


def gemm_rate() -> float:
    """Measured float32 operations per second of a product on this machine's threads."""
    x = torch.ones(PROBE, PROBE)
    out = torch.empty_like(x)
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        torch.mm(x, x, out=out)
        spent.append(time.perf_counter() - start)
    return 2 * PROBE**3 / min(spent)


def cost(
    n: int,
    widths_x: Sequence[int],
    widths_y: Sequence[int],
    measure: str = "cka",
    *,
    n_permutations: int = 0,
    n_neighbors: float = neighbors.FRACTION,
    item_bytes: int = 4,
    rate: float | None = None,
) -> Cost:
    """Estimate what all pairs of layers cost, with permutations, before any is computed.

    Args:
        n: rows.
        widths_x: columns of each layer of the first list.
        widths_y: of the second list.
        measure: "cka", "cka_biased" (one evaluation gives both) or "mutual_knn".
        n_permutations: of the rows of the second list.
        n_neighbors: k as a fraction of n.
        item_bytes: of one number of a feature as it lies in memory or in a file.
        rate: float32 operations per second, as from `gemm_rate`; None leaves out the seconds.

    Raises:
        InputError: no cost is known of that measure, or a size is not positive.
    """
    if measure not in MEASURES:
        raise InputError(f"no cost of {measure!r}; there are {', '.join(MEASURES)}")
    if n < 4 or not widths_x or not widths_y or min(*widths_x, *widths_y) < 1:
        widths = f"{list(widths_x)} and {list(widths_y)}"
        raise InputError(f"n = {n} rows, widths {widths}: n >= 4, and layers of 1 column or more")
    sizes = (n, list(widths_x), list(widths_y))
    if measure == "mutual_knn":
        found = _neighbors(*sizes, neighbors.count_neighbors(n, n_neighbors), n_permutations)
    else:
        found = _cka(*sizes, n_permutations)
    route, flops, numbers, kept, workspace = found
    seconds = None if rate is None else flops / rate
    return Cost(measure, route, flops, item_bytes * numbers, kept, workspace, seconds)


def _cka(n: int, wx: list[int], wy: list[int], n_permutations: int):
    work = cka_sums.route_costs(n, wx, wy)
    route = min(work, key=lambda name: work[name])
    own = sum(n * d * min(n, d) / 2 for d in wx + wy)
    a, b, widest = len(wx), len(wy), max(wx + wy)
    relabeled = 4 * n * n * 3 <= 2 * cka_sums.MAX_GRAM_BYTES
    again = n * n * a * b / 2 if relabeled else work[route]
    grams = n * n * sum(wx + wy) if relabeled and n_permutations else 0
    flops = 2 * (work[route] + own + 2 * grams + n_permutations * again)
    numbers = n * (b * sum(wx) + a * sum(wy))
    if route == "gram":
        numbers = n * sum(wx + wy) * max(1, n // (2 * cka_sums.TILE))
    kept = sum(8 * n * d for d in wx + wy if 8 * n * d <= cka_sums.MAX_COPY_BYTES)
    if n_permutations and relabeled:
        kept += min(cka_sums.MAX_GRAM_BYTES, 2 * n * n * (a + 2 * b))
    tiles = 8 * (a + b) * cka_sums.TILE**2
    chunk = 8 * 3 * min(n, cka_sums.CHUNK) * widest + 8 * 2 * widest**2
    workspace = (chunk if route == "feature" else tiles + chunk) + 8 * n * (a + b)
    return route, flops, numbers, kept, workspace


def _neighbors(n: int, wx: list[int], wy: list[int], k: int, n_permutations: int):
    whole = 4 * n * n <= search.MAX_WHOLE_BYTES
    # float64: twice the time of float32.
    products = 2 * n * n * sum(wx + wy) / (2 if whole else 1)
    overlaps = n * k * len(wx) * len(wy) * (1 + n_permutations)
    width = min(n - 1, neighbors.list_width(n, k))
    kept = 4 * n * width * len(wx + wy)
    slab = 8 * 4 * search.SLAB + (4 * n * n if whole else 0)
    table = 4 * neighbors.TABLE
    workspace = max(slab + 8 * n * max(wx + wy), table)
    route = "whole" if whole else "slabs"
    return route, 2 * products + overlaps, n * sum(wx + wy), kept, workspace
