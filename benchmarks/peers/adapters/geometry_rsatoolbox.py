"""rsatoolbox: RDMs of each layer once, then every pair of them."""

import numpy as np
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import calc_rdm, compare, concat

PACKAGES = ("rsatoolbox",)


def grid(kind, how):
    def whole(xs, ys):
        first, second = (concat([calc_rdm(Dataset(x), method=kind) for x in z]) for z in (xs, ys))
        return np.asarray(compare(first, second, method=how))

    return whole


GRIDS = {
    "rsa_squared_pearson": grid("euclidean", "corr"),
    "rsa_spearman": grid("euclidean", "spearman"),
    "rsa_correlation_pearson": grid("correlation", "corr"),
    "rsa_correlation_spearman": grid("correlation", "spearman"),
    "cka_biased": grid("euclidean", "cosine_cov"),
}
MEASURES = {}
