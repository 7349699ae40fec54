"""The data of one SAE's features: a table for lists and maps, and shards of 64 features each."""

from pathlib import Path
from typing import Any

import numpy as np

from interp.dashboards.encode import array_record, write_data
from interp.dashboards.schema import has_maps

SHARD_SIZE = 64
# Thumbnails a row of the feature table shows; also what the text search looks at.
N_PREVIEW = 8
# A latent that fires on more than a tenth of all rows says little about any one of them.
DENSE = 0.1
# Byte levels of a map: 0..254 is activation / largest activation, 255 is "no row was captured".
LEVELS = 254
MISSING = 255


def write_features(features: Any, index: int, data: Path) -> int:
    """Write `data/sae<index>/table.js` and its shards; return the number of shards."""
    m = len(features.density)
    write_data(data, f"sae{index}/table", table_record(features))
    starts = range(0, m, SHARD_SIZE)
    for number, start in enumerate(starts):
        rows = slice(start, min(start + SHARD_SIZE, m))
        write_data(data, f"sae{index}/shard{number:05d}", shard_record(features, rows))
    return len(starts)


def table_record(features: Any) -> dict[str, Any]:
    """Return the columns of the feature table, one entry per latent."""
    columns: dict[str, np.ndarray] = {
        "density": np.asarray(features.density, np.float32),
        "mean": np.asarray(features.mean_active, np.float32),
        "max": np.asarray(features.maximum, np.float32),
        "dead": np.asarray(features.dead, bool),
        "preview": previews(features),
    }
    if features.categories:
        top, share, entropy = category_summary(np.asarray(features.category_profile))
        columns |= {"category": top, "share": share, "entropy": entropy}
    if np.isfinite(features.umap).any():
        columns["umap"] = np.asarray(features.umap, np.float32)
    return {name: array_record(values) for name, values in columns.items()}


def category_summary(profile: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each latent's top category (-1: none), its share, and the entropy in bits.

    profile: mean activation per category, [m, C], >= 0. With shares q = profile / sum, the entropy
    is -sum q log2 q: 0 where one category has all, log2 C where all have the same.
    """
    profile = np.nan_to_num(np.asarray(profile, np.float64)).clip(min=0)
    total = profile.sum(1)
    share = profile / np.where(total > 0, total, 1)[:, None]
    logs = np.log2(share, where=share > 0, out=np.zeros_like(share))
    top = np.where(total > 0, share.argmax(1), -1)
    entropy = np.where(total > 0, -(share * logs).sum(1), np.nan)
    return top, share.max(1).astype(np.float32), entropy.astype(np.float32)


def previews(features: Any) -> np.ndarray:
    """Return the generations of the top examples, without repeats, int [m, <= 8], -1 where none."""
    generation = np.asarray(features.example_generation)
    usable = (np.asarray(features.example_kind) == 0) & (np.asarray(features.example_row) >= 0)
    m, e = generation.shape
    found = np.full((m, min(N_PREVIEW, e)), -1, np.int64)
    filled = np.zeros(m, np.int64)
    for column in range(e):
        new = usable[:, column] & (filled < found.shape[1])
        new &= (found != generation[:, column, None]).all(1)
        rows = np.flatnonzero(new)
        found[rows, filled[rows]] = generation[rows, column]
        filled[rows] += 1
    return found


def shard_record(features: Any, rows: slice) -> dict[str, Any]:
    """Return everything the feature pages of the latents `rows` show, as array records."""
    record = {
        "row": np.asarray(features.example_row)[rows],
        "kind": np.asarray(features.example_kind)[rows],
        "bin": np.asarray(features.example_bin)[rows],
        "value": np.asarray(features.example_value, np.float32)[rows],
        "generation": np.asarray(features.example_generation)[rows],
        "call": np.asarray(features.example_call)[rows],
        "histogram": np.asarray(features.histogram)[rows],
        "half": np.asarray(features.example_half)[rows],
        "y": np.asarray(features.example_y)[rows],
        "x": np.asarray(features.example_x)[rows],
        "categories": np.asarray(features.category_profile, np.float32)[rows],
        "coactive": np.asarray(features.coactive)[rows],
        "coactive_score": np.asarray(features.coactive_score, np.float32)[rows],
        "calls": np.asarray(features.profile_calls, np.float32)[rows],
        "neighbor": np.asarray(features.neighbors)[rows],
        "cosine": np.asarray(features.neighbor_cosine, np.float32)[rows],
    }
    if has_maps(features):
        values = np.asarray(features.example_value, np.float32)[rows]
        record["maps"], record["scale"] = quantize(np.asarray(features.maps[rows]), values)
    return {name: array_record(values) for name, values in record.items()}


def quantize(maps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return maps as bytes and each latent's scale: activation = byte / 254 * scale.

    maps: activations [r, e, h, w], NaN where no row was captured (byte 255). values: the examples'
    activations [r, e]. All examples of a latent share one scale, so that they can be compared.
    """
    maps = maps.astype(np.float32)
    missing = ~np.isfinite(maps)
    filled = np.where(missing, 0, maps)
    largest = np.nan_to_num(values).max(1, initial=0)
    scale = np.maximum(filled.max(axis=(1, 2, 3), initial=0), largest)
    unit = np.clip(filled / np.where(scale > 0, scale, 1)[:, None, None, None], 0, 1)
    levels = np.rint(unit * LEVELS).astype(np.uint8)
    return np.where(missing, np.uint8(MISSING), levels), scale.astype(np.float32)


def highlights(features: Any) -> list[dict[str, Any]]:
    """Return six latents for the first page: id, top category, its share, density, top generations.

    The rule is fixed, so that nobody picks: among living latents that fire on at most a tenth of
    the rows and at least as often as the median one, the lowest category entropy (without
    categories: the largest maximum); one per category as long as that lasts; ties by lower id.
    """
    density, dead = np.asarray(features.density, np.float64), np.asarray(features.dead, bool)
    alive = ~dead & (density <= DENSE)
    shown = previews(features)
    alive &= (shown >= 0).any(1)
    if not alive.any():
        return []
    alive &= density >= np.median(density[alive])
    top, share = np.full(len(density), -1), np.zeros(len(density))
    order = -np.asarray(features.maximum, np.float64)
    if features.categories:
        top, share, order = category_summary(np.asarray(features.category_profile))
    ranked = [i for i in np.argsort(order, kind="stable").tolist() if alive[i]]
    first = {int(top[i]): i for i in reversed(ranked)}.values()
    picked = [i for i in ranked if i in set(first)] + [i for i in ranked if i not in set(first)]
    names = features.categories
    return [
        {
            "id": i,
            "category": str(names[top[i]]) if top[i] >= 0 else "",
            "share": float(share[i]),
            "density": float(density[i]),
            "generations": [int(g) for g in shown[i] if g >= 0][:4],
        }
        for i in picked[:6]
    ]
