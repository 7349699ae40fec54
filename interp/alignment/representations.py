"""Pooled features of a point and call, keyed by image id: from stores, arrays or pixels."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.errors import InputError
from interp.store import ActivationStore

# Side of the common grid to which token features of all layers are averaged.
TOKEN_GRID = (4, 4)
# Side to which reference pixels are averaged: coarser than any captured map, finer than a color.
PIXEL_GRID = 16
# Floats read at a time: 64 MB.
CHUNK = 1 << 24


@dataclass(frozen=True)
class Representation:
    """Features of n images at one point and call of one model.

    Attributes:
        model: label of the model; all its layers, calls and draws share one permutation.
        point: name of the hook point.
        x: [n, d], or [n, p, d] with the same p positions in every layer compared.
        ids: [n] stable image ids, all different.
        clusters: [n] near-duplicate group of each image; empty: each image is its own.
        strata: [n] the group within which an image may be permuted; empty: one group.
        call: call index, or None where the model has one.
        t, log_snr: noise level of the call. depth: 0..1 in the order of execution.
        reference: not a model (pixels): a level to compare with, in no family of tests.
        images: [n] size and hash of each image's pixels ("" where unknown); empty: unknown.
        maker: source of the images where all have one: for samples, the model that made them.
        preprocessing: what was done to the rows.
        leaks: what the model shares with others by its making, as on its card.
        noise: [n] the noise that each image was shown under, all draws; empty: none.
    """

    model: str
    point: str
    x: Float[Tensor, "n ..."]
    ids: tuple[str, ...]
    clusters: tuple[str, ...] = ()
    strata: tuple[str, ...] = ()
    call: int | None = None
    t: float | None = None
    log_snr: float | None = None
    depth: float | None = None
    reference: bool = False
    preprocessing: str = "as given"
    images: tuple[str, ...] = ()
    maker: str = ""
    leaks: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`model/point`, with the call where there are several."""
        return f"{self.model}/{self.point}" + ("" if self.call is None else f"@{self.call}")

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.x.ndim not in (2, 3) or self.x.shape[0] != n:
            raise InputError(
                f"{self.name} has features {tuple(self.x.shape)} for {n} image ids; "
                "[n, d] or [n, positions, d] is needed"
            )
        for what, labels in (
            ("clusters", self.clusters),
            ("strata", self.strata),
            ("image hashes", self.images),
            ("noise draws", self.noise),
        ):
            if labels and len(labels) != n:
                raise InputError(f"{self.name} has {len(labels)} {what} for {n} image ids")
        if len(set(self.ids)) < n:
            twice = sorted({one for one in self.ids if self.ids.count(one) > 1})
            raise InputError(
                f"{self.name} has {len(twice)} image ids more than once: {some_ids(twice)}"
            )


def some_ids(ids: Sequence[str]) -> str:
    """The first five of some image ids."""
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")


class Generations(NamedTuple):
    """What the generations table of a store says of its images."""

    image: np.ndarray  # [g] which image each generation shows
    first: np.ndarray  # [n] a generation that shows each image
    known: np.ndarray  # [g] generation numbers, sorted
    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    strata: tuple[str, ...]
    draws: int
    images: tuple[str, ...]
    maker: str
    noise: tuple[str, ...]

    @property
    def labels(self) -> dict[str, Any]:
        """What every representation of the store says of its images."""
        names = ("ids", "clusters", "strata", "images", "maker")
        return {name: getattr(self, name) for name in names}


def load_representations(
    store: ActivationStore,
    points: Sequence[str] = ("*",),
    *,
    model: str,
    calls: Sequence[int] | None = None,
    pooling: str = "mean",
    strata: str = "source",
    half: str = "cond",
) -> list[Representation]:
    """Read points of a store as one Representation per (point, call), noise draws averaged.

    Args:
        store: an encoding or generation capture.
        points: names or globs; every one must match something.
        model: label; the untrained twin and other stores of the model take the same one.
        calls: call indices (noise levels of an encoding, steps of a generation); None: all.
        pooling: "mean" over positions: x [n, d]; "tokens": positions averaged to a common 4 x 4
            grid, the mean over images of each position taken off (U-Net tokens encode where they
            are): x [n, 16, d].
        strata: column of `store.generations` within which images may be permuted; "" for none.
        half: guidance half to read where both were captured, "cond" or "uncond".

    Raises:
        InputError: nothing matches, the same image and draw twice, a call or position that was not
            captured, an unknown pooling.
    """
    if pooling not in ("mean", "tokens") or half not in ("cond", "uncond"):
        raise InputError(f"pooling {pooling!r} is mean or tokens, half {half!r} is cond or uncond")
    table = read_generations(store, strata)
    out: list[Representation] = []
    for point in match_points(store, points):
        out += _load_point(store, point, table, model, calls, pooling, half)
    return out


