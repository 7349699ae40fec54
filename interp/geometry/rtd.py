"""Representation topology divergence: the lengths of loops that one geometry has and another not.

For distances r of X and s of Y, each divided by its 0.9 quantile, the Vietoris-Rips complex of the
2 n points with distances

    [[0, r], [r, min(r, s)]]

has one-dimensional homology only where clusters and loops differ: RTD is the summed length of its
bars, the mean of both directions (Barannikov et al. 2022, sec. 2; the matrix is that of their
released code, whose first block is zero). Larger samples go in random batches, as theirs.

Needs the package ripser: `pip install interp[extras]`.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import center, same_rows
from interp.geometry.measure import Measure, plain

# Barannikov et al. 2022, released code: rows of a batch, batches, quantile of the distances.
BATCH = 500
TRIALS = 10
QUANTILE = 0.9
# Share of the mean distance that their code takes for 0.
ZERO = 1e-6


def topology_divergence(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    batch: int = BATCH,
    trials: int = TRIALS,
    seed: int = 0,
) -> float:
    """Representation topology divergence; 0 for geometries equal up to rotation, scale and shift.

    x, y: features of the same n >= 4 images. For n <= batch all rows are used once; else the mean
    over `trials` random batches of rows, and the value depends on the size of the batch. Unit: the
    0.9 quantile of the distances. Returns a value of at least 0; float32 inside. Cost of a batch:
    persistent homology of 2 batch points, seconds at 500.
    Raises InputError for NaN, n < 4, a constant representation, distances whose 0.9 quantile is 0,
    batch < 4, and where ripser is not installed.
    Source: Barannikov et al. 2022, sec. 2 and the released code.
    """
    n = same_rows(x, y)
    first, second = center(x, "x"), center(y, "y")
    if batch < 4 or trials < 1:
        raise InputError(f"batch = {batch} and trials = {trials}: at least 4 rows and 1 trial")
    if n <= batch:
        return _both_ways(first, second)
    rng = np.random.default_rng(seed)
    chosen = (rng.choice(n, batch, replace=False) for _ in range(trials))
    return float(np.mean([_both_ways(first[rows], second[rows]) for rows in chosen]))


def _both_ways(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    r, s = _scaled_distances(x, "x"), _scaled_distances(y, "y")
    return (_loops(r, s) + _loops(s, r)) / 2


def _scaled_distances(x: Float[Tensor, "n d"], name: str) -> Float[np.ndarray, "n n"]:
    r = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    scale = np.quantile(r, QUANTILE)
    if not scale > 0:
        raise InputError(
            f"{name}: the {QUANTILE} quantile of the distances between {len(r)} rows is 0, which "
            "is the unit of RTD: too many rows are equal; leave them out"
        )
    return r / scale


def _loops(r: Float[np.ndarray, "n n"], s: Float[np.ndarray, "n n"]) -> float:
    """Summed length of the one-dimensional bars of the pair (r, s)."""
    try:
        from ripser import ripser
    except ImportError as error:
        raise InputError("RTD needs the package ripser: pip install interp[extras]") from error
    joined = np.block([[np.zeros_like(r), r], [r, np.minimum(r, s)]])
    joined[joined < ZERO * r.mean()] = 0
    bars = ripser(joined, maxdim=1, distance_matrix=True)["dgms"][1].astype(np.float64)
    return float((bars[:, 1] - bars[:, 0]).sum())


MEASURES: dict[str, Measure] = {
    "rtd": plain(
        topology_divergence,
        definition="summed length of one-dimensional bars of the joint complex, both directions",
        source="Barannikov et al. 2022, sec. 2 and released code",
        cost="homology of 2 min(n, 500) points, ten times beyond 500; nothing is kept",
        bias="grows with the size of the batch",
        null="not known",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
        distance=True,
        equal=0.0,
        extra="ripser",
    ),
}
