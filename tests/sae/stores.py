"""Small stores for the tests of training and evaluation."""

import torch

from interp.store import ActivationStore, write_store


def make_store(out, *, n=20, calls=2, positions=8, d=6, seed=0, first=0, **columns):
    """Rows mix three of twelve atoms; image i belongs to cluster i // 2."""
    g = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(12, d, generator=g), dim=1)
    chosen = torch.randint(12, (n * calls * positions, 3), generator=g)
    mixture = torch.zeros(len(chosen), 12).scatter_(1, chosen, 1.0)
    x = (mixture @ atoms + 2).reshape(n, calls, positions, d)
    generations = {
        "image_id": [f"image{i + first}" for i in range(n)],
        "cluster": [f"cluster{(i + first) // 2}" for i in range(n)],
        **columns,
    }
    store: ActivationStore = write_store(
        out,
        {"mid": x},
        generations=generations,
        t=tuple(900.0 - 400 * i for i in range(calls)),
        log_snr=tuple(float(i) for i in range(calls)),
        model={"spec": "test", "weights_sha256": "ab" * 32},
        shard_size=8,
    )
    return store


def make_pair(out, *, n=20, calls=2, positions=8, seed=0, prefix="", **settings):
    """Two points: "early" [6] mixes atoms, "late" [4] is a linear map of it and four kinks."""
    g = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(12, 6, generator=g), dim=1)
    chosen = torch.randint(12, (n * calls * positions, 3), generator=g)
    mixture = torch.zeros(len(chosen), 12).scatter_(1, chosen, 1.0)
    x = mixture @ atoms + 2
    y = 3 * (x - 2) @ torch.randn(6, 4, generator=g) + 5 + mixture[:, :4]
    shape = (n, calls, positions, -1)
    return write_store(
        out,
        {"early": x.reshape(shape), "late": y.reshape(shape)},
        generations={
            "image_id": [f"{prefix}image{i}" for i in range(n)],
            "cluster": [f"cluster{i // 2}" for i in range(n)],
        },
        t=tuple(900.0 - 400 * i for i in range(calls)),
        log_snr=tuple(float(i) for i in range(calls)),
        model={"spec": "test", "weights_sha256": "ab" * 32},
        **{"shard_size": 8, **settings},
    )
