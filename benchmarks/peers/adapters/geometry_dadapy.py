"""DADApy: intrinsic dimension by 2NN and Gride."""

import numpy as np
from dadapy import Data

PACKAGES = ("dadapy",)


def twonn(x):
    data = Data(np.asarray(x, dtype=float))
    return data.compute_id_2NN(fraction=0.9)[0]


def gride(x):
    data = Data(np.asarray(x, dtype=float))
    return data.return_id_scaling_gride(range_max=4)[0][1]


MEASURES = {}
DESCRIPTORS = {"twonn": twonn, "gride": gride}
