"""What some libraries compute under the name of a measure, in a few lines each.

`tests/geometry/test_peers.py` says whose they are and why the measures of interp are others.
"""

import math

import torch

# Neighbors of a row, as in geometry_values_worker.
K = 5


def first_component(x: torch.Tensor, y: torch.Tensor) -> float:
    """Correlation of the first principal components."""
    a, b = (torch.linalg.svd(z - z.mean(0), full_matrices=False)[0][:, 0] for z in (x, y))
    return float((a @ b).abs())


def uncentered_cca(x: torch.Tensor, y: torch.Tensor) -> float:
    """Squared canonical correlations of columns as they are, over the smaller width."""
    a, b = (torch.linalg.qr(z)[0] for z in (x, y))
    return float((a.T @ b).square().sum()) / min(x.shape[1], y.shape[1])


def lower_median_rbf(x: torch.Tensor, y: torch.Tensor) -> float:
    """RBF CKA with the lower of the two middle squared distances for bandwidth."""
    parts = []
    for z in (x, y):
        squares = torch.cdist(z, z).square()
        gram = torch.exp(-squares / (2 * squares.flatten().sort().values[(len(z) ** 2 - 1) // 2]))
        parts.append(gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean())
    return float((parts[0] * parts[1]).sum() / (parts[0].norm() * parts[1].norm()))


def unwhitened_pwcca(x: torch.Tensor, y: torch.Tensor) -> float:
    """The directions of x without their whitening, made orthogonal one after the other."""
    a, b = x - x.mean(0), y - y.mean(0)
    u, _, v = torch.linalg.svd(a, full_matrices=False)
    p, _, q = torch.linalg.svd(b, full_matrices=False)
    left, rho, _ = torch.linalg.svd(v.T @ u.T @ p @ q, full_matrices=False)
    basis = torch.linalg.qr(a @ left)[0]
    weights = (basis.T @ a).abs().sum(1)
    return float(weights @ rho / weights.sum())


def sample_weighted_pwcca(x: torch.Tensor, y: torch.Tensor) -> float:
    """Weights from an orthogonal basis of the coefficient vectors, summed over samples."""
    u, s, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    p = torch.linalg.svd(y - y.mean(0), full_matrices=False)[0]
    left, rho, _ = torch.linalg.svd(u.T @ p, full_matrices=False)
    basis = torch.linalg.qr(v.T @ (left / s[:, None]))[0]
    weights = ((x - x.mean(0)) @ basis).abs().sum(0)
    return 1 - float(weights @ rho / weights.sum())


def masked(x: torch.Tensor, y: torch.Tensor) -> float:
    """HSIC_1, up to its factor, of the inner products at the shared nearest rows."""
    n, kernels = len(x), [z @ z.T for z in (x, y)]
    masks = []
    for gram in kernels:
        apart = gram.clone().fill_diagonal_(-math.inf)
        masks.append(torch.zeros(n, n).double().scatter_(1, apart.topk(K, 1).indices, 1))
    a, b = (masks[0] * masks[1] * gram for gram in kernels)
    sums = a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * (a @ b).sum() / (n - 2)
    return float((a * b.T).sum() + sums) / (n * (n - 3))


def cknna_with_epsilon(x: torch.Tensor, y: torch.Tensor) -> float:
    """CKNNA of unit rows as released, 1e-6 added to the root of the self-terms."""
    x, y = (z / z.norm(dim=1, keepdim=True) for z in (x, y))
    return masked(x, y) / (math.sqrt(masked(x, x) * masked(y, y)) + 1e-6)
