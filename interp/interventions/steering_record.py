"""What steering did to the images, strength by strength: the record and its two files."""

import hashlib
import io
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interp.errors import InputError
from interp.sae.atomic import write_atomic

FORMAT, VERSION = "interp-dose-response", 1
RECORD, IMAGES = "steering.json", "steering.webp"
MODES = ("add", "clamp", "suppress", "scale")
# A side of a WebP picture has 14 bits (RFC 9649, 2.7.1.1).
MAX_SIDE = 16383
# Refused beyond: no strip of ours is as large, a hostile header may claim anything.
_MAX_PIXELS = 100_000_000


class Response(NamedTuple):
    """Change of one attribute at one strength, in units of the distance between two seeds' images.

    Intervals are two-sided, 95 %, from the jackknife over seeds.
    """

    along: float
    """Mean projection of phi(edited) - phi(unedited) on the attribute's own axis: the mean change
    of the other half of the seeds at the extreme strength, normalized."""
    along_low: float
    along_high: float
    size: float
    """Root mean squared length of phi(edited) - phi(unedited), whatever its direction."""
    size_low: float
    size_high: float


class Control(NamedTuple):
    """The same of random directions that move every row exactly as far."""

    along: float
    """Expected largest `|along|` of `n_scanned` draws (of all draws, where fewer were drawn)."""
    along_mean: float
    """Mean `|along|` of the draws."""
    size: float
    """Expected largest `size` of `n_scanned` draws."""
    size_mean: float


class Share(NamedTuple):
    """A share in [0, 1] with its interval; None where nothing changed or nothing is estimable."""

    value: float | None
    low: float | None
    high: float | None


class Distance(NamedTuple):
    """How far rows are from clean ones, medians over rows; the clean columns are held-out rows."""

    mahalanobis: float
    """Mahalanobis distance to the clean rows, in their shrunk covariance."""
    mahalanobis_clean: float
    neighbor: float
    """Distance to the fifth nearest clean row over the mean of the same of held-out rows."""
    neighbor_clean: float
    outside: float
    """Share of rows whose Mahalanobis distance exceeds that of 95 % of held-out rows."""
    neighbor_outside: float
    """The same by the neighbor distance."""


