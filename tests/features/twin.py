"""A readable twin of `describe`: dense codes of all rows at once, plain loops."""

from types import SimpleNamespace

import numpy as np
import torch

from interp.features.kept import Entries, random_key
from interp.sae import SAE
from interp.store import ActivationStore, write_store


def make_store(out, *, n=24, calls=2, grid=(4, 4), d=8, seed=0, categories=3) -> ActivationStore:
    g = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(24, d, generator=g), dim=1)
    n_rows = n * calls * grid[0] * grid[1]
    chosen = torch.randint(24, (n_rows, 3), generator=g)
    strength = torch.rand(n_rows, 3, generator=g) + 0.2
    mixture = torch.zeros(n_rows, 24).scatter_(1, chosen, strength)
    x = (mixture @ atoms + 1).reshape(n, calls, grid[0] * grid[1], d)
    return write_store(
        out,
        {"mid": x},
        generations={
            "image_id": [f"image{i}" for i in range(n)],
            "cluster": [f"cluster{i // 2}" for i in range(n)],
            "category": [f"kind{i % categories}" if i else "" for i in range(n)],
        },
        images=torch.zeros(n, 4, 4, 3, dtype=torch.uint8),
        t=tuple(900.0 - 400 * i for i in range(calls)),
        log_snr=tuple(float(i) for i in range(calls)),
        model={"spec": "test", "weights_sha256": "ab"},
        shard_size=8,
    )


def brute_force(sae: SAE, store: ActivationStore, point: str, *, n_top: int, seed: int):
    with torch.no_grad():
        code = sae.encode(store.rows(point).float()).dense().numpy()
    coords = store.coords(point)
    n, m = code.shape
    active = code > 0
    fired = active.sum(0)
    category = np.asarray(store.generations["category"], dtype=object)[coords["generation"]]
    categories = sorted(set(category) - {""})
    together = active.astype(int).T @ active.astype(int)
    np.fill_diagonal(together, 0)
    either = fired[:, None] + fired - together
    return SimpleNamespace(
        code=code,
        density=fired / n,
        mean_active=np.where(fired > 0, code.sum(0) / np.maximum(fired, 1), 0),
        maximum=code.max(0),
        dead=fired == 0,
        profile_calls=np.stack([code[coords["call"] == c].mean(0) for c in (0, 1)], 1),
        category_profile=np.stack([code[category == c].mean(0) for c in categories], 1),
        top=[_top(code[:, j], coords["generation"], n_top) for j in range(m)],
        random=[_random(code[:, j], j, 4, 2 * seed + 1) for j in range(m)],
        jaccard=together / np.maximum(either, 1),
    )


def _top(values: np.ndarray, generation: np.ndarray, n: int) -> list[int]:
    picked: list[int] = []
    for row in sorted(range(len(values)), key=lambda r: (-values[r], r)):
        if values[row] > 0 and generation[row] not in {generation[p] for p in picked}:
            picked.append(row)
    return picked[:n]


def _random(values: np.ndarray, latent: int, n: int, seed: int) -> list[int]:
    rows = np.flatnonzero(values > 0)
    entries = Entries(np.full(len(rows), latent), rows, values[rows], np.zeros(len(rows)))
    return rows[np.argsort(-random_key(entries, seed), kind="stable")][:n].tolist()
