"""Matched features of two layers of the synthetic alignment, with maps of known content."""

import dataclasses

import numpy as np

from interp.alignment.matching import FeatureMatches, as_latents, match_features

FIRST = ("zoo:ddpm", "down_blocks.0.resnets.2")
SECOND = ("zoo:vit", "blocks.3")
# Their places in `alignment(n_blocks=4)`: the first noise level of two, and the block.
CELL, SAME_POINT = (2, 15), (6, 15)
N_PAIRS, N_IMAGES = 8, 6


def matches(store, *, sae: str = "sae000000000", n: int = 64) -> FeatureMatches:
    """Latent i of the first SAE is latent i + 3 of the second; images are those of a store."""
    rng = np.random.default_rng(0)
    ids = tuple(store.generations["image_id"][:n])
    codes = (rng.random((n, 12)) < 0.5) * rng.exponential(1, (n, 12))
    other = np.concatenate([rng.exponential(1, (n, 3)), 2 * codes[:, :9]], axis=1)
    more = {"store": store.hash, "clusters": ids}
    found = match_features(
        as_latents(FIRST[0], codes, ids, point=FIRST[1], sae=sae, **more),
        as_latents(SECOND[0], other, ids, point=SECOND[1], **more),
        n_folds=10,
        shown=(N_PAIRS, N_IMAGES),
    )
    spot = np.full((8, 8), 255)
    spot[2:6, 2:6] = 254
    examples = tuple(
        dataclasses.replace(
            one,
            map_first=tuple(tuple(spot.ravel().tolist()) for _ in one.ids),
            shape_first=(8, 8),
        )
        for one in found.examples
    )
    return dataclasses.replace(found, examples=examples)
