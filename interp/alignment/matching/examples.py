"""Both latents of a matched pair on the same held-out images: values and maps for a page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from interp.alignment.matching.latents import Latents
from interp.alignment.matching.records import MatchExamples
from interp.features.maps import places, pooling
from interp.features.scan import active_entries

# Larger maps are max-pooled: what a thumbnail can show.
SIDE = 16
# Bytes of a map: activation / largest, and "no row was captured" (as on the feature pages).
LEVELS, MISSING = 254, 255
_ROWS_AT_ONCE = 8192


def make_examples(
    pair: tuple[Latents, Latents],
    columns: Mapping[str, Sequence[Any]],
    held_out: np.ndarray,
    shown: tuple[int, int],
) -> tuple[MatchExamples, ...]:
    """The first pairs, each on the images where either latent is largest.

    Args:
        pair: both sides, lined up.
        columns: `latent_first` and `latent_second` of the pairs, strongest first.
        held_out: numbers of the images to choose from.
        shown: number of pairs, and of images of each: half are the first latent's.
    """
    n_pairs, n_images = shown
    if not n_pairs or not n_images:
        return ()
    latents = [list(columns[f"latent_{end}"][:n_pairs]) for end in ("first", "second")]
    values = [_image_values(one, ids) for one, ids in zip(pair, latents, strict=True)]
    images = [
        _choose(values[0][held_out, k], values[1][held_out, k], n_images)
        for k in range(len(latents[0]))
    ]
    images = [held_out[chosen] for chosen in images]
    maps = [_maps(one, ids, images) for one, ids in zip(pair, latents, strict=True)]
    return tuple(
        MatchExamples(
            latent_first=latents[0][k],
            latent_second=latents[1][k],
            ids=tuple(pair[0].ids[i] for i in chosen),
            value_first=tuple(values[0][chosen, k].tolist()),
            value_second=tuple(values[1][chosen, k].tolist()),
            map_first=maps[0].maps[k],
            map_second=maps[1].maps[k],
            shape_first=maps[0].shape,
            shape_second=maps[1].shape,
        )
        for k, chosen in enumerate(images)
    )


def _image_values(one: Latents, latents: Sequence[int]) -> np.ndarray:
    """[n, q] activation of each image, the mean over positions."""
    x = one.x[:, latents].toarray()
    return x.reshape(len(one.ids), one.positions, -1).mean(1)


def _choose(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    """Up to n images on which a latent is active: the first's largest, then the second's."""
    chosen: list[int] = []
    for values, upto in ((first, n - n // 2), (second, n), (first, n)):
        for image in np.argsort(-values, kind="stable").tolist():
            if len(chosen) < upto and values[image] > 0 and image not in chosen:
                chosen.append(image)
    return np.array(chosen, dtype=np.int64)


class _Maps(NamedTuple):
    maps: list[tuple[tuple[int, ...], ...]]
    """Per pair and image, the bytes of the map."""
    shape: tuple[int, ...]


def _maps(one: Latents, latents: Sequence[int], images: Sequence[np.ndarray]) -> _Maps:
    """Maps of each pair's latent on its images, each in units of its largest there."""
    if one.origin is None or len(one.grid) < 2:
        return _Maps([() for _ in images], ())
    wanted = np.unique(np.concatenate(images))
    dense = _read_maps(one, wanted, np.array(latents))
    factor = pooling(dense.shape[1], dense.shape[2], dense.shape[0] * dense.shape[3], SIDE)
    out = []
    for k, chosen in enumerate(images):
        maps = dense[np.searchsorted(wanted, chosen), :, :, k]
        for axis in (1, 2):
            starts = np.arange(0, maps.shape[axis], factor)
            maps = np.fmax.reduceat(maps, starts, axis=axis)
        most = np.nanmax(maps, initial=0) or 1.0
        levels = np.where(np.isnan(maps), MISSING, np.rint(LEVELS * maps / most))
        out.append(tuple(tuple(line.ravel().astype(int).tolist()) for line in levels))
    return _Maps(out, tuple(-(-side // factor) for side in dense.shape[1:3]))


def _read_maps(one: Latents, images: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """[i, h, w, q] mean activation at each position over calls and draws; NaN: not captured."""
    assert one.origin is not None
    sae, store, mask = one.origin
    where = places(store, one.point)
    table = store.generations
    place = {one.ids[image]: k for k, image in enumerate(images)}
    of_generation = np.array([place.get(str(name), -1) for name in table["image_id"]])
    generation = store.coords(one.point, columns=["generation"])["generation"]
    image = of_generation[np.searchsorted(table["generation"], generation)]
    rows = np.flatnonzero(mask & (image >= 0) & (where.y >= 0))
    cell = (image * where.height + where.y) * where.width + where.x
    size = len(images) * where.height * where.width
    total, column = np.zeros((size, len(latents))), np.full(sae.n_latents, -1)
    # A latent may stand in several pairs: its first column is filled, the others copied.
    known, back = np.unique(latents, return_inverse=True)
    column[known] = np.arange(len(known))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        with torch.no_grad():
            local, latent, value = active_entries(sae.encode(store.rows(one.point, part).float()))
        mine = column[latent] >= 0
        np.add.at(total, (cell[part[local[mine]]], column[latent[mine]]), value[mine])
    count = np.bincount(cell[rows], minlength=size)[:, None]
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return mean[:, back].reshape(len(images), where.height, where.width, len(latents))
