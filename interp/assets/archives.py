"""Tensors out of foreign checkpoint files, without running what is in them."""

import io
import pickle
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.errors import InputError


def read_torch(data: bytes, key: str = "") -> dict[str, Tensor]:
    """Return the state dict in a file of torch.save, by torch's weights-only reader.

    Args:
        data: the file's bytes.
        key: of the state dict, where the file holds a dict of several things.

    Returns:
        Name -> tensor on the CPU.

    Raises:
        InputError: no file of torch.save, something in it that is neither tensor nor container, or
            no state dict under `key`.
    """
    import torch

    try:
        found: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{len(data)} bytes are no state dict of torch.save: {why}") from error
    if key and isinstance(found, Mapping):
        found = found.get(key)
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        place = f" under {key!r}" if key else ""
        raise InputError(f"the checkpoint holds no state dict of tensors{place}")
    return dict(found)


def read_safetensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Args:
        data: the file's bytes.

    Returns:
        Name -> tensor on the CPU.

    Raises:
        InputError: no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{len(data)} bytes are no safetensors file: {error}") from error
