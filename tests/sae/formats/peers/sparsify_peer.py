"""sparsify; see common.py."""

import torch
from common import D, K, M, main, randomize
from sparsify import SparseCoder, SparseCoderConfig


def dense(sae):
    def encode(x):
        values, indices, _ = sae.encode(x)
        return torch.zeros(len(x), sae.num_latents).scatter(1, indices, values)

    def decode(code):
        values, indices = code.topk(sae.cfg.k, dim=1)
        return sae.decode(values, indices)

    # Its decode leaves the skip to forward; forward of a multi top-k SAE decodes 4 k latents.
    return (encode, decode) if sae.W_skip is None else (encode, decode, lambda x: sae(x).sae_out)


def made(**options):
    sae = randomize(SparseCoder(D, SparseCoderConfig(num_latents=M, k=K, **options)))
    return (sae.save_to_disk, *dense(sae))


def theirs():
    return {
        "topk": made(),
        "multi topk": made(multi_topk=True),
        "groupmax": made(activation="groupmax"),
        "transcoder": made(transcode=True),
        "skip transcoder": made(transcode=True, skip_connection=True),
        "skip autoencoder": made(skip_connection=True),
    }


def load(path):
    return dense(SparseCoder.load_from_disk(path))


if __name__ == "__main__":
    main(theirs, load)
