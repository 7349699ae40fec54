"""Runs inside another library's environment: its files and numbers for the tests.

    PYTHON common's neighbor.py FOLDER

FOLDER/theirs gets SAEs that the library made and saved, each with `NAME.npz`: rows x, its code and
its reconstruction. For every SAE in FOLDER/ours, which we wrote, the library's own loader reads
it, and `NAME.npz` gets its code and reconstruction of FOLDER/x.npy.
"""

import sys
from pathlib import Path

import numpy as np
import torch

D, M, K = 6, 24, 3


def randomize(module, scale=0.5, seed=0):
    """Every parameter gets numbers of its own: no bias, gain or threshold stays trivial."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(scale * torch.randn(value.shape, generator=g))
    return module


def positive(m, seed=1):
    """Thresholds between 0.1 and 1.1."""
    return 0.1 + torch.rand(m, generator=torch.Generator().manual_seed(seed))


def main(theirs, load):
    """Do what the module says.

    Args:
        theirs: () -> name -> (save(path), encode, decode), and perhaps forward.
        load: path -> (encode, decode), and perhaps forward.
    """
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    x = torch.from_numpy(np.load(folder / "x.npy"))
    with torch.no_grad():
        for name, (save, *functions) in theirs().items():
            save(folder / "theirs" / name)
            _record(folder / "theirs" / f"{name}.npz", x, *functions)
        for place in sorted((folder / "ours").iterdir()):
            if place.suffix != ".npz":
                _record(folder / "ours" / f"{place.name}.npz", x, *load(place))


def _record(path, x, encode, decode, forward=None):
    code = encode(x)
    x_hat = decode(code) if forward is None else forward(x)
    np.savez(path, code=code.numpy(), x_hat=x_hat.numpy())