@dataclass(frozen=True)
class DoseResponse:
    """The dose-response of one direction or SAE feature; S strengths, q shown seeds.

    Everything is a mean over `n_seeds` seeds. Change is measured against the same seed without an
    edit, in units of the root mean squared distance between the images of two seeds
    (`scale`): 1 means "as different as another image".
    """

    model: str
    point: str
    label: str
    """The handle in words: "feature 12 of 1a2b3c" or "direction 4d5e6f"."""
    sae: str
    """Digest of the SAE; "" for a plain direction."""
    feature: int | None
    direction: str
    """First 16 digits of the sha256 of the unit direction, float32."""
    mode: str
    """add, clamp, suppress or scale."""
    strengths: tuple[float, ...]
    """[S] ascending, in units that `unit_words` states."""
    neutral: float | None
    """The strength that changes nothing (0; 1 for scale; none for clamp)."""
    unit: float
    """Length that strength 1 adds to a row (add), or gives to the feature's part of it (clamp):
    the root mean squared deviation of clean rows from their mean. 1 for scale and suppress."""
    unit_words: str
    spread: float
    """Standard deviation of the clean rows along the direction, in `unit`s of add."""
    shifts: tuple[float, ...]
    """[S] root mean squared length by which rows were moved, in the same units."""
    attributes: tuple[str, ...]
    scale: dict[str, float]
    """Attribute -> root mean squared distance between the unedited images of two seeds."""
    responses: dict[str, tuple[Response, ...]]
    """Attribute -> [S]."""
    isotropic: dict[str, tuple[Control, ...]]
    """Attribute -> [S], random directions uniform on the sphere; {} where none was drawn."""
    matched: dict[str, tuple[Control, ...]]
    """Attribute -> [S], random directions with the covariance of the clean rows."""
    n_random: int
    """Draws of each kind."""
    n_scanned: int
    """Features or directions among which this one was chosen; `Control` takes their maximum."""
    target: str
    """Attribute that the handle is meant to change."""
    target_given: bool
    """False: it is the one moved most on the first half of the seeds; `off_target` is then of the
    second half alone."""
    off_target: tuple[Share, ...]
    """[S] 1 - size(target)^2 / sum over attributes of size^2."""
    off_distribution: dict[str, tuple[Distance, ...]]
    """Point -> [S]: the edited point, and a later one where there is one."""
    n_seeds: int
    shown_seeds: tuple[int, ...]
    """[q] seeds (or numbers of the given images) of the pictures."""
    images: np.ndarray
    """uint8 [S, q, h, w, 3]."""
    plain: np.ndarray
    """uint8 [q, h, w, 3], without an edit."""
    settings: dict[str, Any]
    """JSON values: recipe, reference, calls, cfg, mask, seed, weights, versions."""

    @property
    def random_suffices(self) -> bool:
        """Whether as many directions were drawn as features scanned; else `Control.along` and
        `Control.size` are lower bounds."""
        return self.n_random >= self.n_scanned

    def beyond_random(self) -> dict[str, tuple[float, ...]]:
        """Return attribute -> strengths at which the whole interval of `size` lies above the random
        directions of both kinds (`Control.size`); {} where none was drawn."""
        if not (self.isotropic and self.matched):
            return {}
        return {
            name: tuple(
                dose
                for dose, one, *random in zip(
                    self.strengths, rows, self.isotropic[name], self.matched[name], strict=True
                )
                if one.size_low > max(control.size for control in random)
            )
            for name, rows in self.responses.items()
        }

    def conclude(self) -> str:
        """Return in one sentence where the images change more than by random directions."""
        if not self.n_random:
            return "no random directions were drawn: nothing says how much a push does by itself"
        most = min(self.n_scanned, self.n_random)
        level = f"largest of {most}" if most > 1 else "their mean"
        level += f"; {self.n_random} drawn of each kind"
        found = {name: doses for name, doses in self.beyond_random().items() if doses}
        if not found:
            return f"not beyond the random directions ({level}) at any strength"
        places = "; ".join(
            f"{name} {', '.join(f'{dose:g}' for dose in doses)}" for name, doses in found.items()
        )
        return f"beyond the random directions ({level}) at strengths: {places}"

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pixels as JSON values."""
        names = [f.name for f in fields(self) if f.name not in ("images", "plain")]
        found = {name: _plain(getattr(self, name)) for name in names}
        return {"format": FORMAT, "version": VERSION, **found}

    def save(self, folder: str | Path) -> Path:
        """Write `steering.json` and `steering.webp` (lossless; a row per strength, the unedited
        images first, a column per seed) into a folder, and return it.

        Raises:
            InputError: the strip is wider or higher than a WebP picture can be, or the folder is a
                file.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; a dose-response needs a folder")
        folder.mkdir(parents=True, exist_ok=True)
        payload = _pack(np.concatenate([self.plain[None], self.images]))
        sheet = {"file": IMAGES, "sha256": hashlib.sha256(payload).hexdigest()}
        sheet |= {"size": list(self.plain.shape[1:3])}
        record = json.dumps({**self.to_json(), "sheet": sheet}, indent=1, allow_nan=False)
        write_atomic(folder / IMAGES, payload)
        write_atomic(folder / RECORD, (record + "\n").encode())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "DoseResponse":
        """Read what `save` wrote.

        Raises:
            InputError: files are missing, altered, of another format, or contradict themselves.
        """
        folder = Path(folder)
        record = _read_record(folder / RECORD)
        try:
            values = _restore(record)
            pixels = _unpack(folder / IMAGES, record["sheet"], values)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{folder / RECORD} is damaged ({type(error).__name__}: {error}); steer again"
            ) from error
        found = cls(**values, plain=pixels[0], images=pixels[1:])
        _check(found, folder)
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return {key: _plain(item) for key, item in value._asdict().items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} is missing: {path.parent} holds no dose-response")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); steer again") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path} is not a record of {FORMAT}")
    if record.get("version") != VERSION:
        raise InputError(f"{path} has version {record.get('version')!r}; this reads {VERSION}")
    return record


# How a field is read; `_number` and the like raise ValueError for what is not one.
def _number(value: Any) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    # Compared, not converted: a whole number of hundreds of digits has no float. NaN fails too.
    if not plain or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{value!r:.60} is no finite number")
    return float(value)


def _maybe(value: Any) -> float | None:
    return None if value is None else _number(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r:.60} is no integer")
    if value < 0:
        raise ValueError(f"{value!r:.60} is below 0")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.60} is no text")
    return value


