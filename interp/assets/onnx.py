"""The nodes and constant tensors of an ONNX file, read as data: nothing of it is run.

An ONNX file is a protocol buffer. Of its message `ModelProto` this reads `graph` (field 7), of
`GraphProto` the nodes (1) and initializers (5), of `NodeProto` inputs (1), outputs (2), name (3),
op_type (4) and tensors among the attributes (5), of `TensorProto` dims (1), data_type (2),
float_data (4), int64_data (7), name (8) and raw_data (9). Source: onnx.proto3 of ONNX IR
version 3 to 10; wire format of protocol buffers, encoding guide.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError

# TensorProto.DataType (onnx.proto3) -> little-endian elements, as raw_data holds them.
TYPES = {1: "<f4", 6: "<i4", 7: "<i8", 9: "|b1", 10: "<f2", 11: "<f8"}
# 64 bits in groups of 7 (encoding guide, "Base 128 Varints").
VARINT_BYTES = 10
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
Field = tuple[int, int | memoryview]


class Node(NamedTuple):
    """One operation: its op_type, name, the names of its inputs and outputs, a constant's value."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    value: Tensor | None


class Graph(NamedTuple):
    """The nodes in the order of the file (which is one of execution) and the tensors by name."""

    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]


def read_onnx(data: bytes) -> Graph:
    """Return the graph of an ONNX file: nodes, and tensors that are initializers or constants.

    Args:
        data: the file's bytes.

    Returns:
        The graph; tensors own their memory.

    Raises:
        InputError: not a protocol buffer, no graph in it, a tensor whose data is missing, kept in
            another file, of an unknown type, or of another size than its shape says.
    """
    graphs = [value for number, value in _fields(memoryview(data)) if number == 7]
    if len(graphs) != 1:
        raise InputError(f"an ONNX file has one graph, this has {len(graphs)} in {len(data)} bytes")
    nodes: list[Node] = []
    tensors: dict[str, Tensor] = {}
    for number, value in _fields(_message(graphs[0])):
        if number == 1:
            nodes.append(_node(_message(value)))
        elif number == 5:
            name, tensor = _tensor(_message(value))
            _add(tensors, name, tensor)
    for node in nodes:
        if node.value is not None:
            _add(tensors, node.outputs[0] if node.outputs else "", node.value)
    return Graph(tuple(nodes), tensors)


def _add(tensors: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if not name or name in tensors:
        raise InputError(f"an ONNX tensor is named {name!r}: {'twice' if name else 'not at all'}")
    tensors[name] = tensor


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number that starts at a byte, and where the next field starts."""
    number = 0
    for i in range(VARINT_BYTES):
        if at + i >= len(data):
            raise InputError(f"an ONNX file is cut off inside a number at byte {at + i}")
        byte = data[at + i]
        number |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return number, at + i + 1
    raise InputError(f"an ONNX file has a number of more than {VARINT_BYTES} bytes at byte {at}")


def _fields(data: memoryview) -> Iterator[Field]:
    """Yield (field number, value) of a message: whole numbers, or the bytes of anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == LENGTH:
            size, at = _varint(data, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise InputError(f"no ONNX file: wire type {kind} at byte {at}")
        if size > len(data) - at:
            raise InputError(
                f"an ONNX file is cut off: a field of {size} bytes at byte {at} of {len(data)}"
            )
        yield key >> 3, data[at : at + size]
        at += size


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise InputError(f"no ONNX file: a number, {value}, where a message belongs")
    return value


def _text(value: int | memoryview) -> str:
    try:
        return bytes(_message(value)).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"no ONNX file: a name is not UTF-8 ({error})") from error


def _node(data: memoryview) -> Node:
    names: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}
    value = None
    for number, field in _fields(data):
        if number in names:
            names[number].append(_text(field))
        elif number == 5:
            value = _attribute(_message(field)) if value is None else value
    op = "".join(names[4])
    constant = value if op == "Constant" else None
    return Node(op, "".join(names[3]), tuple(names[1]), tuple(names[2]), constant)


def _attribute(data: memoryview) -> Tensor | None:
    """Return the tensor of an AttributeProto (field 5, t), None where it holds something else."""
    for number, field in _fields(data):
        if number == 5:
            return _tensor(_message(field))[1]
    return None


def _tensor(data: memoryview) -> tuple[str, Tensor]:
    """Return name and value of a TensorProto."""
    dims: list[int] = []
    kind, name, elsewhere = 0, "", False
    raw: memoryview | None = None
    typed: dict[int, list[int | memoryview]] = {4: [], 7: []}
    for number, field in _fields(data):
        if number == 1:
            dims += _integers(field)
        elif number == 2 and isinstance(field, int):
            kind = field
        elif number == 8:
            name = _text(field)
        elif number == 9:
            raw = _message(field)
        elif number in typed:
            typed[number].append(field)
        elif number in (13, 14):
            elsewhere = elsewhere or field != 0
    if elsewhere:
        raise InputError(f"ONNX tensor {name!r} keeps its data in another file, which is not read")
    if kind not in TYPES:
        raise InputError(f"ONNX tensor {name!r} has data type {kind}; known are {sorted(TYPES)}")
    values = _typed(kind, typed) if raw is None else raw
    return name, _array(name, dims, TYPES[kind], values)


def _integers(field: int | memoryview) -> list[int]:
    """Return a repeated int64 field: one number, or several packed ones."""
    found, at = [], 0
    if isinstance(field, int):
        found = [field]
    else:
        while at < len(field):
            number, at = _varint(field, at)
            found.append(number)
    # Two's complement: what is negative in 64 bits.
    return [number - (1 << 64) if number >= 1 << 63 else number for number in found]


def _typed(kind: int, typed: dict[int, list[int | memoryview]]) -> bytes:
    """Return the little-endian bytes of float_data or int64_data."""
    if kind == 1:
        return b"".join(bytes(_message(field)) for field in typed[4])
    if kind == 7:
        numbers = [number for field in typed[7] for number in _integers(field)]
        return np.asarray(numbers, dtype="<i8").tobytes()
    return b""


def _array(name: str, dims: list[int], kind: str, values: bytes | memoryview) -> Tensor:
    dtype = np.dtype(kind)
    if any(size < 0 for size in dims) or math.prod(dims) * dtype.itemsize != len(values):
        raise InputError(
            f"ONNX tensor {name!r} of shape {dims} and {dtype.itemsize} bytes per element has "
            f"{len(values)} bytes of data"
        )
    array = np.frombuffer(values, dtype).reshape(dims)
    return torch.from_numpy(array.astype(dtype.newbyteorder("="), copy=True))
