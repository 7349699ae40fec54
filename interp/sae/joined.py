"""Several places read together: rows of one image, call and position, side by side.

A joined row is the concatenation of one row of every site. Transcoders read two sites (from one to
the other), crosscoders any number: layers of a model, calls of a denoiser, models on equal images.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from interp.errors import SAEError
from interp.sae.batches import Moments
from interp.sae.split import training_generations, units_of
from interp.store import ActivationStore
from interp.store.coords import row_ids
from interp.store.files import sha256
from interp.store.reader import ShuffledReader

# Rows that fit here are kept in memory after one sequential pass. 2 GiB is a quarter of a small
# machine, and 800,000 rows of width 1280 in fp16.
MEMORY = 2 << 30
# Mean number of consecutive rows below which reading them from a disk is random reading: 16 rows
# of 1280 fp16 values are 40 kB, ten pages.
RUN = 16
# Rows that the reader mixes, in bytes: 100,000 rows of width 1280 in fp16.
RESERVOIR = 256 << 20
_CHUNK = 8192
_PLACE = ("frame", "y", "x", "token")
_JOINED = "joined"


class Site(NamedTuple):
    """One place: a point of a store, at one call of the denoiser or at all."""

    store: ActivationStore
    point: str
    call: int | None = None
    """None: every call, each matched with the same call of the other sites."""

    @property
    def name(self) -> str:
        """The point, with its call where it has one."""
        return self.point if self.call is None else f"{self.point} at call {self.call}"


class _Side(NamedTuple):
    """A site's rows that belong to it, in order."""

    ids: np.ndarray
    """[r] row ids of the point."""
    columns: dict[str, np.ndarray]


def join(sites: Sequence[Site | tuple], *, partial: bool = False, memory: int = MEMORY) -> "Joined":
    """Match the rows of several sites.

    Rows belong together when they agree in image (the generation within one store; image id and
    noise draw between stores), guidance half, position, and call, unless the sites name calls.

    Args:
        sites: two or more `Site`s, or (store, point) or (store, point, call) tuples.
        partial: keep the rows that all sites have; otherwise a row without partners is an error.
        memory: bytes up to which all rows are kept in memory. Beyond, they are read in blocks, and
            sites whose rows lie in different orders are an error.

    Returns:
        The matched rows, a source for `train`.

    Raises:
        SAEError: sites that cannot be matched, with the numbers.
        PointError: a store has no such point.
    """
    given = [site if isinstance(site, Site) else Site(*site) for site in sites]
    if len(given) < 2:
        raise SAEError(f"{len(given)} sites: two or more are joined")
    if len({site.call is None for site in given}) > 1:
        raise SAEError(f"{', '.join(site.name for site in given)}: give every site a call, or none")
    names = [(site.store.path, site.point, site.call) for site in given]
    if len(set(names)) < len(names):
        raise SAEError(f"a site comes twice: {', '.join(site.name for site in given)}")
    sides = [_side(site) for site in given]
    _check_places(given, sides)
    keys = _keys(given, sides)
    return Joined(given, _match(given, sides, keys, partial), memory)


def _side(site: Site) -> _Side:
    columns = site.store.coords(site.point, columns=["generation", "call", "cfg_half", *_PLACE])
    ids = np.arange(len(columns["call"]))
    if site.call is not None:
        ids = np.flatnonzero(columns["call"] == site.call)
        if not len(ids):
            there = np.unique(columns["call"])
            raise SAEError(
                f"{site.point} has no row of call {site.call}; its calls are {there[0]} to "
                f"{there[-1]}"
            )
        columns = {name: values[ids] for name, values in columns.items()}
        columns["call"] = np.zeros_like(columns["call"])
    return _Side(ids, columns)


def _check_places(sites: Sequence[Site], sides: Sequence[_Side]) -> None:
    """Positions mean the same everywhere: equal grids, or one row per image."""
    whole = [all((side.columns[name] < 0).all() for name in _PLACE) for side in sides]
    grids = [site.store.points[site.point].grid for site in sites]
    if all(whole) or (not any(whole) and len(set(grids)) == 1):
        return
    shown = ", ".join(
        f"{site.name} {'one row per image' if one else f'grid {grid}'}"
        for site, grid, one in zip(sites, grids, whole, strict=True)
    )
    raise SAEError(
        f"positions do not correspond: {shown}; take points of one grid, or capture with "
        'Rows(positions="mean")'
    )


def _units(sites: Sequence[Site], sides: Sequence[_Side]) -> list[np.ndarray]:
    """Number of the image of each row, the same in all sites."""
    if len({site.store.path for site in sites}) == 1:
        return [side.columns["generation"].astype(np.int64) for side in sides]
    known: dict[tuple[str, int], int] = {}
    found = []
    for site, side in zip(sites, sides, strict=True):
        table = site.store.generations
        pairs = zip(map(str, table["image_id"]), table["draw"].tolist(), strict=True)
        numbers = np.array([known.setdefault(pair, len(known)) for pair in pairs])
        found.append(numbers[np.searchsorted(table["generation"], side.columns["generation"])])
    return found