def _rows(kind: Any, value: Any) -> tuple[Any, ...]:
    read = _maybe if kind is Share else _number
    return tuple(kind(**{key: read(item) for key, item in row.items()}) for row in value)


def _tables(kind: Any, value: Any) -> dict[str, tuple[Any, ...]]:
    return {_text(name): _rows(kind, rows) for name, rows in value.items()}


def _restore(record: dict[str, Any]) -> dict[str, Any]:
    texts = ("model", "point", "label", "sae", "direction", "mode", "unit_words", "target")
    found: dict[str, Any] = {name: _text(record[name]) for name in texts}
    found |= {name: _count(record[name]) for name in ("n_random", "n_scanned", "n_seeds")}
    found |= {name: _number(record[name]) for name in ("unit", "spread")}
    found |= {name: tuple(map(_number, record[name])) for name in ("strengths", "shifts")}
    if not isinstance(record["settings"], dict) or not isinstance(record["target_given"], bool):
        raise ValueError("settings or target_given are of another type")
    return found | {
        "feature": None if record["feature"] is None else _count(record["feature"]),
        "neutral": _maybe(record["neutral"]),
        "attributes": tuple(map(_text, record["attributes"])),
        "scale": {_text(name): _number(value) for name, value in record["scale"].items()},
        "responses": _tables(Response, record["responses"]),
        "isotropic": _tables(Control, record["isotropic"]),
        "matched": _tables(Control, record["matched"]),
        "target_given": record["target_given"],
        "off_target": _rows(Share, record["off_target"]),
        "off_distribution": _tables(Distance, record["off_distribution"]),
        "shown_seeds": tuple(map(_count, record["shown_seeds"])),
        "settings": record["settings"],
    }


def _check(found: DoseResponse, folder: Path) -> None:
    """Refuse a record whose parts do not fit each other."""
    n, names = len(found.strengths), set(found.attributes)
    tables = {"responses": found.responses, "isotropic": found.isotropic, "matched": found.matched}
    odd = [k for k, v in tables.items() if set(v) != names and (v or k == "responses")]
    columns = [*found.off_distribution.values(), found.off_target, found.shifts]
    columns += [rows for table in tables.values() for rows in table.values()]
    if any(len(rows) != n for rows in columns):
        odd.append("strengths")
    if set(found.scale) != names or found.target not in names:
        odd.append("attributes")
    if found.mode not in MODES or list(found.strengths) != sorted(set(found.strengths)):
        odd.append("mode or strengths")
    if odd:
        raise InputError(f"{folder / RECORD} contradicts itself in {', '.join(odd)}; steer again")


def _pack(sheet: np.ndarray) -> bytes:
    """Lossless WebP of images [rows, columns, h, w, 3] side by side."""
    from PIL import Image

    rows, columns, h, w, _ = sheet.shape
    if max(rows * h, columns * w) > MAX_SIDE:
        raise InputError(
            f"{rows} x {columns} images of {h} x {w} pixels: a WebP picture has at most {MAX_SIDE} "
            "a side; show fewer seeds or strengths"
        )
    joined = sheet.transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, 3)
    target = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(joined)).save(target, "WEBP", lossless=True, exif=b"")
    return target.getvalue()


def _unpack(path: Path, sheet: Mapping[str, Any], values: Mapping[str, Any]) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    payload = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(payload).hexdigest() != sheet["sha256"]:
        raise InputError(
            f"{path} ({len(payload)} bytes) is missing, truncated or altered; steer again"
        )
    h, w = (_count(side) for side in sheet["size"])
    rows, columns = len(values["strengths"]) + 1, len(values["shown_seeds"])
    shape = (rows, columns, h, w)
    if min(shape) < 1 or math.prod(shape) > _MAX_PIXELS:
        raise InputError(f"{path} claims {rows} x {columns} images of {h} x {w} pixels")
    try:
        with Image.open(io.BytesIO(payload), formats=["WEBP"]) as image:
            if image.size != (columns * w, rows * h):
                raise InputError(
                    f"{path} is {image.size[0]} x {image.size[1]} pixels, not "
                    f"{columns * w} x {rows * h}"
                )
            joined = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path} is no readable picture: {error}") from error
    return np.ascontiguousarray(joined.reshape(rows, h, columns, w, 3).transpose(0, 2, 1, 3, 4))