def match_points(store: ActivationStore, patterns: Sequence[str]) -> list[str]:
    """Points of a store that match names or globs, in order of execution.

    Raises InputError for a pattern that matches nothing.
    """
    wanted: set[str] = set()
    for pattern in patterns:
        found = {p for p in store.points if p == pattern or fnmatch.fnmatchcase(p, pattern)}
        if not found:
            raise InputError(
                f"no point of {store.path} matches {pattern!r}: {some_ids([*store.points])}"
            )
        wanted |= found
    return [p for p in store.points if p in wanted]


def read_generations(store: ActivationStore, strata: str) -> Generations:
    """Ids, clusters and strata of a store's images, and which image each generation shows."""
    table = store.generations
    if strata and strata not in table:
        raise InputError(f"no column {strata!r} to permute within; there are {sorted(table)}")
    seen = list(zip(table["image_id"], table["draw"].tolist(), strict=True))
    if len(set(seen)) < len(seen):
        twice = sorted({str(one) for one, _ in seen if seen.count((one, _)) > 1})
        raise InputError(f"{store.path} has {len(twice)} images more than once: {some_ids(twice)}")
    ids, first, image = np.unique(
        table["image_id"].astype(str), return_index=True, return_inverse=True
    )
    # A cluster column left empty means that nobody looked for duplicates: one cluster per image.
    clusters = [str(c) or str(i) for c, i in zip(table["cluster"][first], ids, strict=True)]
    # Images that a model made name it as their source.
    makers = set(table["source"][first].astype(str).tolist())
    groups = table[strata][first].astype(str) if strata else np.full(len(ids), "")
    return Generations(
        image,
        first,
        table["generation"],
        tuple(ids.tolist()),
        tuple(clusters),
        tuple(groups.tolist()),
        int(table["draw"].max()) + 1,
        tuple(table["image_hash"][first].astype(str).tolist()),
        makers.pop() if len(makers) == 1 else "",
        _noise(store, image, len(ids)),
    )


def _noise(store: ActivationStore, image: np.ndarray, n: int) -> tuple[str, ...]:
    """The seeds of each image's noise draws, in order of draws; empty where it was shown none."""
    table = store.generations
    if store.recipe.get("kind") != "encoding" or bool((table["seed"] < 0).any()):
        return ()
    seeds: list[list[str]] = [[] for _ in range(n)]
    for g in np.lexsort((table["draw"], image)):
        seeds[image[g]].append(str(table["seed"][g]))
    return tuple(map(" ".join, seeds))


def known_leaks(store: ActivationStore) -> tuple[str, ...]:
    """What a captured model shares with others by its making: its card's leaks, and itself.

    An untrained one shares nothing.
    """
    model = store.model
    if model.get("untrained"):
        return ()
    spec = str(model.get("spec", ""))
    # An object passed by hand has a class for a name: two of them are not one network.
    own = (f"network: {spec}",) if spec and not spec.startswith("object:") else ()
    return tuple(dict.fromkeys((*map(str, model.get("leaks", ())), *own)))


def _load_point(store, point, table, model, calls, pooling, half) -> list[Representation]:
    coords = store.coords(point, columns=["generation", "call", "t", "log_snr", "cfg_half"])
    keep = ~_leading(store, point)
    halves = set(np.unique(coords["cfg_half"]).tolist())
    if {0, 1} <= halves:
        keep = coords["cfg_half"] == (1 if half == "cond" else 0)
    present = np.unique(coords["call"][keep]).tolist()
    wanted = present if calls is None else list(calls)
    if missing := sorted(set(wanted) - set(present)):
        raise InputError(f"{point} of {store.path} has calls {present}, not {missing}")
    cells = 1 if pooling == "mean" else TOKEN_GRID[0] * TOKEN_GRID[1]
    image = table.image[np.searchsorted(table.known, coords["generation"])]
    which = np.searchsorted(present, coords["call"])
    key = (which * len(table.ids) + image) * cells
    if pooling == "tokens":
        place, inside = _token_cells(store, point)
        key, keep = key + place, keep & inside
    means = _means(store, point, key, keep, len(present) * len(table.ids) * cells)
    means = means.view(len(present), len(table.ids), cells, -1)
    several = len(present) > 1
    out = []
    for call in wanted:
        x = means[present.index(call)]
        row = int(np.flatnonzero(keep & (coords["call"] == call))[0])
        out.append(
            Representation(
                model=model,
                point=point,
                x=(x[:, 0] if pooling == "mean" else x - x.mean(0)).float(),
                **table.labels,
                call=call if several else None,
                t=_number(coords["t"][row]),
                log_snr=_number(coords["log_snr"][row]),
                depth=store.points[point].depth,
                preprocessing=describe_pooling(pooling, table.draws),
                leaks=known_leaks(store),
                noise=table.noise,
            )
        )
    return out


