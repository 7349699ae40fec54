"""The JSON of a store: the manifest, one entry per shard, and their strict reading."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from interp.errors import PointError, StoreError
from interp.models.points import HookPoint
from interp.store.files import (
    FLOATS,
    FileEntry,
    canonical_json,
    inside,
    read_text,
    sha256,
    shard_stem,
)

FORMAT = "interp-store"
# (major, minor): a reader refuses a newer major version and ignores what a newer minor one adds.
VERSION = (2, 0)
# More rows per shard than this is a damaged or hostile manifest, not a capture.
_MAX_ROWS = 1 << 40

# What reading JSON of another shape raises.
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)

T = TypeVar("T")


@dataclass(frozen=True)
class Manifest:
    """What a capture is: everything that its shards have in common.

    `model` is the identity of the model without the device, `recipe` and `rows` are the fields of
    the recipes, `images` is the digest of the encoded images (None for a generation). Shards hold
    `shard_size` generations each, or start at `starts` where a merge made them uneven. `version`
    is that of the format; a store keeps the one that it was written in.
    """

    points: tuple[HookPoint, ...]
    model: dict[str, Any]
    recipe: dict[str, Any]
    rows: dict[str, Any]
    images: str | None
    n_generations: int
    shard_size: int
    starts: tuple[int, ...] = ()
    version: tuple[int, int] = VERSION

    def __post_init__(self) -> None:
        names = [point.name for point in self.points]
        if not names or len(set(names)) != len(names):
            raise StoreError(f"a store needs one or more points with distinct names, got {names}")
        if self.n_generations < 1 or self.shard_size < 1:
            raise StoreError(
                f"a store needs n_generations >= 1 and shard_size >= 1, got {self.n_generations} "
                f"and {self.shard_size}"
            )
        bounds = [*self.starts, self.n_generations]
        if self.starts and (bounds[0] or bounds != sorted(set(bounds))):
            raise StoreError(f"shards start at {self.starts[:8]} of {self.n_generations}")

    @property
    def n_shards(self) -> int:
        """Number of shards of the complete store."""
        if self.starts:
            return len(self.starts)
        return -(-self.n_generations // self.shard_size)

    @property
    def hash(self) -> str:
        """SHA-256 of the manifest: what was asked for, independent of paths and devices."""
        # Where the images lie is not what they are: their digest stands for them.
        recipe = {key: value for key, value in self.recipe.items() if key != "images"}
        inputs = {
            "format": [FORMAT, self.version[0]],
            # What is known of a model's making may be corrected; it changes no row.
            "model": {k: v for k, v in self.model.items() if k not in ("device", "leaks")},
            "points": [point.as_dict() for point in self.points],
            "recipe": recipe,
            "rows": self.rows,
            "shard_size": self.shard_size,
            "images": self.images,
            "n_generations": self.n_generations,
            "starts": list(self.starts),
        }
        if self.version[0] < 2:
            inputs["points"] = [point.name for point in self.points]
            del inputs["n_generations"], inputs["starts"]
        return sha256(canonical_json(inputs))

    def span(self, shard: int) -> tuple[int, int]:
        """Return the first generation of a shard and the one after its last."""
        if self.starts:
            bounds = (*self.starts, self.n_generations)
            return bounds[shard], bounds[shard + 1]
        start = shard * self.shard_size
        return start, min(start + self.shard_size, self.n_generations)

    def encode(self) -> bytes:
        """Return the bytes of `manifest.json`."""
        value = {
            "format": FORMAT,
            "version": list(self.version),
            "hash": self.hash,
            "points": [point.as_dict() for point in self.points],
            "model": self.model,
            "recipe": self.recipe,
            "rows": self.rows,
            "images": self.images,
            "n_generations": self.n_generations,
            "shard_size": self.shard_size,
            "starts": list(self.starts),
        }
        return _pretty(value)

    @staticmethod
    def decode(data: bytes, where: str) -> "Manifest":
        """Read `manifest.json`.

        Raises:
            StoreError: not a manifest, a newer format, or its hash is not that of its content.
        """
        value = _parse(data, where)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise StoreError(f"{where} is not the manifest of an activation store")
        version = _check_version(value.get("version"), where)
        try:
            manifest = Manifest(
                points=tuple(_hook_point(point) for point in value["points"]),
                model=_typed(value["model"], dict),
                recipe=_typed(value["recipe"], dict),
                rows=_typed(value["rows"], dict),
                images=None if value["images"] is None else _digest(value["images"]),
                n_generations=_count(value["n_generations"]),
                shard_size=_count(value["shard_size"]),
                starts=tuple(_count(start) for start in value["starts"]),
                version=version,
            )
            # Numbers without end and broken text have no canonical form.
            found = manifest.hash
        except (*_DAMAGE, PointError) as error:
            raise StoreError(f"{where} is damaged: {error!r}") from error
        if found != value.get("hash"):
            raise StoreError(
                f"{where} was altered: it says hash {str(value.get('hash'))[:12]}, its content "
                f"hashes to {found[:12]}"
            )
        return manifest


@dataclass(frozen=True)
class PointEntry:
    """Rows of one point in one shard: `sha256` is that of the tensor's bytes after the header."""

    rows: int
    dtype: str
    sha256: str
    grid: tuple[int, ...]
    positions: int
    rate: float
    coords: int


