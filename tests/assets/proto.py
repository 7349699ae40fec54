"""ONNX files, byte by byte: the writing half of what `interp.assets.onnx` reads."""

import numpy as np


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


TYPES = {"<f4": 1, "<i4": 6, "<i8": 7, "|b1": 9, "<f2": 10, "<f8": 11}


def tensor(name: str, array: np.ndarray, *, dims: bytes | None = None, raw: bool = True) -> bytes:
    """A TensorProto; `raw=False` writes float_data or int64_data instead of raw_data."""
    if dims is None:
        dims = b"".join(field(1, size) for size in array.shape)
    kind = TYPES[array.dtype.newbyteorder("<").str]
    if raw:
        values = field(9, array.tobytes())
    elif kind == 1:
        values = field(4, array.tobytes())
    else:
        values = field(7, b"".join(varint(int(x)) for x in array.ravel()))
    return dims + field(2, kind) + values + field(8, name)


def node(op: str, name: str, inputs: list[str], outputs: list[str], more: bytes = b"") -> bytes:
    """A NodeProto."""
    ports = b"".join(field(1, x) for x in inputs) + b"".join(field(2, x) for x in outputs)
    return ports + field(3, name) + field(4, op) + more


def constant(name: str, array: np.ndarray) -> bytes:
    """A node with its value as an attribute."""
    return node(
        "Constant", "", [], [name], field(5, field(1, "value") + field(5, tensor("", array)))
    )


def model(nodes: list[bytes], tensors: list[bytes]) -> bytes:
    """A ModelProto: IR version, producer, graph."""
    graph = b"".join(field(1, one) for one in nodes) + b"".join(field(5, one) for one in tensors)
    return field(1, 8) + field(2, "test") + field(7, graph)
