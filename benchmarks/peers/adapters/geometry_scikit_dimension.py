"""scikit-dimension: intrinsic dimension by TwoNN and maximum likelihood."""

import skdim

PACKAGES = ("scikit-dimension",)
MEASURES = {}
DESCRIPTORS = {
    "twonn": lambda x: skdim.id.TwoNN().fit(x).dimension_,
    "mle": lambda x: skdim.id.MLE().fit(x).dimension_,
}
