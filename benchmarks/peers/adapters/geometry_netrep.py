"""netrep: angular distances, so their cosines; its LinearCKA is an arc cosine too."""

import numpy as np
from netrep.metrics import LinearCKA, LinearMetric

PACKAGES = ("netrep", "scikit-learn")


def cka_biased(x, y):
    return np.cos(LinearCKA().score(x, y))


def procrustes(x, y):
    metric = LinearMetric(alpha=1.0, center_columns=True, score_method="angular")
    return np.cos(metric.fit(x, y).score(x, y))


MEASURES = {"cka_biased": cka_biased, "procrustes": procrustes}
