"""Ranks in a grid, data by latents, and the few collectives that training needs."""

import atexit
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from interp.errors import SAEError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

Dimension = Literal["data", "latents"]

# A rank may read a slow disk for minutes; torch's own half an hour is too long to wait for the
# dead.
TIMEOUT = timedelta(minutes=10)


# Names of tensors of which a rank holds its own rows; all others are whole on every rank.
SPLIT = {"W_enc", "b_enc", "W_dec", "silent"}


class Span(NamedTuple):
    """A rank's latents [low, high)."""

    low: int
    high: int


class Layout(NamedTuple):
    """Sizes of the grid."""

    data: int
    """Ranks, or rows of ranks, that each take a part of every batch."""
    latents: int
    """Ranks that each hold a part of the latents."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """This process's place in the grid of ranks.

    Collectives act on the ranks that differ from this one in one dimension only; every rank must
    call them in the same order. They raise SAEError where a rank no longer answers.
    """

    layout: Layout
    device: torch.device
    grid: "DeviceMesh"

    @property
    def rank(self) -> int:
        """Of all."""
        return dist.get_rank()

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.layout.data * self.layout.latents

    @property
    def data_rank(self) -> int:
        """Which part of every batch."""
        return self.rank // self.layout.latents

    @property
    def latent_rank(self) -> int:
        """Which part of the latents."""
        return self.rank % self.layout.latents

    def size(self, dimension: Dimension) -> int:
        """Number of ranks along a dimension."""
        return getattr(self.layout, dimension)

    def gather(self, tensor: Tensor, dimension: Dimension) -> Tensor:
        """Every rank's tensor [...], of one shape, in rank order: [ranks, ...]."""
        if self.size(dimension) == 1:
            return tensor[None]
        out = tensor.new_empty(self.size(dimension), *tensor.shape)
        with self._answering():
            dist.all_gather(list(out), tensor.contiguous(), group=self.grid.get_group(dimension))
        return out

    def sum_(self, tensor: Tensor, dimension: Dimension) -> Tensor:
        """Sum over ranks, in place; the same bits on each."""
        return self._reduce_(tensor, dimension, dist.ReduceOp.SUM)

    def max_(self, tensor: Tensor, dimension: Dimension) -> Tensor:
        """Largest over ranks, in place."""
        return self._reduce_(tensor, dimension, dist.ReduceOp.MAX)

    def broadcast_(self, tensor: Tensor) -> Tensor:
        """The tensor of the first rank of this row of latents, in place."""
        if self.layout.latents > 1:
            group = self.grid.get_group("latents")
            with self._answering():
                dist.broadcast(tensor, group=group, group_src=0)
        return tensor

    def everyone(self, value: Any) -> list[Any]:
        """A picklable value of each of the ranks, in rank order."""
        values: list[Any] = [None] * self.world
        with self._answering():
            dist.all_gather_object(values, value)
        return values

    def _reduce_(self, tensor: Tensor, dimension: Dimension, operation: Any) -> Tensor:
        if self.size(dimension) > 1:
            with self._answering():
                dist.all_reduce(tensor, operation, group=self.grid.get_group(dimension))
        return tensor

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise SAEError(
                f"rank {self.rank} of {self.world}: another rank stopped or does not answer "
                f"({_reason(error)}); the last checkpoint is kept: start the "
                "same command again, with any number of ranks"
            ) from error


def span_of(n_latents: int, ranks: int, rank: int) -> Span:
    """Latents of a rank: as `torch.chunk` and DTensor's Shard(0) split m, the last part shorter.

    Raises:
        SAEError: the split leaves a rank without latents.
    """
    width = -(-n_latents // ranks)
    if width * (ranks - 1) >= n_latents:
        raise SAEError(
            f"n_latents = {n_latents} over {ranks} ranks in parts of {width} leaves the last rank "
            f"none: use at most {-(-n_latents // width)} ranks for the latents"
        )
    return Span(width * rank, min(width * (rank + 1), n_latents))


def spread(own: Tensor, mesh: Mesh, n_latents: int) -> "DTensor":
    """The tensor of all latents of which a rank holds its own rows."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    size = torch.Size((n_latents, *own.shape[1:]))
    stride = torch.empty(size, device="meta").stride()
    places = [Replicate(), Shard(0)]
    own = own.detach().contiguous()
    return DTensor.from_local(own, mesh.grid, places, run_check=False, shape=size, stride=stride)


def parse_layout(layout: str, world: int) -> Layout | None:
    """Sizes of the grid that a layout's name means for a number of ranks.

    Args:
        layout: "auto" and "latents" split the latents over all ranks; "2x4" (data x latents) also
            splits every batch in 2; "each" lets every rank train for itself.
        world: number of ranks.

    Returns:
        The sizes; None where a process trains alone ("each", or a single rank).

    Raises:
        SAEError: no such layout, or one of another number of ranks.
    """
    if layout == "each":
        return None
    if layout in ("auto", "latents"):
        return Layout(1, world) if world > 1 else None
    sizes = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", layout)
    if sizes is None:
        raise SAEError(
            f"unknown layout {layout!r}; known are 'auto', 'latents', 'each', and data x latents "
            "such as '2x4'"
        )
    data, latents = int(sizes[1]), int(sizes[2])
    if data * latents != world:
        raise SAEError(
            f"layout {layout} needs {data * latents} ranks, but {world} run: start it with "
            f"torchrun --nproc-per-node {data * latents}, or choose a layout of {world}"
        )
    return Layout(data, latents) if world > 1 else None


def world_size() -> int:
    """Ranks of this job: of the process group, else what torchrun announces, else 1."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if _under_torchrun() else 1


def this_rank() -> int:
    """This process's rank among `world_size()`."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ["RANK"]) if _under_torchrun() else 0


def open_mesh(layout: str, device: str) -> Mesh | None:
    """Join the other ranks; None where this process trains alone.

    A process group that the program has opened is used as it is; otherwise one is opened from what
    torchrun announces (gloo, and NCCL for "cuda") and closed when the process ends.

    Args:
        layout: see `parse_layout`.
        device: "cpu" or "cuda"; "cuda" means the GPU of the rank's place on its machine.

    Raises:
        SAEError: the layout does not fit the ranks, or the process group cannot carry CPU tensors.
    """
    from torch.distributed.device_mesh import init_device_mesh

    sizes = parse_layout(layout, world_size())
    if sizes is None:
        return None
    place = _own_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
        _meet(backend)
    for kind in {"cpu", place.type}:
        if f"{kind}:" not in str(dist.get_backend_config()):
            raise SAEError(
                f"the process group ({dist.get_backend_config()}) carries no {kind} tensors: open "
                "it with backend='cpu:gloo,cuda:nccl'"
            )
    names = ("data", "latents")
    return Mesh(sizes, place, init_device_mesh(place.type, tuple(sizes), mesh_dim_names=names))


def _reason(error: RuntimeError) -> str:
    """The first sentence of a message of gloo or NCCL, without the place in their source."""
    return re.sub(r"^\[\S+\] ", "", str(error).splitlines()[0]).partition(". ")[0][:200]


def _under_torchrun() -> bool:
    # MASTER_ADDR tells torchrun from schedulers that also set WORLD_SIZE.
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))


def _own_device(device: str) -> torch.device:
    place = torch.device(device)
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(place)
    return place


def _meet(backend: str) -> None:
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise SAEError(
            f"the {world_size()} ranks that torchrun announces did not meet: {error}"
        ) from error
    atexit.register(_close)


def _close() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
