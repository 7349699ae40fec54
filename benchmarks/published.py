"""Measures as the released code of their papers computes them, written anew from its description.

Not fast on purpose, and not slowed down either: every pair makes both n x n similarities, sorts
whole rows, multiplies n x n matrices. Single precision, as there.
"""

import torch
from torch import Tensor

# Huh et al. 2024: 10 of 1024.
FRACTION = 0.01


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Biased linear CKA from traces of products of centered n x n matrices."""
    n = len(x)
    center = torch.eye(n) - 1 / n
    k, el = center @ (x @ x.T) @ center, center @ (y @ y.T) @ center
    return torch.trace(k @ el) / (torch.trace(k @ k) * torch.trace(el @ el)).sqrt()


def unbiased_cka(x: Tensor, y: Tensor) -> Tensor:
    """CKA of unbiased HSICs, each from an n x n product (Song et al. 2012, eq. 5)."""
    k, el = (z @ z.T for z in (x - x.mean(0), y - y.mean(0)))
    return _hsic(k, el) / (_hsic(k, k) * _hsic(el, el)).sqrt()


def _hsic(k: Tensor, el: Tensor) -> Tensor:
    m = len(k)
    k, el = (gram.clone().fill_diagonal_(0) for gram in (k, el))
    both = k @ el
    whole = k.sum() * el.sum() / ((m - 1) * (m - 2))
    return (torch.trace(both) + whole - 2 / (m - 2) * both.sum()) / (m * (m - 3))


def mutual_knn(x: Tensor, y: Tensor) -> Tensor:
    """Share of common neighbors by cosine, from sorted rows and n x n masks."""
    k = max(1, round(FRACTION * len(x)))
    return (_mask(x, k) & _mask(y, k)).sum() / (k * len(x))


def _mask(x: Tensor, k: int) -> Tensor:
    x = torch.nn.functional.normalize(x, dim=1)
    similarity = (x @ x.T).fill_diagonal_(-torch.inf)
    ids = similarity.argsort(dim=1, descending=True)[:, :k]
    mask = torch.zeros(len(x), len(x), dtype=torch.bool)
    return mask.scatter_(1, ids, True)
