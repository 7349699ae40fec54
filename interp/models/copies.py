"""Copies of what modules return: same structure, same strides, same sharing of memory."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device)


class Opaque(Exception):
    """A value holds something that is not known to be copied by its parts."""


def copied(value: Any) -> Any:
    """Return a copy of a module's output in which nothing is shared with the original.

    Strides, offsets and memory that tensors of the output share are kept: kernels, and so the last
    bit, follow the former, and what is done in place the latter. Gradients are not.

    Raises:
        Opaque: it holds an object other than tensors, numbers, texts, tuples, lists, mappings and
            dataclasses of them.
    """
    memory: dict[int, torch.UntypedStorage] = {}
    return _mapped(value, lambda tensor: _copied_tensor(tensor, memory))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in tuples, lists, mappings and dataclasses; other objects are passed by."""
    if isinstance(value, Tensor):
        yield value
        return
    parts = _parts(value)
    for part in () if parts is None else parts.values():
        yield from tensors_in(part)


def n_bytes(value: Any) -> int:
    """Return the bytes of memory that the tensors of a value hold, shared memory once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors_in(value)}
    return sum(storage.nbytes() for storage in storages.values())


def _parts(value: Any) -> dict[Any, Any] | None:
    """Parts of a container by key; None for what is not one."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    return None


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if value is None or isinstance(value, PLAIN):
        return value
    parts = _parts(value)
    if parts is None:
        raise Opaque(type(value).__name__)
    new = {key: _mapped(part, change) for key, part in parts.items()}
    kind: Any = type(value)
    if isinstance(value, tuple | list):
        return kind(*new.values()) if hasattr(value, "_fields") else kind(new.values())
    # Outputs of diffusers and transformers are mappings and dataclasses at once.
    return kind(**new) if dataclasses.is_dataclass(value) else kind(new)


def _copied_tensor(tensor: Tensor, memory: dict[int, torch.UntypedStorage]) -> Tensor:
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.is_conj() or tensor.is_neg():
        raise Opaque(f"{type(tensor).__name__} of layout {tensor.layout}")
    storage = tensor.untyped_storage()
    if storage.data_ptr() not in memory:
        memory[storage.data_ptr()] = storage.clone()
    with torch.no_grad():
        new = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        where = memory[storage.data_ptr()]
        new.set_(where, tensor.storage_offset(), tensor.size(), tensor.stride())  # pyright: ignore
    return new