def _keys(sites: Sequence[Site], sides: Sequence[_Side]) -> list[np.ndarray]:
    """One int64 per row that is equal where rows belong together."""
    units = _units(sites, sides)
    keys = [np.zeros(len(side.ids), dtype=np.int64) for side in sides]
    span = 1
    for name in ("unit", "call", "cfg_half", *_PLACE):
        parts = units if name == "unit" else [side.columns[name] for side in sides]
        # Columns count from -1.
        size = 2 + max(int(part.max(initial=-1)) for part in parts)
        span *= size
        keys = [key * size + part + 1 for key, part in zip(keys, parts, strict=True)]
    if span >= 2**63:
        raise SAEError(f"{span} places of rows are more than 64 bits count")
    return keys


def _match(
    sites: Sequence[Site], sides: Sequence[_Side], keys: Sequence[np.ndarray], partial: bool
) -> np.ndarray:
    """Row ids [s, n] of the rows that all sites have, in the order of the first site."""
    for site, key in zip(sites, keys, strict=True):
        twice = len(key) - len(np.unique(key))
        if twice:
            raise SAEError(
                f"{twice} of {len(key)} rows of {site.name} repeat image, call and position"
            )
    common = keys[0]
    for key in keys[1:]:
        common = common[np.isin(common, key)]
    sizes = ", ".join(f"{site.name} {len(key)}" for site, key in zip(sites, keys, strict=True))
    if not len(common):
        ids = [str(site.store.generations["image_id"][0]) for site in sites]
        raise SAEError(f"no row is in all sites ({sizes} rows; images such as {', '.join(ids)})")
    if not partial and any(len(key) != len(common) for key in keys):
        raise SAEError(
            f"{len(common)} rows are in all sites ({sizes} rows): capture the same images, calls "
            "and positions, or keep the common rows by partial=True"
        )
    found = []
    for side, key in zip(sides, keys, strict=True):
        order = np.argsort(key, kind="stable")
        found.append(side.ids[order[np.searchsorted(key[order], common)]])
    return np.stack(found)


