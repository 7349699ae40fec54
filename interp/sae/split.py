"""Which rows may train and which may judge: whole clusters of images on one side only."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from interp.errors import SAEError

Generations = Mapping[str, np.ndarray | Sequence]


def unit_hash(kind: str, name: str) -> int:
    """Signed 64-bit hash of an image id or cluster; 2^20 names collide with probability 3e-8."""
    digest = hashlib.blake2b(f"{kind}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def generation_units(generations: Generations) -> np.ndarray:
    """Hashes of image, cluster and pixels of each generation: [g, 3] int64.

    Samples of one seed are one cluster, whatever else their model was given. Exact copies under
    other ids share their pixels; an image that the store does not hold stands for its own.
    """
    images = [str(name) for name in generations["image_id"]]
    clusters = [
        str(name) or image for name, image in zip(generations["cluster"], images, strict=True)
    ]
    pixels = generations["image_hash"] if "image_hash" in generations else [""] * len(images)
    units = [
        (
            unit_hash("image", image),
            unit_hash("cluster", cluster),
            unit_hash("pixels", str(pixel)) if pixel else unit_hash("image", image),
        )
        for image, cluster, pixel in zip(images, clusters, pixels, strict=True)
    ]
    return np.array(units, dtype=np.int64).reshape(len(images), 3)


def training_generations(generations: Generations, held_out: float, seed: int) -> np.ndarray:
    """Choose the generations that may train: [g] bool.

    Where the store's `split` column names "train" beside something else, that is the choice.
    Otherwise the share `held_out` of the clusters with the smallest hash of (seed, cluster) is kept
    from training, which does not depend on the order or the number of other clusters' images.

    Raises:
        SAEError: `held_out` is positive but there is one cluster only.
    """
    train = np.array([str(name) == "train" for name in generations["split"]], dtype=bool)
    if train.any() and not train.all():
        return train
    if held_out == 0:
        return np.ones(len(train), dtype=bool)
    clusters = generation_units(generations)[:, 1]
    names = np.unique(clusters)
    if len(names) < 2:
        raise SAEError(
            f"{len(train)} generations form {len(names)} cluster(s): nothing can be held out; "
            "capture more images or set held_out = 0"
        )
    order = np.argsort([unit_hash(f"split {seed}", str(name)) for name in names])
    n_held = min(max(1, round(held_out * len(names))), len(names) - 1)
    return np.isin(clusters, names[order[n_held:]])


def units_of(generations: Generations, chosen: np.ndarray) -> Tensor:
    """Sorted hashes [u] int64: image, cluster and pixels of the chosen generations ([g] bool)."""
    return torch.from_numpy(np.unique(generation_units(generations)[chosen]))


def seen_generations(generations: Generations, trained_units: Tensor) -> np.ndarray:
    """Generations whose image, cluster or pixels are among the trained units: [g] bool."""
    seen = np.isin(generation_units(generations), trained_units.numpy())
    return np.asarray(seen.any(axis=1))
