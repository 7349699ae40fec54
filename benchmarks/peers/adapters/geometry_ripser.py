"""ripser: barcodes of a distance matrix."""

import numpy as np
from ripser import ripser

PACKAGES = ("ripser",)


def longest_loop(x):
    born, died = ripser(np.asarray(x), maxdim=1)["dgms"][1].T
    return float(np.max(died - born, initial=0.0))


MEASURES = {}
DESCRIPTORS = {"longest_loop": longest_loop}