class Joined:
    """Matched rows of several sites; `join` makes it.

    Attributes:
        sites: in the order of the columns.
        ids: [s, n] int64, the row of each site in each joined row.
        widths: width of each site.
        n_rows: n.
    """

    def __init__(self, sites: Sequence[Site], ids: np.ndarray, memory: int) -> None:
        self.sites, self.ids = tuple(sites), ids
        self.n_rows = ids.shape[1]
        self.widths = tuple(site.store.points[site.point].width for site in sites)
        kinds = [site.store.dtype(site.point) for site in sites]
        # The narrowest type that holds every site's values exactly.
        self._dtype = kinds[0] if len(set(kinds)) == 1 else torch.float32
        starts = sites[0].store.starts(sites[0].point)
        self._starts = np.searchsorted(ids[0], starts)
        self._in_memory = self.nbytes <= memory
        self._rows: Tensor | None = None
        if not self._in_memory:
            self._check_order(memory)

    @property
    def nbytes(self) -> int:
        """Size of all rows in memory."""
        return self.n_rows * sum(self.widths) * self._dtype.itemsize

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the sites and of the rows matched."""
        names = [f"{site.store.hash} {site.name}" for site in self.sites]
        return hashlib.sha256("\n".join([*names, sha256(self.ids.data)]).encode()).hexdigest()

    def _check_order(self, memory: int) -> None:
        for site, ids in zip(self.sites, self.ids, strict=True):
            runs = 1 + int((np.diff(ids) != 1).sum())
            if len(ids) < RUN * runs:
                raise SAEError(
                    f"rows of {site.name} lie in runs of {len(ids) / runs:.1f} in the order of "
                    f"{self.sites[0].name}, and all sites take {self.nbytes / 2**30:.2f} GiB, more "
                    f"than memory = {memory / 2**30:.2f} GiB: capture the images in one order, or "
                    "give more memory"
                )

    # What `ShuffledReader` asks of a store, about the one "point" that the joined rows are.

    @property
    def points(self) -> dict[str, Any]:
        """The joined rows as one point: its width."""
        return {_JOINED: SimpleNamespace(width=sum(self.widths))}

    def starts(self, point: str = _JOINED) -> np.ndarray:
        """First joined row of each shard of the first site, and the number of rows at the end."""
        return self._starts

    def dtype(self, point: str = _JOINED) -> torch.dtype:
        """Type of the joined rows."""
        return self._dtype

    def read_rows(self, point: str, position: int, local: np.ndarray, out: Tensor) -> Tensor:
        """Fill `out` with joined rows of one shard of the first site, and return it."""
        return self._fill(local + self._starts[position], out)

    def _fill(self, rows: np.ndarray, out: Tensor) -> Tensor:
        if not self._in_memory:
            return self._gather(rows, out)
        if self._rows is None:
            self._rows = self._load()
        return torch.index_select(self._rows, 0, torch.from_numpy(rows), out=out)

    def _load(self) -> Tensor:
        """All rows: each site in its own order, which is the order of its files."""
        whole = torch.empty(self.n_rows, sum(self.widths), dtype=self._dtype)
        for columns, site, ids in zip(
            whole.split(self.widths, 1), self.sites, self.ids, strict=True
        ):
            order = np.argsort(ids, kind="stable")
            for first in range(0, len(ids), _CHUNK):
                part = order[first : first + _CHUNK]
                rows = site.store.rows(site.point, ids[part])
                columns[torch.from_numpy(part)] = rows.to(self._dtype)
        return whole

    def _gather(self, rows: np.ndarray, out: Tensor) -> Tensor:
        for columns, site, ids in zip(out.split(self.widths, 1), self.sites, self.ids, strict=True):
            columns.copy_(site.store.rows(site.point, ids[rows]))
        return out

    def rows(self, index: np.ndarray | None = None) -> Float32[Tensor, "n w"]:
        """Joined rows as float32: row ids, a boolean mask over the joined rows, or all."""
        wanted = row_ids(index, self.n_rows, _JOINED)
        out = torch.empty(len(wanted), sum(self.widths), dtype=self._dtype)
        return self._fill(wanted, out).float()

    def chunks(self, size: int = _CHUNK) -> Iterator[tuple[np.ndarray, Float32[Tensor, "n w"]]]:
        """Yield (joined row ids, rows) in order, at most `size` at a time."""
        for first in range(0, self.n_rows, size):
            ids = np.arange(first, min(first + size, self.n_rows))
            yield ids, self.rows(ids)

    def generation(self) -> np.ndarray:
        """[n] generation of each row in the first site's store."""
        site = self.sites[0]
        table = site.store.coords(site.point, self.ids[0], ["generation"])
        return table["generation"]

    def statistics(self) -> Moments:
        """Mean and variance of every column, in float64 over all joined rows."""
        total = torch.zeros(sum(self.widths), dtype=torch.float64)
        square, shift = total.clone(), None
        for _, x in self.chunks():
            shift = x.double().mean(dim=0) if shift is None else shift
            deviation = x.double() - shift
            total += deviation.sum(dim=0)
            square += deviation.square().sum(dim=0)
        assert shift is not None
        mean = total / self.n_rows
        return Moments(shift + mean, square / self.n_rows - mean.square())

    def read(
        self, batch_size: int, *, seed: int = 0, rows: np.ndarray | None = None,
        epochs: int | None = 1, reservoir: int = 0,
    ) -> ShuffledReader:  # fmt: skip
        """Return shuffled batches, see `interp.store.reader.ShuffledReader`.

        Args:
            batch_size: rows per batch.
            seed: of the order.
            rows: boolean mask over the joined rows, or ids; None for all.
            epochs: passes; None for no end.
            reservoir: rows mixed in memory; 0: 256 MiB of them.
        """
        size = reservoir or RESERVOIR // (sum(self.widths) * self._dtype.itemsize)
        view: Any = self
        return ShuffledReader(
            view, _JOINED, batch_size, seed=seed, rows=rows, epochs=epochs, reservoir=size
        )

    def training_rows(
        self, held_out: float, seed: int, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, Tensor]:
        """Mask [n] of the rows that may train, and the sorted hashes of their images and clusters.

        Args:
            held_out: share of the clusters kept from training, as in `TrainConfig`.
            seed: of the split.
            rows: mask or ids that may train; None: by the split.
        """
        table = self.sites[0].store.generations
        place = np.searchsorted(table["generation"], self.generation())
        if rows is None:
            mask = training_generations(table, held_out, seed)[place]
        else:
            mask = np.zeros(self.n_rows, dtype=bool)
            mask[row_ids(rows, self.n_rows, _JOINED)] = True
        if not mask.any():
            raise SAEError(
                f"none of the {self.n_rows} joined rows may train: check rows=, held_out"
            )
        return mask, torch.unique(torch.cat([self._units(i, mask) for i in range(len(self.sites))]))

    def _units(self, position: int, mask: np.ndarray) -> Tensor:
        site = self.sites[position]
        table = site.store.generations
        ids = self.ids[position][mask]
        generation = site.store.coords(site.point, ids, ["generation"])["generation"]
        return units_of(table, np.isin(table["generation"], generation))

    def describe(self) -> list[dict[str, Any]]:
        """Point, call, store and model of each site, as JSON values."""
        return [
            {
                "point": site.store.points[site.point].as_dict(),
                "call": site.call,
                "store": site.store.hash,
                "model": site.store.model,
            }
            for site in self.sites
        ]