def _leading(store: ActivationStore, point: str) -> np.ndarray:
    """Rows of tokens that begin every text (BOS), where a store kept each token."""
    token = store.coords(point, columns=["token"])["token"]
    lead = store.model.get("lead_tokens", 0)
    text = store.points[point].stream == "text"
    return (token >= 0) & (token < (lead if text else 0))


def describe_pooling(pooling: str, draws: int) -> str:
    """The preprocessing as a sentence: part of the identity of a result."""
    how = {
        "mean": "mean over positions",
        "tokens": f"positions averaged to {TOKEN_GRID[0]} x {TOKEN_GRID[1]}, mean of each removed",
    }[pooling]
    return how + (f", mean over {draws} noise draws" if draws > 1 else "")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _means(store, point: str, key: np.ndarray, keep: np.ndarray, size: int) -> Tensor:
    width = store.points[point].width
    sums = torch.zeros(size, width, dtype=torch.float64)
    for ids, rows in store.chunks(point, max(1, CHUNK // width)):
        use = torch.from_numpy(keep[ids])
        sums.index_add_(0, torch.from_numpy(key[ids])[use], rows[use].double())
    counts = torch.from_numpy(np.bincount(key[keep], minlength=size))
    if bool((counts == 0).any()):
        raise InputError(
            f"{point} of {store.path} lacks {int((counts == 0).sum())} of {size} (call, image, "
            "position) cells: every image needs every call; tokens need every position captured "
            '(Rows(positions="all"))'
        )
    return sums / counts[:, None]


def _token_cells(store: ActivationStore, point: str) -> tuple[np.ndarray, np.ndarray]:
    """Cell of the common grid for each row, and which rows lie in it (a class token does not)."""
    grid = store.points[point].grid
    coords = store.coords(point, columns=["y", "x", "frame", "token"])
    y, x, token = coords["y"], coords["x"], coords["token"]
    if len(grid) == 1:
        side = int(np.sqrt(grid[0]))
        # A leading class token has no position.
        extra = grid[0] - side * side
        if extra > 1:
            raise InputError(f"{point} has {grid[0]} tokens: neither a square nor one more")
        y, x, grid = (token - extra) // side, (token - extra) % side, (side, side)
    inside = (y >= 0) & (x >= 0)
    if len(grid) < 2 or min(grid[-2:]) < max(TOKEN_GRID) or not inside.any():
        raise InputError(
            f"{point} has grid {grid} and {int(inside.sum())} rows with a position; tokens need a "
            f'map of at least {TOKEN_GRID[0]} x {TOKEN_GRID[1]}: leave it out, or pooling="mean"'
        )
    rows, columns = TOKEN_GRID
    cell = (y * rows // grid[-2]) * columns + x * columns // grid[-1]
    return np.where(inside, cell, 0), inside


def pixel_representation(
    store: ActivationStore, *, pooling: str = "mean", strata: str = "source"
) -> Representation:
    """The images of a store as a reference level: RGB averaged to 16 x 16, in 0..1.

    pooling: "mean": x [n, 768]; "tokens": x [n, 16, 48], the pixels of each cell of the 4 x 4 grid,
    each one's mean over images removed.
    Raises StoreError when the store has no images.
    """
    images, labels = store_images(store, strata)
    x = torch.nn.functional.interpolate(
        images.float() / 255, size=(PIXEL_GRID, PIXEL_GRID), mode="area"
    )
    how = f"RGB pixels averaged to {PIXEL_GRID} x {PIXEL_GRID}"
    if pooling == "tokens":
        rows, columns = TOKEN_GRID
        x = x.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 1, 3, 5)
        x, how = x.flatten(3).flatten(1, 2), f"{how}, mean of each position removed"
        x = x - x.mean(0)
    else:
        x = x.flatten(1)
    more: dict[str, Any] = {**labels, "reference": True, "preprocessing": how}
    return Representation("pixels", "rgb", x, **more)


def store_images(
    store: ActivationStore, strata: str
) -> tuple[UInt8[Tensor, "n 3 h w"], dict[str, Any]]:
    """Each image of a store once, and the labels of a Representation of them.

    Raises StoreError when the store has no images.
    """
    table = read_generations(store, strata)
    return store.images(table.known[table.first]).permute(0, 3, 1, 2), table.labels
