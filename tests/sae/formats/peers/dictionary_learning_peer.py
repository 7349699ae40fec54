"""dictionary_learning; see common.py."""

import json

import torch
from common import D, K, M, main, positive, randomize
from dictionary_learning.dictionary import (
    AutoEncoder,
    AutoEncoderNew,
    GatedAutoEncoder,
    JumpReluAutoEncoder,
)
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary


def made(sae, k=None, norm=None):
    """As its trainer saves: the norm of the activations goes into biases and threshold."""
    randomize(sae)
    threshold = getattr(sae, "threshold", None)
    if threshold is not None:
        threshold.data.copy_(positive(M) if threshold.ndim else torch.tensor(0.7))
    if norm:
        sae.scale_biases(norm)

    def save(path):
        path.mkdir(parents=True)
        torch.save({key: value.cpu() for key, value in sae.state_dict().items()}, path / "ae.pt")
        trainer = {"dict_class": type(sae).__name__, "activation_dim": D, "dict_size": M}
        trainer |= {"k": k} if k else {}
        (path / "config.json").write_text(json.dumps({"trainer": trainer}))

    def coded(x):
        # What its loader gives: AutoEncoder with rows of norm 1.
        if isinstance(sae, AutoEncoder):
            sae.normalize_decoder()
        return sae.encode(x)

    return save, coded, sae.decode


def theirs():
    groups = [4, 8, 12]
    return {
        "relu": made(AutoEncoder(D, M)),
        "relu new": made(AutoEncoderNew(D, M)),
        "gated": made(GatedAutoEncoder(D, M), norm=3.0),
        "jumprelu": made(JumpReluAutoEncoder(D, M), norm=3.0),
        "topk": made(AutoEncoderTopK(D, M, K), K, norm=3.0),
        "batchtopk": made(BatchTopKSAE(D, M, K), K, norm=3.0),
        "matryoshka": made(MatryoshkaBatchTopKSAE(D, M, K, groups), K, norm=3.0),
        "batchtopk before its threshold": untrained(BatchTopKSAE(D, M, K)),
    }


def untrained(sae):
    save, encode, decode = made(sae, K)
    sae.threshold.fill_(-1.0)
    return save, encode, decode


def load(path):
    # Its MatryoshkaBatchTopKSAE zeroes nothing beyond its active groups: all of them.
    sae, _ = load_dictionary(str(path), device="cpu")
    return sae.encode, sae.decode


if __name__ == "__main__":
    main(theirs, load)
