"""How few directions of a carrier decide an image: d*, in the PCA and the Jacobian basis."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.interventions.effects import Embedded, Pairs, make_moments, solve_shares

# A swap of d directions counts as the full one where it keeps this part of every donor share.
KEEP = 0.95
# Below this smallest share the full swap moves nothing whose directions could be counted.
NOTHING = 0.1


@dataclass(frozen=True)
class Compactness:
    """Fewest directions of a basis whose swap keeps 95 % of every donor share of the full swap."""

    d_star: int | None
    """None: `rank` directions do not keep it, or the full swap moves too little (`full` < .1)."""
    rank: int
    """Directions in the basis."""
    full: float
    """min_k alpha_k of the full swap."""
    kept: dict[int, float]
    """d -> min_k alpha_k(d) / alpha_k(full), for every d tried."""


def make_pca_basis(samples: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "r d"]:
    """Principal directions of a carrier's values on other images, by falling variance.

    r = min(n - 1, d) orthonormal rows. Raises InputError for fewer than two samples.
    """
    if np.ndim(samples) != 2 or len(samples) < 2:
        raise InputError(f"PCA needs samples [n >= 2, d], not {np.shape(samples)}")
    x = np.asarray(samples, dtype=np.float64)
    x = x - x.mean(0)
    n, d = x.shape
    if n - 1 < d:
        return np.linalg.svd(x, full_matrices=False)[2][: n - 1]
    return np.linalg.eigh(x.T @ x)[1].T[::-1].copy()


def make_jacobian_basis(
    jacobian: Callable[[np.ndarray], dict[str, np.ndarray]],
    points: Float[np.ndarray, "n d"],
    scales: dict[str, float] | None = None,
) -> Float[np.ndarray, "r d"]:
    """Directions of a carrier by falling effect on the attributes, first order, at other images.

    Eigenvectors of the mean over points of sum_k J_k' J_k / scale_k^2, J_k = d phi_k / d carrier.
    jacobian: value [d] -> attribute -> [d_k, d]. points: [n, d] values on other images.
    scales: root mean square length of each centered attribute, so that none counts more for its
    units; None: 1 each. Raises InputError where a Jacobian does not fit.
    Source: active subspaces, Constantine 2015, eq. 3.2.
    """
    d = np.shape(points)[1]
    total = np.zeros((d, d))
    for point in points:
        for name, j in jacobian(point).items():
            if np.ndim(j) != 2 or j.shape[1] != d:
                raise InputError(f"the Jacobian of {name} is {np.shape(j)}, not [d_k, {d}]")
            scaled = np.asarray(j, dtype=np.float64) / (scales or {}).get(name, 1.0)
            total += scaled.T @ scaled
    return np.linalg.eigh(total)[1].T[::-1].copy()


def make_gradient_basis(gradients: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "r d"]:
    """Estimate `make_jacobian_basis` from gradients of random projections of the attributes.

    Row i is J(x_i)' v_i: the gradient of sum_k v_ik' phi_k / scale_k by the carrier at another
    image x_i, v_i white. As E[J' v v' J] = J' J, the right singular vectors of the rows by falling
    singular value estimate its eigenvectors. Only as many directions as gradients can be found, so
    that d* in this basis is at least that of the exact one.

    Returns r = rank orthonormal rows. Raises InputError for fewer than two gradients, values that
    are not finite, or gradients that are all 0.
    """
    rows = np.asarray(gradients, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2 or not np.isfinite(rows).all() or not rows.any():
        raise InputError(
            f"gradients {rows.shape}: two or more finite rows [m, d], not all 0, are needed; does "
            "the carrier move the attributes, and are they differentiable?"
        )
    _, values, axes = np.linalg.svd(rows, full_matrices=False)
    # Below this a singular value is rounding (the usual rule of matrix_rank).
    return axes[values > values[0] * max(rows.shape) * np.finfo(np.float64).eps]


def make_random_basis(rank: int, width: int, seed: int) -> Float[np.ndarray, "r d"]:
    """Random orthonormal directions, uniform over all subspaces of this rank: the wiring twin.

    Raises InputError unless 1 <= rank <= width.
    """
    if not 1 <= rank <= width:
        raise InputError(f"{rank} random directions of {width}: 1 to {width} are there")
    rng = np.random.default_rng([seed, rank, width])
    return np.linalg.qr(rng.standard_normal((width, rank)))[0].T


def measure_kept(
    pairs: Pairs,
    donor: Float[np.ndarray, "n d"],
    recipient: Float[np.ndarray, "n d"],
    basis: Float[np.ndarray, "r d"],
    run: Callable[[np.ndarray], Embedded],
) -> float:
    """Share of every donor share of the full swap that all directions of a basis keep together.

    min_k alpha_k(basis) / alpha_k(full), as in `measure_compactness`; NaN where the full swap moves
    too little to be divided by.
    """
    a, b, v = (np.asarray(x, dtype=np.float64) for x in (donor, recipient, basis))
    full = _alpha(pairs, run(a))
    if full.min() < NOTHING:
        return float("nan")
    return float((_alpha(pairs, run(b + (a - b) @ v.T @ v)) / full).min())


def measure_compactness(
    pairs: Pairs,
    donor: Float[np.ndarray, "n d"],
    recipient: Float[np.ndarray, "n d"],
    basis: Float[np.ndarray, "r d"],
    run: Callable[[np.ndarray], Embedded],
) -> Compactness:
    """Find d*: the swap of the first d directions, the rest left at the recipient.

    carrier(d) = recipient + V_d' V_d (donor - recipient); d* is the d at which min_k alpha_k(d) /
    alpha_k(full) >= .95 and d - 1 does not reach it, found by bisection: about log2(r) runs.

    Args:
        pairs: donors and recipients.
        donor: the carrier's values in the donors' runs, one row per row of the pairs.
        recipient: the same in the recipients' runs.
        basis: orthonormal rows, most important first, fitted on other images.
        run: carrier values [n, d] in the recipients' runs -> embeddings of the resulting images.

    Raises:
        InputError: shapes differ or the basis is not orthonormal.
    """
    a, b, v = (np.asarray(x, dtype=np.float64) for x in (donor, recipient, basis))
    n = len(pairs.pair)
    if a.shape != b.shape or len(a) != n or v.ndim != 2 or v.shape[1] != a.shape[1]:
        raise InputError(
            f"carrier values {a.shape} and {b.shape}, basis {v.shape}, {n} rows of pairs: they "
            "have to be [n, d], [n, d], [r, d] and n"
        )
    if not np.allclose(v @ v.T, np.eye(len(v)), atol=1e-6):
        raise InputError(f"the {len(v)} rows of the basis are not orthonormal")
    full = _alpha(pairs, run(a))
    if full.min() < NOTHING:
        return Compactness(None, len(v), float(full.min()), {})
    kept: dict[int, float] = {}

    def keeps(d: int) -> bool:
        swapped = b + (a - b) @ v[:d].T @ v[:d]
        kept[d] = float((_alpha(pairs, run(swapped)) / full).min())
        return kept[d] >= KEEP

    low, high = 0, len(v)
    if not keeps(high):
        return Compactness(None, len(v), float(full.min()), kept)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return Compactness(high, len(v), float(full.min()), dict(sorted(kept.items())))


def _alpha(pairs: Pairs, swapped: Embedded) -> np.ndarray:
    return solve_shares(make_moments(pairs, swapped).sum(0)).alpha
