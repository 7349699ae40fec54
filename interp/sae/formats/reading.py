"""Files of strangers: read as data, checked for size, names, shapes and values before use.

Nothing is unpickled but tensors and plain containers (`torch.load(weights_only=True)`), so that
no code in a file runs.
"""

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import SAEError
from interp.sae.files import MAX_CONFIG_BYTES

# int32 counts latents; no published width comes near.
MAX_SIZE = 2**31 - 1
# torch's zip holds tensors as they are; what unpacks to far more than its own size is a bomb.
MAX_UNPACKED = 2.0

_CONVERT = (
    "nothing of it was run. Turn it into weights and a config in an environment of the library "
    "that wrote it: README.md of interp.sae.formats has the lines for overcomplete and ViT-Prisma"
)


def read_json(path: Path) -> dict[str, Any]:
    """Return the table in a JSON file.

    Raises:
        SAEError: missing, larger than 4 MB, not JSON or not a table.
    """
    if not path.is_file():
        raise SAEError(f"{path} is missing")
    size = path.stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise SAEError(f"{path} has {size} bytes, more than {MAX_CONFIG_BYTES}: no config")
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """Return the table in a JSON text.

    Raises:
        SAEError: not JSON or not a table.
    """
    try:
        found = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SAEError(f"{where} is not JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise SAEError(f"{where} holds a {type(found).__name__}, not a table of settings")
    return found


def read_safetensors(path: Path) -> dict[str, Any]:
    """Return the tensors of a safetensors file.

    Raises:
        SAEError: missing, truncated or of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise SAEError(f"{path} is missing")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise SAEError(
            f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file: {error}"
        ) from error


def read_torch(source: Path | bytes, where: str = "") -> Any:
    """Return what torch.save wrote, if it is tensors in plain containers.

    Args:
        source: a file, or its bytes.
        where: name of the bytes in messages.

    Raises:
        SAEError: missing, truncated, or a program: a pickle that would run code.
    """
    where = where or str(source)
    if isinstance(source, Path):
        if not source.is_file():
            raise SAEError(f"{source} is missing")
        source = source.read_bytes()
    _refuse_bomb(source, where)
    try:
        with warnings.catch_warnings():
            # A plain pickle is of a protocol that torch wonders about, before it refuses.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(source), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        said = str(error)
        if "Unsupported" in said or "GLOBAL" in said or "weights_only" in said.lower():
            raise SAEError(
                f"{where} is a pickle that wants to run more than tensors; {_CONVERT}"
            ) from error
        raise SAEError(
            f"{where} is not a file of torch.save, or truncated: {_line(said)}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        raise SAEError(
            f"{where} ({len(source)} bytes) is not a file of torch.save, or truncated: "
            f"{_line(str(error))}"
        ) from error
    except (AttributeError, AssertionError, OverflowError, MemoryError, RecursionError) as error:
        raise SAEError(f"{where} is damaged: {_line(str(error))}") from error


def _refuse_bomb(payload: bytes, where: str) -> None:
    if not payload.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise SAEError(
            f"{where} ({len(payload)} bytes) is not a file of torch.save, or truncated: {error}"
        ) from error
    if total > MAX_UNPACKED * len(payload) + MAX_CONFIG_BYTES:
        raise SAEError(f"{where} has {len(payload)} bytes and unpacks to {total}: refused")


def _line(text: str) -> str:
    return next(iter(text.splitlines()), "")[:200]


class Tensors:
    """Tensors by name, each taken at most once; what nobody takes or expects is an error.

    Args:
        found: name -> tensor, as read.
        where: the file, for messages.

    Raises:
        SAEError: `found` is not a table.
    """

    def __init__(self, found: Any, where: str) -> None:
        if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
            raise SAEError(f"{where} holds a {type(found).__name__}, not a table of tensors")
        self.found = dict(found)
        self.where = where
        self._left = set(self.found)

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self.found)

    def shape(self, name: str) -> tuple[int, int]:
        """Rows and columns of a matrix.

        Raises:
            SAEError: missing or not a matrix.
        """
        tensor = self._get(name)
        if tensor.ndim != 2 or 0 in tensor.shape:
            raise SAEError(f"{self.where}: {name} has shape {tuple(tensor.shape)}, not a matrix")
        return int(tensor.shape[0]), int(tensor.shape[1])

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor as contiguous float32 of the shape that is expected.

        Raises:
            SAEError: missing, of another shape, not of real numbers or not finite.
        """
        tensor = self._get(name)
        if tuple(tensor.shape) != shape:
            raise SAEError(
                f"{self.where}: {name} has shape {tuple(tensor.shape)}, expected {shape}"
            )
        if not tensor.is_floating_point():
            raise SAEError(f"{self.where}: {name} holds {tensor.dtype}, not real numbers")
        # A stride of 0 makes any shape out of one number; its copy would fill the memory.
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise SAEError(f"{self.where}: {name} has shape {shape} but holds fewer numbers")
        self._left.discard(name)
        value = tensor.to(torch.float32).contiguous().clone()
        if not bool(torch.isfinite(value).all()):
            raise SAEError(f"{self.where}: {name} holds values that are not finite numbers")
        return value

    def number(self, name: str) -> float | int:
        """Return a tensor of one number, or the number itself.

        Raises:
            SAEError: missing, more than one or not finite.
        """
        value = self.found.get(name)
        self._left.discard(name)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if type(value) not in (int, float) or not abs(value) < float("inf"):  # pyright: ignore
            raise SAEError(f"{self.where}: {name} = {str(value)[:60]} is not a finite number")
        return value  # pyright: ignore

    def drop(self, names: Iterable[str]) -> None:
        """Expect these names without using them: counters of training."""
        self._left -= set(names)

    def finish(self) -> None:
        """Refuse what nobody took.

        Raises:
            SAEError: with the names; leaving them out could change the function.
        """
        if self._left:
            raise SAEError(
                f"{self.where} also holds {sorted(self._left)}, which this reader does not know; "
                "leaving them out could change the numbers"
            )

    def _get(self, name: str) -> Tensor:
        value = self.found.get(name)
        if not isinstance(value, Tensor):
            raise SAEError(f"{self.where} has no tensor {name!r}; it holds {self.names()[:20]}")
        if value.layout != torch.strided or value.is_quantized:
            raise SAEError(f"{self.where}: {name} is not a plain dense tensor")
        return value


class Settings:
    """Values of a config, checked as they are asked for.

    Args:
        found: the table.
        where: the file, for messages.
    """

    def __init__(self, found: dict[str, Any], where: str) -> None:
        self.found = found
        self.where = where

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        """Return a whole number from `least` to 2^31 - 1.

        Raises:
            SAEError: missing without default, not a whole number or out of range.
        """
        value = self.found.get(key, default)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= MAX_SIZE:
            raise SAEError(
                f"{self.where}: {key} = {_short(value)} is not a whole number from {least} to "
                f"{MAX_SIZE}"
            )
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """Return a finite number.

        Raises:
            SAEError: missing without default, or not a finite number.
        """
        value = self.found.get(key, default)
        if type(value) not in (int, float) or not abs(value) < float("inf"):  # pyright: ignore
            raise SAEError(f"{self.where}: {key} = {_short(value)} is not a finite number")
        return float(value)  # pyright: ignore

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a truth value.

        Raises:
            SAEError: another type.
        """
        value = self.found.get(key, default)
        if type(value) is not bool:
            raise SAEError(f"{self.where}: {key} = {_short(value)} is neither true nor false")
        return value

    def word(self, key: str, default: str | None = None) -> str:
        """Return a text.

        Raises:
            SAEError: missing without default, or another type.
        """
        value = self.found.get(key, default)
        if not isinstance(value, str):
            raise SAEError(f"{self.where}: {key} = {_short(value)} is not a word")
        return value

    def agree(self, key: str, found: int) -> None:
        """Refuse a size that the config and the weights tell differently; absent is fine.

        Raises:
            SAEError: with both.
        """
        if self.found.get(key) is not None and self.whole(key) != found:
            raise SAEError(
                f"{self.where}: {key} = {self.found[key]}, but the weights have {found}: config "
                "and weights are not of one SAE"
            )


def _short(value: object) -> str:
    return repr(value)[:80]
