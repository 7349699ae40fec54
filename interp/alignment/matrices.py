"""Feature matrices that a user brings: .npy, .npz and .safetensors files, arrays, label files."""

import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.alignment.representations import Representation, some_ids
from interp.errors import InputError

SUFFIXES = (".npy", ".npz", ".safetensors")
# The name of the one layer that an array without names holds.
ONLY = "features"
# What numpy raises on damaged files: of the header, of the archive, of sizes that cannot be.
DAMAGED = (
    *(ValueError, OSError, EOFError, KeyError, NotImplementedError, MemoryError, OverflowError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error, RecursionError),
)


def is_matrix_file(path: str | Path) -> bool:
    """Tell whether a path names a file of feature matrices, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES


def read_matrices(path: str | Path) -> dict[str, Float[Tensor, "n ..."]]:
    """Read feature matrices from a file: name -> [n, d] or [n, positions, d].

    .npy holds one array, named "features"; .npz and .safetensors hold one array per layer. Pickled
    objects are refused: they are programs.

    Raises:
        InputError: a missing, damaged or truncated file, objects or complex numbers, an array of
            another number of axes, arrays of different numbers of rows.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    found = _read_tensors(path) if path.suffix.lower() == ".safetensors" else _read_numpy(path)
    if not found:
        raise InputError(f"{path} holds no arrays")
    for name, x in found.items():
        if x.ndim not in (2, 3) or not x.numel():
            raise InputError(
                f"{path}: {name} has shape {tuple(x.shape)}; [n rows, d] or [n, positions, d] is "
                "needed, one row per image"
            )
    sizes = {name: len(x) for name, x in found.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"{path}: layers of different numbers of rows: {sizes}")
    return found


def _read_numpy(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {ONLY: loaded} if isinstance(loaded, np.ndarray) else dict(loaded.items())
    except DAMAGED as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} is no sound file of numbers: {why} (write it with numpy.save; pickled "
            "objects are not read)"
        ) from error
    return {name: as_features(x, f"{path}: {name}") for name, x in arrays.items()}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no sound safetensors file: {error}") from error
    return {name: as_features(tensors[name], f"{path}: {name}") for name in sorted(tensors)}


def as_features(x: Any, name: str) -> Tensor:
    """Return an array as a tensor of real numbers. Raises InputError for anything else."""
    if not isinstance(x, Tensor):
        array = np.asarray(x)
        if array.dtype.kind not in "fiub":
            raise InputError(f"{name} has dtype {array.dtype}; features must be real numbers")
        # Torch knows neither foreign byte orders nor long doubles.
        wide = array.dtype.kind == "f" and array.dtype.itemsize > 8
        native = array.astype(np.float64 if wide else array.dtype.newbyteorder("="), copy=False)
        x = torch.from_numpy(np.ascontiguousarray(native))
    if x.is_complex():
        raise InputError(f"{name} has dtype {x.dtype}; features must be real numbers")
    return x.detach().cpu()


def matrix_representations(
    model: str,
    layers: Mapping[str, Float[Tensor, "n ..."]],
    *,
    ids: Sequence[str] = (),
    clusters: Sequence[str] = (),
    strata: Sequence[str] = (),
) -> list[Representation]:
    """Return the layers of one model as Representations; without ids, row i is image i.

    Raises InputError for repeated ids, or labels of another number than rows.
    """
    n = len(next(iter(layers.values())))
    for what, labels in (("ids", ids), ("clusters", clusters), ("strata", strata)):
        if labels and len(labels) != n:
            raise InputError(f"{model} has {n} rows and there are {len(labels)} {what}: one a row")
    repeated = sorted(one for one, count in _counts(ids).items() if count > 1)
    if repeated:
        raise InputError(f"{len(repeated)} ids stand more than once: {some_ids(repeated)}")
    # The same width as the largest number, so that their order as text is that of the rows.
    names = tuple(ids) or tuple(f"row {i:0{len(str(n - 1))}d}" for i in range(n))
    near, within = tuple(clusters), tuple(strata)
    depth = {name: i / max(1, len(layers) - 1) for i, name in enumerate(layers)}
    return [
        Representation(model, name, x, names, near, within, depth=depth[name])
        for name, x in layers.items()
    ]


def _counts(labels: Sequence[str]) -> dict[str, int]:
    out: dict[str, int] = {}
    for label in labels:
        out[label] = out.get(label, 0) + 1
    return out


def read_labels(path: str | Path, what: str) -> tuple[str, ...]:
    """Read one label per line; blank lines at the end do not count.

    Args:
        path: a text file in UTF-8.
        what: the name of the labels in errors: ids, clusters, strata.

    Raises:
        InputError: a missing file, one that is no text, or an empty line between others.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of {what}")
    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: one of the {what} per line") from error
    if not lines or any(not line.strip() for line in lines):
        place = next((i for i, line in enumerate(lines) if not line.strip()), 0)
        raise InputError(f"{path}: line {place + 1} is empty; one of the {what} per line")
    return tuple(line.strip() for line in lines)
