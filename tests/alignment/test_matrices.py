"""Matrices from files: what is read, and what is refused with which words."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from interp.alignment.matrices import (
    as_features,
    matrix_representations,
    read_labels,
    read_matrices,
)
from interp.errors import InputError

X = np.arange(24, dtype=np.float32).reshape(8, 3)


def test_npy_npz_and_safetensors_hold_layers(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", early=X, late=2 * X)
    save_file({"b": torch.from_numpy(X), "a": torch.ones(8, 2, 3)}, tmp_path / "x.safetensors")
    assert torch.equal(read_matrices(tmp_path / "x.npy")["features"], torch.from_numpy(X))
    assert list(read_matrices(tmp_path / "x.npz")) == ["early", "late"]
    found = read_matrices(tmp_path / "x.safetensors")
    assert {name: tuple(x.shape) for name, x in found.items()} == {"a": (8, 2, 3), "b": (8, 3)}


@pytest.mark.parametrize("dtype", [">f4", np.float16, np.int64, np.bool_, np.longdouble])
def test_numbers_of_any_dtype_and_byte_order_are_read(tmp_path: Path, dtype) -> None:
    np.save(tmp_path / "x.npy", X.astype(dtype))
    expected = torch.from_numpy(X.astype(dtype).astype(np.float64))
    assert torch.equal(read_matrices(tmp_path / "x.npy")["features"].double(), expected)


def test_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    class Program:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    objects = np.empty(2, dtype=object)
    objects[0] = Program()
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Program()))
    for name in ("objects.npy", "raw.npy"):
        with pytest.raises(InputError, match="pickled objects are not read"):
            read_matrices(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    save_file({"a": torch.from_numpy(X)}, tmp_path / "x.safetensors")
    for name in ("x.npy", "x.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for size in (0, 4, len(whole) - 5):
            (tmp_path / name).write_bytes(whole[:size])
            with pytest.raises(InputError, match="is no sound"):
                read_matrices(tmp_path / name)
    with pytest.raises(InputError, match="there is no such file"):
        read_matrices(tmp_path / "absent.npy")


def test_wrong_shapes_and_dtypes_are_refused(tmp_path: Path) -> None:
    for shape in ((24,), (2, 2, 2, 3)):
        np.save(tmp_path / "x.npy", X.reshape(shape))
        with pytest.raises(InputError, match=r"features has shape .*\[n rows, d\]"):
            read_matrices(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", X.astype(complex))
    with pytest.raises(InputError, match="complex128; features must be real"):
        read_matrices(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", X.astype(str))
    with pytest.raises(InputError, match="features must be real"):
        read_matrices(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", a=X, b=X[1:])
    with pytest.raises(InputError, match=r"different numbers of rows: {'a': 8, 'b': 7}"):
        read_matrices(tmp_path / "x.npz")
    with pytest.raises(InputError, match="real numbers"):
        as_features([["a"]], "x")


def test_labels_are_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("b\n a \nc\n\n")
    assert read_labels(path, "ids") == ("b", "a", "c")
    path.write_text("b\n\nc\n")
    with pytest.raises(InputError, match="line 2 is empty"):
        read_labels(path, "ids")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no text in UTF-8"):
        read_labels(path, "ids")
    path.write_text("")
    with pytest.raises(InputError, match="line 1 is empty"):
        read_labels(path, "ids")


def test_rows_without_ids_keep_their_order_and_repeated_ids_are_refused() -> None:
    layers = {"mid": torch.from_numpy(np.repeat(X, 2, 0))}
    (one,) = matrix_representations("x", layers)
    assert sorted(one.ids) == list(one.ids)
    with pytest.raises(InputError, match="1 ids stand more than once: a"):
        matrix_representations("x", layers, ids=["a", "a", *"bcdefghijklmno"[:14]])
    with pytest.raises(InputError, match="x has 16 rows and there are 3 clusters"):
        matrix_representations("x", layers, clusters=list("abc"))


def test_damaged_files_of_numpy_are_refused_as_such(tmp_path: Path) -> None:
    np.savez(tmp_path / "sound.npz", a=X, b=X)
    bytes_ = (tmp_path / "sound.npz").read_bytes()
    flipped = bytearray(bytes_)
    flipped[250] ^= 255
    (tmp_path / "cut.npz").write_bytes(bytes_[:200])
    (tmp_path / "flipped.npz").write_bytes(flipped)
    np.save(tmp_path / "sound.npy", X)
    for name, shape in (("huge", "(99999999999, 3), }"), ("open", "(8, 3), ")):
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': " + shape.encode()
        size = (len(header) + 1).to_bytes(2, "little")
        (tmp_path / f"{name}.npy").write_bytes(b"\x93NUMPY\x01\x00" + size + header + b"\n1234")
    for name in ("cut.npz", "flipped.npz", "huge.npy", "open.npy"):
        with pytest.raises(InputError, match="is no sound file of numbers"):
            read_matrices(tmp_path / name)


def test_a_file_without_rows_says_so(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, 3)))
    with pytest.raises(InputError, match=r"shape \(0, 3\)"):
        read_matrices(tmp_path / "none.npy")
