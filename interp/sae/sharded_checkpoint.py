"""Checkpoints that many ranks write at once and that any number of ranks can read.

`torch.distributed.checkpoint` writes one folder per checkpoint; the folder counts once its metadata
are there, which is last. The layout is not part of it: 4 ranks go on from what 2 have written, and
one process from what 4 have. The metadata are a pickle, as torch writes them: it is read by an
unpickler that knows torch's records of sizes and places, and refused where it names anything else.
"""

import io
import pickle
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import SAEError
from interp.sae.sharded_mesh import SPLIT, Mesh, span_of, spread

_PLAIN = "plain"
_METADATA = "torch.distributed.checkpoint.metadata"
_KNOWN = {
    *((_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta")),
    *((_METADATA, name) for name in ("TensorStorageMetadata", "ChunkStorageMetadata")),
    *((_METADATA, name) for name in ("TensorProperties", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
}


def save_shards(directory: Path, state: dict[str, Any], mesh: Mesh, n_latents: int) -> None:
    """Write a checkpoint from all ranks; afterwards older ones are removed.

    Args:
        directory: the run's, the same on every rank.
        state: tensors and plain values in dicts, with "step"; tensors of `SPLIT` are the rank's own
            part. Plain values are taken from rank 0.
        mesh: this process's place.
        n_latents: m.

    Raises:
        SAEError: some rank cannot write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    folder = directory / f"shards-{state['step']:09d}"
    skeleton, tensors = _take_out(state)
    flat = {
        name: spread(value, mesh, n_latents) if _is_split(name, value.ndim) else value
        for name, value in tensors.items()
    }
    if mesh.rank == 0:
        buffer = io.BytesIO()
        torch.save(skeleton, buffer)
        flat[_PLAIN] = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    try:
        save(flat, storage_writer=FileSystemWriter(folder))
    except (CheckpointException, RuntimeError, OSError) as error:
        raise SAEError(
            f"rank {mesh.rank}: cannot write {folder} ({_cause(error)}); the checkpoint before it "
            "is kept"
        ) from error
    if mesh.rank == 0:
        (directory / "checkpoint.pt").unlink(missing_ok=True)
        remove_shards(directory, but=folder)


def newest_shards(directory: Path) -> Path | None:
    """The complete checkpoint of the most steps, or None."""
    done = [path.parent for path in directory.glob("shards-*/.metadata")]
    return max(done, key=step_of, default=None)


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder."""
    found = re.fullmatch(r"shards-(\d+)", folder.name)
    return int(found[1]) if found else -1


def remove_shards(directory: Path, but: Path | None = None) -> None:
    """Remove the checkpoints of several ranks, finished or not, except one."""
    for folder in directory.glob("shards-*"):
        if folder != but:
            # Without its metadata a folder no longer counts, should this stop half-way.
            (folder / ".metadata").unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)


def load_shards(folder: Path, mesh: Mesh | None = None) -> dict[str, Any]:
    """Read a checkpoint on any number of ranks.

    Args:
        folder: the checkpoint's, see `newest_shards`.
        mesh: this process's place; None reads the whole on one process.

    Returns:
        The state as `save_shards` took it, on the CPU, with the rank's own part of what is split.

    Raises:
        SAEError: the checkpoint is damaged.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        flat = {
            name: _room(name, torch.Size(size), dtype, mesh)
            for name, (size, dtype) in _sizes(folder).items()
        }
        with warnings.catch_warnings():
            # One process means to load as one process.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(flat, storage_reader=FileSystemReader(folder), no_dist=mesh is None)
        local = {name: getattr(value, "_local_tensor", value) for name, value in flat.items()}
        plain = io.BytesIO(local.pop(_PLAIN).numpy().tobytes())
        skeleton = torch.load(plain, weights_only=True)
    except (CheckpointException, Exception) as error:
        # Damage shows as KeyError, EOFError, UnpicklingError, RuntimeError ... by place.
        raise SAEError(
            f"{folder} is damaged ({_cause(error)}); delete it to start the run again"
        ) from error
    return _put_back(skeleton, local)


def part_of(state: dict[str, Any], low: int, high: int) -> dict[str, Any]:
    """The latents [low, high) of a state of one process."""
    skeleton, tensors = _take_out(state)
    own = {
        name: value[low:high].clone() if _is_split(name, value.ndim) else value
        for name, value in tensors.items()
    }
    return _put_back(skeleton, own)


class _Records(pickle.Unpickler):
    """Admits what `torch.distributed.checkpoint` needs to describe tensors, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        value = super().find_class(module, name) if (module, name) in _KNOWN else None
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            value = getattr(torch, name)
        if value is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, no record of a checkpoint")
        return value


def _sizes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Size and dtype of each tensor of a checkpoint."""
    with (folder / ".metadata").open("rb") as file:
        entries = _Records(file).load().state_dict_metadata
    return {name: (entry.size, entry.properties.dtype) for name, entry in entries.items()}


def _room(name: str, size: torch.Size, dtype: torch.dtype, mesh: Mesh | None) -> Tensor:
    if mesh is None or not _is_split(name, len(size)):
        return torch.zeros(size, dtype=dtype)
    span = span_of(size[0], mesh.layout.latents, mesh.latent_rank)
    own = torch.zeros(span.high - span.low, *size[1:], dtype=dtype)
    return spread(own, mesh, size[0])


def _is_split(name: str, ndim: int) -> bool:
    return ndim > 0 and any(part in SPLIT for part in name.split("."))


def _take_out(tree: Any, prefix: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Tensors by dotted name, and the tree with names in their places."""
    if isinstance(tree, Tensor):
        return {"tensor of the checkpoint": prefix}, {prefix: tree}
    if not isinstance(tree, dict):
        return tree, {}
    skeleton, tensors = {}, {}
    for key, value in tree.items():
        skeleton[key], inner = _take_out(value, f"{prefix}.{key}" if prefix else key)
        tensors |= inner
    return skeleton, tensors


def _put_back(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(skeleton, dict):
        return skeleton
    if skeleton.keys() == {"tensor of the checkpoint"}:
        return tensors[skeleton["tensor of the checkpoint"]]
    return {key: _put_back(value, tensors) for key, value in skeleton.items()}


def _cause(error: BaseException) -> str:
    failures = getattr(error, "failures", None)
    inner = next(iter(failures.values()))[0] if failures else error
    return (str(inner) or type(inner).__name__).splitlines()[0]
