"""The record of what each latent does, and its two files."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from interp.errors import InputError
from interp.models.points import HookPoint
from interp.sae.atomic import write_atomic

FORMAT, VERSION = "interp-features", 1
RECORD, ARRAYS = "features.json", "features.safetensors"


@dataclass(frozen=True)
class Features:
    """What m latents did on the rows of one point; e examples each, C categories, T calls.

    Activations are in the SAE's normalized units: rows have mean squared length 1. Those of an SAE
    of another library are in the units of the data.
    """

    TOP: ClassVar[int] = 0
    QUANTILE: ClassVar[int] = 1
    RANDOM: ClassVar[int] = 2

    point: HookPoint
    sae: dict[str, Any]
    """`digest`, `spec` (with `variant`), `recipe`."""
    store: dict[str, Any]
    """`hash`, `name` of its folder, `model` identity, `recipe`."""
    n_rows: int
    n_generations: int
    density: np.ndarray
    """[m] float64, share of rows on which the latent fires."""
    mean_active: np.ndarray
    """[m] float32, mean over the rows on which it fires; 0 where dead."""
    maximum: np.ndarray
    """[m] float32; 0 where dead."""
    dead: np.ndarray
    """[m] bool, fired on no row."""
    histogram: np.ndarray
    """[m, bins] int64, rows by log10 of the activation."""
    edges: np.ndarray
    """[bins + 1] float64, log10; outliers count in the outermost bins."""
    example_row: np.ndarray
    """[m, e] int64 row ids, -1 where there are fewer examples."""
    example_kind: np.ndarray
    """[m, e] uint8: 0 top, 1 quantile, 2 random."""
    example_bin: np.ndarray
    """[m, e] int8: quarter of the latent's activations, 0 lowest; -1 for other kinds."""
    example_value: np.ndarray
    """[m, e] float32 activation; NaN in empty slots."""
    example_generation: np.ndarray
    """[m, e] int32, -1 in empty slots."""
    example_call: np.ndarray
    """[m, e] int16, -1 in empty slots."""
    example_half: np.ndarray
    """[m, e] int8 guidance half: 0 unconditional, 1 conditional; -1 in empty slots."""
    example_y: np.ndarray
    """[m, e] int32 line of the map, -1 where the row is a mean over it."""
    example_x: np.ndarray
    """[m, e] int32 column of the map."""
    maps: np.ndarray
    """[m, e, h, w] float16 activation over the example's map; NaN where no row was captured."""
    grid: tuple[int, ...]
    """The point's grid; maps may be max-pooled, see `notes`."""
    profile_calls: np.ndarray
    """[m, T] float32 mean activation over the rows of each call, zeros included."""
    calls: list[dict[str, Any]]
    """[T] `call`, `t`, `log_snr`, `n_rows`."""
    category_profile: np.ndarray
    """[m, C] float32 mean activation over the rows of each category, zeros included."""
    categories: list[str]
    neighbors: np.ndarray
    """[m, q] int32 live latents with the largest decoder cosine; -1 where there are fewer."""
    neighbor_cosine: np.ndarray
    """[m, q] float32; NaN beside -1."""
    coactive: np.ndarray
    """[m, q] int32 latents that fire on the same rows most often; -1 where there are fewer."""
    coactive_score: np.ndarray
    """[m, q] float32 `coactive_measure`; NaN beside -1."""
    coactive_measure: str
    umap: np.ndarray
    """[m, 2] float32 map of the decoder directions; NaN for dead latents."""
    seed: int
    notes: tuple[str, ...]
    """What deviates from the plain reading: pooled maps, samples, a projection that is not UMAP."""

    @property
    def n_latents(self) -> int:
        """m."""
        return len(self.density)

    def save(self, directory: str | Path) -> Path:
        """Write `features.json` and `features.safetensors` into a directory, and return it."""
        from safetensors.numpy import save

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _array_names()}
        payload = save(arrays)
        plain = {name: getattr(self, name) for name in _plain_names()}
        record = {
            "format": FORMAT,
            "version": VERSION,
            "arrays": {"file": ARRAYS, "sha256": hashlib.sha256(payload).hexdigest()},
            **plain,
            "point": self.point.as_dict(),
        }
        write_atomic(directory / ARRAYS, payload)
        write_atomic(directory / RECORD, (json.dumps(record, indent=1) + "\n").encode())
        return directory

    @classmethod
    def load(cls, directory: str | Path) -> "Features":
        """Read what `save` wrote.

        Raises:
            InputError: files are missing, truncated, altered or of another format.
        """
        directory = Path(directory)
        record = _read_record(directory / RECORD)
        arrays = _read_arrays(directory / ARRAYS, record)
        plain = {name: record[name] for name in _plain_names()}
        plain["grid"], plain["notes"] = tuple(plain["grid"]), tuple(plain["notes"])
        features = cls(**{**plain, **arrays, "point": HookPoint.from_dict(record["point"])})
        odd = [n for n in _per_latent_names() if len(getattr(features, n)) != features.n_latents]
        if odd:
            raise InputError(f"{directory}: {odd} do not have {features.n_latents} latents")
        return features


def _fields() -> list[dataclasses.Field]:
    return list(dataclasses.fields(Features))


def _array_names() -> list[str]:
    return [field.name for field in _fields() if field.type is np.ndarray]


def _per_latent_names() -> list[str]:
    return [name for name in _array_names() if name != "edges"]


def _plain_names() -> list[str]:
    return [f.name for f in _fields() if f.type is not np.ndarray and f.name != "point"]


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} is missing: {path.parent} holds no features")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); describe again") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path} is not a record of {FORMAT}")
    if record.get("version") != VERSION:
        raise InputError(f"{path} has version {record.get('version')!r}; this reads {VERSION}")
    missing = [name for name in (*_plain_names(), "point", "arrays") if name not in record]
    if missing:
        raise InputError(f"{path} lacks {missing}; describe again")
    return record


def _read_arrays(path: Path, record: dict[str, Any]) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    payload = path.read_bytes() if path.is_file() else b""
    found = hashlib.sha256(payload).hexdigest()
    if not isinstance(record["arrays"], dict) or found != record["arrays"].get("sha256"):
        raise InputError(
            f"{path} ({len(payload)} bytes) is missing, truncated or altered: its sha256 is "
            f"{found[:12]}; describe again"
        )
    try:
        arrays = load(payload)
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from error
    if arrays.keys() != set(_array_names()):
        odd = sorted(arrays.keys() ^ set(_array_names()))
        raise InputError(f"{path}: these arrays are missing or unknown: {odd}")
    return arrays