@dataclass(frozen=True)
class ShardEntry:
    """One finished shard: the manifest entry `shards/<shard>.json`, written last."""

    shard: int
    generations: tuple[int, int]
    points: dict[str, PointEntry]
    coords: tuple[tuple[int, FileEntry], ...]
    table: FileEntry
    statistics: FileEntry
    images: tuple[tuple[int, ...], str] | None
    environment: dict[str, Any]

    def encode(self) -> bytes:
        """Return the bytes of the entry."""
        value = {
            "shard": self.shard,
            "generations": list(self.generations),
            "points": {
                name: vars(entry) | {"grid": list(entry.grid)}
                for name, entry in self.points.items()
            },
            "coords": [{"rows": rows, **file._asdict()} for rows, file in self.coords],
            "table": self.table._asdict(),
            "statistics": self.statistics._asdict(),
            "images": None
            if self.images is None
            else {"shape": list(self.images[0]), "sha256": self.images[1]},
            "environment": self.environment,
        }
        return _pretty(value)

    @staticmethod
    def decode(data: bytes, manifest: Manifest, shard: int, where: str) -> "ShardEntry":
        """Read a manifest entry and check it against the manifest.

        Raises:
            StoreError: damaged, or of another store.
        """
        value = _parse(data, where)
        try:
            entry = _shard_entry(value)
        except _DAMAGE as error:
            raise StoreError(f"{where} is damaged: {error!r}") from error
        names = [point.name for point in manifest.points]
        if (
            entry.shard != shard
            or entry.generations != manifest.span(shard)
            or list(entry.points) != names
        ):
            raise StoreError(
                f"{where} does not belong to this store: it describes shard {entry.shard}, "
                f"generations {entry.generations}, {len(entry.points)} points; expected "
                f"{shard}, {manifest.span(shard)}, {len(names)}"
            )
        return entry


def read_entries(path: Path, manifest: Manifest) -> list[ShardEntry]:
    """Read the entries of the finished shards, in order.

    Raises:
        StoreError: an entry is damaged or belongs to another store.
    """
    folder = inside(path, "shards")
    present = {file.name for file in folder.glob("*.json")}
    odd = sorted(present - {f"{shard_stem(shard)}.json" for shard in range(manifest.n_shards)})
    if odd:
        raise StoreError(
            f"{folder} holds {', '.join(odd[:4])}, but the manifest names {manifest.n_shards} "
            "shards: it was altered, or files of another store lie here"
        )
    entries = []
    for shard in range(manifest.n_shards):
        name = f"{shard_stem(shard)}.json"
        if name in present:
            data = read_text(inside(path, f"shards/{name}"))
            entries.append(ShardEntry.decode(data, manifest, shard, str(folder / name)))
    return entries


