"""saev 0.1; see common.py."""

import torch
from common import D, M, main, randomize
from saev import config, nn


def pair(sae):
    return lambda x: sae(x)[1], sae.decode


def theirs():
    sae = randomize(nn.SparseAutoencoder(config.SparseAutoencoder(d_vit=D, exp_factor=M // D)))
    return {"relu.pt": (lambda path: nn.dump(str(path), sae), *pair(sae))}


def load(path):
    return pair(nn.load(str(path)))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(theirs, load)
