"""Latents of an SAE as sparse columns over images: one pass over a store, nothing dense kept."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.alignment.pairing import pair_up
from interp.alignment.representations import Representation, read_generations, some_ids
from interp.errors import InputError
from interp.features.maps import places
from interp.features.scan import active_entries
from interp.sae import SAE, load_sae
from interp.sae.match import check_match
from interp.sae.split import seen_generations
from interp.store import ActivationStore, open_store

POOLINGS = ("mean", "max", "positions")
_CHUNK = 8192


class Origin(NamedTuple):
    """Where latents were read, for looking at their maps again."""

    sae: SAE
    store: ActivationStore
    rows: np.ndarray
    """[n_rows] bool, the rows of the point that were read."""


@dataclass(frozen=True)
class Latents:
    """Activations of m latents on n images, at p positions each (1: pooled over them).

    Attributes:
        model: label of the model; all latents of a model share one permutation of the images.
        point: name of the hook point.
        x: scipy CSR matrix [n p, m], float32, never negative; the positions of an image follow
            each other.
        ids: [n] stable image ids, all different.
        clusters, strata: [n] as in `Representation`; empty: each image its own, one group.
        images: [n] size and hash of each image's pixels; empty: unknown.
        maker: who made the images, where one model did.
        call: call index, or None for the mean over all calls.
        positions: p.
        pooling: "mean" or "max" over the rows of an image, or "positions".
        grid: of the point; positions of two points correspond where their grids are equal.
        dictionary: [m, d] decoder rows, or None where decoders are not compared.
        space: what names the space of the decoder: weights and point; "" unknown.
        sae, store: digest and hash of where they come from; "" unknown.
        left_out: ids of images that the SAE was trained on.
        origin: SAE and store, for maps; None for matrices of your own.
    """

    model: str
    point: str
    x: Any
    ids: tuple[str, ...]
    clusters: tuple[str, ...] = ()
    strata: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    maker: str = ""
    call: int | None = None
    positions: int = 1
    pooling: str = "mean"
    grid: tuple[int, ...] = ()
    dictionary: Tensor | None = field(default=None, repr=False)
    space: str = ""
    sae: str = ""
    store: str = ""
    left_out: tuple[str, ...] = ()
    origin: Origin | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        shape = tuple(self.x.shape)
        if len(shape) != 2 or shape[0] != len(self.ids) * self.positions:
            raise InputError(
                f"{self.name} has activations {shape} for {len(self.ids)} image ids x "
                f"{self.positions} positions; one row for each is needed"
            )
        for what in ("clusters", "strata"):
            labels = getattr(self, what)
            if labels and len(labels) != len(self.ids):
                raise InputError(f"{self.name} has {len(labels)} {what} for {len(self.ids)} images")

    @property
    def name(self) -> str:
        """`model/point`, with the call where one was read."""
        return f"{self.model}/{self.point}" + ("" if self.call is None else f"@{self.call}")

    @property
    def n_latents(self) -> int:
        """m."""
        return int(self.x.shape[1])


def as_latents(
    model: str, x: Any, ids: Sequence[str] = (), *, point: str = "latents", **more: Any
) -> Latents:
    """Latents of a matrix of your own: activations [n, m] or [n, p, m], dense or scipy sparse.

    ids: image ids; (): the row's number. more: fields of `Latents`.
    Raises InputError for negative or non-finite activations, or ids that do not fit.
    """
    from scipy import sparse

    positions = 1
    if not sparse.issparse(x):
        x = np.asarray(x, dtype=np.float32)
        positions = x.shape[1] if x.ndim == 3 else 1
        x = x.reshape(-1, x.shape[-1])
    x = sparse.csr_matrix(x, dtype=np.float32)
    if not np.isfinite(x.data).all() or bool((x.data < 0).any()):
        raise InputError(f"activations of {model}/{point} are negative or not finite")
    ids = tuple(map(str, ids)) or tuple(map(str, range(x.shape[0] // positions)))
    return Latents(model, point, x, ids, positions=positions, **more)


def read_latents(
    sae: SAE | str | Path,
    store: ActivationStore | str | Path,
    *,
    model: str = "",
    point: str = "",
    call: int | None = None,
    half: str = "cond",
    pooling: str = "mean",
    strata: str = "source",
    allow_train: bool = False,
) -> Latents:
    """Encode a point of a store and keep each image's activations, in one ordered pass.

    Args:
        sae: of one point, or its run directory.
        store: an encoding or generation capture with that point.
        model: label; "": the store's model, without `zoo:` and the like.
        point: name of the hook point; "": the SAE's own.
        call: one call (noise level, step); None: the mean, or maximum, over all.
        half: guidance half where both were captured, "cond" or "uncond".
        pooling: "mean" or "max" over positions (and calls and draws), or "positions": each kept,
            the mean over calls and draws.
        strata: column of `store.generations` within which images may be permuted; "" for none.
        allow_train: keep images that the SAE was trained on. Without it they are left out, and an
            SAE that does not know its training images is refused.

    Raises:
        SAEError: the SAE belongs to another point, width or model.
        InputError: every image was trained on, images lack positions, an unknown pooling.
    """
    if pooling not in POOLINGS or half not in ("cond", "uncond"):
        raise InputError(f"pooling {pooling!r} is one of {POOLINGS}, half {half!r} cond or uncond")
    sae, store, point = _opened(sae, store, point)
    table = read_generations(store, strata)
    seen = _trained(sae, store, table.image, allow_train)
    rows = _rows(store, point, call, half)
    image = table.image[np.searchsorted(table.known, rows.generation)]
    mask = rows.mask & ~seen[image]
    unit, positions = _units(store, point, pooling, image, mask)
    size = len(table.ids) * positions
    x = _pooled(sae, store, point, unit, mask, size, pooling)
    spec = str(store.model.get("spec", ""))
    found = Latents(
        model or spec.split(":", 1)[-1],
        point,
        x,
        **table.labels,
        call=call if rows.several else None,
        positions=positions,
        pooling=pooling,
        grid=tuple(store.points[point].grid),
        dictionary=sae.dictionary().detach().float(),
        space=f"{store.model.get('weights_sha256') or spec} {point}",
        sae=sae.digest,
        store=store.hash,
        origin=Origin(sae, store, mask),
    )
    return _without(found, seen) if seen.any() else found


def _opened(
    sae: SAE | str | Path, store: ActivationStore | str | Path, point: str
) -> tuple[SAE, ActivationStore, str]:
    """The SAE, the store and the point, which belong together."""
    sae = sae if isinstance(sae, SAE) else load_sae(sae)
    store = store if isinstance(store, ActivationStore) else open_store(store)
    point = point or (sae.point or {}).get("name", "")
    if not point:
        raise InputError("the SAE does not say which point it belongs to: give point=")
    store.entries(point)
    check_match(sae, store.points[point], store.model)
    return sae, store, point


def _without(one: Latents, seen: np.ndarray) -> Latents:
    """The latents on the images that were not trained on; `seen` is [n] bool."""
    kept = [name for name, old in zip(one.ids, seen, strict=True) if not old]
    left_out = tuple(name for name, old in zip(one.ids, seen, strict=True) if old)
    return dataclasses.replace(take(one, kept), left_out=left_out)


def _trained(sae: SAE, store: ActivationStore, image: np.ndarray, allow_train: bool) -> np.ndarray:
    """[images] bool: trained on."""
    seen = np.zeros(int(image.max()) + 1, dtype=bool)
    if allow_train:
        return seen
    if not len(sae.trained_units):
        raise InputError(
            "the SAE has no record of its training images, and these may be among them: pass "
            "allow_train=True (--allow-train) to match it all the same"
        )
    np.logical_or.at(seen, image, seen_generations(store.generations, sae.trained_units))
    if seen.all():
        raise InputError(
            f"the SAE was trained on all {len(seen)} images of {store.path}: capture others, or "
            "pass allow_train=True (--allow-train)"
        )
    return seen


class _Rows(NamedTuple):
    mask: np.ndarray
    generation: np.ndarray
    several: bool


def _rows(store: ActivationStore, point: str, call: int | None, half: str) -> _Rows:
    columns = store.coords(point, columns=["generation", "call", "cfg_half"])
    mask = np.ones(len(columns["call"]), dtype=bool)
    if {0, 1} <= set(np.unique(columns["cfg_half"]).tolist()):
        mask = columns["cfg_half"] == (1 if half == "cond" else 0)
    calls = np.unique(columns["call"][mask]).tolist()
    if call is not None and call not in calls:
        raise InputError(f"{point} of {store.path} has calls {calls}, not {call}")
    if call is not None:
        mask = mask & (columns["call"] == call)
    return _Rows(mask, columns["generation"], len(calls) > 1)


def _units(
    store: ActivationStore, point: str, pooling: str, image: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, int]:
    """Line of the result for each row, and lines per image."""
    if pooling != "positions":
        return image, 1
    where = places(store, point)
    flat = np.where(where.y < 0, -1, where.y * where.width + where.x)
    known = np.unique(flat[mask])
    place = np.searchsorted(known, flat)
    cells = np.unique(image[mask] * len(known) + place[mask])
    n = len(np.unique(image[mask]))
    if len(cells) < n * len(known):
        raise InputError(
            f"{point} of {store.path} lacks {n * len(known) - len(cells)} of {n * len(known)} "
            '(image, position) cells: capture with Rows(positions="all"), or pool by mean or max'
        )
    return image * len(known) + np.minimum(place, len(known) - 1), len(known)


def _pooled(
    sae: SAE,
    store: ActivationStore,
    point: str,
    unit: np.ndarray,
    mask: np.ndarray,
    size: int,
    pooling: str,
) -> Any:
    """CSR matrix [size, m]: sums or maxima over the rows of each unit; means after that."""
    from scipy import sparse

    m, largest = sae.n_latents, pooling == "max"
    parts = [
        _reduced(unit[ids[local]] * m + latent, value, largest)
        for ids, local, latent, value in _codes(sae, store, point, mask)
    ]
    keys, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    key, value = _reduced(keys, values, largest)
    if not largest:
        count = np.bincount(unit[mask], minlength=size)
        value = value / count[key // m]
    lines = (key // m, key % m)
    return sparse.csr_matrix((value.astype(np.float32), lines), shape=(size, m))


def _codes(sae: SAE, store: ActivationStore, point: str, mask: np.ndarray) -> Iterator[tuple]:
    with torch.no_grad():
        for ids, x in store.chunks(point, _CHUNK):
            wanted = mask[ids]
            if not wanted.any():
                continue
            x = x[torch.from_numpy(wanted)]
            if not bool(torch.isfinite(x.sum())):
                raise InputError(f"rows {ids[0]} to {ids[-1]} of {point} hold NaN or infinity")
            yield ids[wanted], *active_entries(sae.encode(x))


def _reduced(key: np.ndarray, value: np.ndarray, largest: bool) -> tuple[np.ndarray, np.ndarray]:
    """Each key once, ascending, with the sum or the maximum of its values, float64."""
    order = np.argsort(key, kind="stable")
    key, value = key[order], value[order].astype(np.float64)
    first = np.flatnonzero(np.diff(key, prepend=-1))
    if not len(first):
        return key, value
    join = np.maximum if largest else np.add
    return key[first], join.reduceat(value, first)


def take(one: Latents, ids: Sequence[str]) -> Latents:
    """The same latents on some of their images, in the order given."""
    place = {name: i for i, name in enumerate(one.ids)}
    rows = np.array([place[name] for name in ids], dtype=np.int64)
    lines = (rows[:, None] * one.positions + np.arange(one.positions)).ravel()
    labels = {
        what: tuple(getattr(one, what)[r] for r in rows) if getattr(one, what) else ()
        for what in ("clusters", "strata", "images")
    }
    return dataclasses.replace(one, x=one.x[lines], ids=tuple(ids), **labels)


def line_up(sides: Sequence[Latents]) -> list[Latents]:
    """The same latents on the images that trained none of the SAEs, in one common order.

    Raises InputError naming the ids where the captures are not of the same images, and for grids
    that differ where positions are kept.
    """
    first = sides[0]
    poolings = {one.pooling for one in sides}
    if len(poolings) > 1:
        raise InputError(f"poolings {sorted(poolings)}: read all latents with one")
    shapes = {(one.positions, one.grid if one.positions > 1 else ()) for one in sides}
    if len(shapes) > 1:
        grids = ", ".join(f"{one.name} {one.positions} of grid {one.grid}" for one in sides)
        raise InputError(f'positions do not correspond ({grids}): pool by "mean" or "max"')
    gone = {name for one in sides for name in one.left_out}
    wanted = [name for name in first.ids if name not in gone]
    for one in sides:
        odd = sorted(set(one.ids) - gone - set(wanted))
        lacking = sorted(set(wanted) - set(one.ids))
        if odd or lacking:
            raise InputError(
                f"{one.name} and {first.name} are not on the same images: {one.name} lacks "
                f"{len(lacking)} ({some_ids(lacking)}) and has {len(odd)} others ({some_ids(odd)})"
            )
    if not wanted:
        raise InputError(f"each of the {len(gone)} images trained one of the SAEs: capture others")
    checked = pair_up([_labels(one) for one in sides], wanted)
    taken = [take(one, checked[0].ids) for one in sides]
    return [
        dataclasses.replace(one, clusters=like.clusters, strata=like.strata)
        for one, like in zip(taken, checked, strict=True)
    ]


def _labels(one: Latents) -> Representation:
    """Ids and labels of the images alone, for the checks of `pair_up`."""
    labels = (one.ids, one.clusters, one.strata)
    rows = torch.zeros(len(one.ids), 1)
    return Representation(one.model, one.point, rows, *labels, images=one.images, maker=one.maker)
