"""ONNX files are read as data: tensors to the bit, and nothing that is cut, odd or elsewhere."""

import numpy as np
import pytest
import torch
from proto import constant, field, model, node, tensor, varint

from interp.assets.onnx import read_onnx
from interp.errors import InputError

X = np.arange(6, dtype="<f4").reshape(2, 3)


@pytest.mark.parametrize("kind", ["<f4", "<f2", "<f8", "<i8", "<i4", "|b1"])
def test_a_tensor_of_each_known_type_is_read_to_the_bit(kind: str) -> None:
    array = np.array([[0, 1, 2], [3, 1, 0]]).astype(kind)
    found = read_onnx(model([], [tensor("x", array)])).tensors["x"]
    assert found.shape == (2, 3)
    assert torch.equal(found, torch.from_numpy(array))


@pytest.mark.parametrize("array", [X, np.array([-5, 0, 2**62], dtype="<i8")], ids=["float", "int"])
def test_numbers_that_are_not_raw_are_read_as_well(array: np.ndarray) -> None:
    found = read_onnx(model([], [tensor("x", array, raw=False)])).tensors["x"]
    assert torch.equal(found, torch.from_numpy(array))


def test_scalars_empty_tensors_and_packed_shapes_are_read() -> None:
    packed = field(1, varint(3) + varint(2))
    tensors = [
        tensor("scalar", np.array(2.5, dtype="<f4")),
        tensor("empty", np.zeros((0, 4), dtype="<f4")),
        tensor("packed", X, dims=packed),
    ]
    found = read_onnx(model([], tensors)).tensors
    assert found["scalar"].item() == 2.5
    assert found["empty"].shape == (0, 4)
    assert found["packed"].shape == (3, 2)


def test_nodes_keep_their_order_ports_and_constants() -> None:
    data = model([node("Conv", "c", ["x", "w"], ["y"]), constant("k", X)], [tensor("w", X)])
    graph = read_onnx(data)
    assert graph.nodes[0][:4] == ("Conv", "c", ("x", "w"), ("y",))
    assert [one.op for one in graph.nodes] == ["Conv", "Constant"]
    assert torch.equal(graph.tensors["k"], torch.from_numpy(X))


def test_a_tensor_owns_its_memory() -> None:
    data = bytearray(model([], [tensor("x", X)]))
    found = read_onnx(bytes(data)).tensors["x"]
    found += 1
    assert found[0, 0] == 1


def test_unknown_fields_of_every_wire_type_are_passed_over() -> None:
    odd = varint(99 << 3 | 1) + b"8 bytes." + varint(98 << 3 | 5) + b"four" + field(97, 7)
    assert read_onnx(odd + model([], [tensor("x", X)])).tensors["x"].shape == (2, 3)


EXTERNAL = field(1, 2) + field(2, 1) + field(8, "x") + field(13, b"path") + field(14, 1)
STRING = field(1, 1) + field(2, 8) + field(8, "s") + field(9, b"abcd")
NEGATIVE = tensor("x", X, dims=field(1, -2) + field(1, -3))
HUGE = tensor("x", X, dims=field(1, 2**40) + field(1, 2**40))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "one graph, this has 0 in 0 bytes"),
        (b"PK\x03\x04 a zip file", "no ONNX file|cut off|one graph"),
        (b"\xff" * 20, "more than 10 bytes"),
        (b"\x80", "cut off inside a number"),
        (varint(7 << 3 | 2) + varint(2**62) + b"x", "cut off: a field of 4611686018427387904"),
        (varint(7 << 3 | 3), "wire type 3"),
        (field(7, 5), "a number, 5, where a message belongs"),
        (model([], []) * 2, "one graph, this has 2"),
        (model([], [EXTERNAL]), "keeps its data in another file"),
        (model([], [STRING]), "'s' has data type 8"),
        (model([], [NEGATIVE]), r"shape \[-2, -3\]"),
        (model([], [HUGE]), "has 24 bytes of data"),
        (model([], [tensor("x", X, dims=field(1, 7))]), r"shape \[7\] and 4 bytes"),
        (model([], [tensor("x", X), tensor("x", X)]), "named 'x': twice"),
        (model([], [tensor("", X)]), "named '': not at all"),
        (model([], [field(2, 1) + field(8, b"\xff\xfe")]), "not UTF-8"),
    ],
)
def test_a_hostile_file_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_onnx(data)


def test_a_file_cut_off_anywhere_is_refused() -> None:
    whole = model([node("Conv", "c", ["x", "w"], ["y"])], [tensor("w", X)])
    # Before the graph there is nothing to miss; from its first byte on there is.
    for end in range(len(field(1, 8) + field(2, "test")), len(whole)):
        with pytest.raises(InputError, match=r"cut off|one graph"):
            read_onnx(whole[:end])
