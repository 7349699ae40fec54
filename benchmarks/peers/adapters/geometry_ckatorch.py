"""ckatorch: `cka_base` (linear, RBF, unbiased) and `cka_batch`."""

import torch
from ckatorch import cka_base, cka_batch

PACKAGES = ("torch", "ckatorch")
# As everywhere in this comparison.
BATCH = 256


def load(x):
    return torch.from_numpy(x)


def minibatch(x, y):
    whole = len(x) // BATCH * BATCH or len(x)
    size = min(BATCH, len(x))
    return cka_batch(*(z[:whole].reshape(-1, size, z.shape[1]) for z in (x, y)))


MEASURES = {
    "cka_biased": lambda x, y: cka_base(x, y),
    "cka_biased by hsic": lambda x, y: cka_base(x, y, method="hsic"),
    "cka": lambda x, y: cka_base(x, y, unbiased=True),
    "cka_rbf": lambda x, y: cka_base(x, y, kernel="rbf"),
    "cka_minibatch": minibatch,
}