def _shard_entry(value: Any) -> ShardEntry:
    coords = tuple((_count(item["rows"]), _file(item)) for item in value["coords"])
    points = {name: _point_entry(item, coords) for name, item in value["points"].items()}
    images = value["images"]
    if images is not None:
        images = (tuple(_count(n) for n in images["shape"]), _digest(images["sha256"]))
    start, stop = value["generations"]
    if images is not None and (len(images[0]) != 4 or images[0][::3] != (stop - start, 3)):
        raise ValueError(f"images of shape {images[0]} for generations {start} to {stop - 1}")
    return ShardEntry(
        shard=_count(value["shard"]),
        generations=(_count(start), _count(stop)),
        points=points,
        coords=coords,
        table=_file(value["table"]),
        statistics=_file(value["statistics"]),
        images=images,
        environment=_typed(value["environment"], dict),
    )


def _point_entry(item: Mapping[str, Any], coords: tuple[tuple[int, FileEntry], ...]) -> PointEntry:
    entry = PointEntry(
        rows=_count(item["rows"]),
        dtype=_typed(item["dtype"], str),
        sha256=_digest(item["sha256"]),
        grid=tuple(_count(n) for n in item["grid"]),
        positions=_count(item["positions"]),
        rate=float(item["rate"]),
        coords=_count(item["coords"]),
    )
    if entry.dtype not in FLOATS or entry.coords >= len(coords):
        raise ValueError(f"dtype {entry.dtype}, coords {entry.coords}")
    if coords[entry.coords][0] != entry.rows:
        raise ValueError(f"{entry.rows} rows with {coords[entry.coords][0]} coordinates")
    places = math.prod(entry.grid) if len(entry.grid) <= 3 else 0
    if not 1 <= entry.positions <= places or entry.rows % entry.positions or not entry.rows:
        raise ValueError(f"{entry.rows} rows in maps of {entry.positions} of grid {entry.grid}")
    if not 0 < entry.rate <= 1:
        raise ValueError(f"rate {entry.rate}")
    return entry


def _check_version(version: Any, where: str) -> tuple[int, int]:
    """Return the version: 1.0, or this major version with any minor one."""
    exact = isinstance(version, list) and [type(part) for part in version] == [int, int]
    if not exact or version[0] < 1 or version[1] < 0:
        raise StoreError(f"{where} is damaged: version {version!r}")
    if version[0] > VERSION[0]:
        raise StoreError(
            f"{where} has store format {version[0]}.{version[1]}, this library reads up to "
            f"{VERSION[0]}.x: upgrade interp"
        )
    return version[0], version[1]


def _pretty(value: object) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where} is not valid JSON: {error}") from error


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _hook_point(item: Mapping[str, Any]) -> HookPoint:
    # A newer minor version may add fields: they are ignored.
    known = {field.name for field in fields(HookPoint)}
    point = HookPoint.from_dict({key: item[key] for key in item if key in known})
    if max(point.width, *point.grid, 1) > _MAX_ROWS:
        raise ValueError(f"point {point.name!r} of width {point.width} and grid {point.grid}")
    return point


def _file(item: Mapping[str, Any]) -> FileEntry:
    return FileEntry(_count(item["bytes"]), _digest(item["sha256"]))


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_ROWS:
        raise ValueError(f"{value!r} is not a count")
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError(f"{value!r} is not a sha256")
    return value


def _typed(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not a {kind}")
    return value


def find_stores(folder: str | os.PathLike) -> list[Path]:
    """Return the folders of stores that lie in a folder, by name."""
    return sorted(file.parent for file in Path(folder).glob("*/manifest.json"))


def no_store(path: Path) -> StoreError:
    """Return the error of a folder that is not a store; it names the stores inside."""
    found = [one.name for one in find_stores(path)]
    hint = f"; stores in it: {', '.join(found[:8])}" if found else ""
    return StoreError(f"{path} is not an activation store: it has no manifest.json{hint}")
