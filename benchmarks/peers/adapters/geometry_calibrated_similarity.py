"""calibrated-similarity: 200 permutations of a whole grid; the measure is the caller's.

It computes the measure again for every pair and permutation: what is timed is 2 permutations of a
linear CKA in feature space, from which 200 follow.
"""

import torch
from calibrated_similarity import calibrate_layers

PACKAGES = ("torch", "calibrated-similarity")
PERMUTATIONS = 2


def load(x):
    return torch.from_numpy(x)


def cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def permuted(xs, ys):
    _, p, _ = calibrate_layers(xs, ys, cka, K=PERMUTATIONS)
    return torch.full((len(xs), len(ys)), float(p)).numpy()


GRIDS = {"p of cka_biased": permuted}
MEASURES = {"cka_biased": cka}
