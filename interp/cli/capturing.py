"""`interp points` and `interp capture`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

import interp
from interp import Encoding, Generation, Rows
from interp.cli.show import print_table

Flat = arg(name="")


@dataclass(frozen=True)
class Which:
    """Which network, and where it runs."""

    untrained: bool = False
    """Fresh weights in the same architecture: the untrained twin."""
    model_seed: int = 0
    """Seed of the fresh weights."""
    device: str = "cpu"
    """cpu, cuda, cuda:0 ..."""
    dtype: Literal["native", "float32", "float16", "bfloat16"] = "native"
    """Type of the weights; native keeps that of the files."""

    def load(self, spec: str) -> Any:
        """Return the model."""
        dtype = None if self.dtype == "native" else self.dtype
        return interp.load(
            spec,
            untrained=self.untrained,
            seed=self.model_seed,
            device=self.device,
            dtype=dtype,
        )


@dataclass(frozen=True)
class Points:
    """List the hook points of a model: name, stream, kind, width, grid, depth.

    Example: interp points zoo:ddpm
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """zoo:ddpm, diffusers:<id or folder>, ..."""
    which: Annotated[Which, Flat] = field(default_factory=Which)

    def run(self) -> None:
        """Print one line per point."""
        rows = [("name", "stream", "kind", "width", "grid", "depth")]
        for point in self.which.load(self.model).points.values():
            grid = "x".join(map(str, point.grid)) or "-"
            fields = point.name, point.stream, point.kind, str(point.width), grid
            rows.append((*fields, f"{point.depth:.2f}"))
        print_table(rows)


@dataclass(frozen=True)
class Target:
    """Which rows are kept, and where."""

    points: tuple[str, ...] = ("all",)
    """Names or patterns such as "up_blocks.*"; all: every block output and entry."""
    rows: Rows = field(default_factory=Rows)
    out: Path = Path("activations")
    """Folder of stores; a store's own folder in it is named by the hash of its recipe."""
    shard_size: int = 0
    """Generations per shard; 0: about 256 MB per file."""
    rank: int = 0
    """Which share of the shards this process writes, from 0."""
    world: int = 1
    """Number of processes that share the capture."""
    dry: bool = False
    """Print the rows and bytes that it would take, and stop."""


def _capture(spec: str, recipe: Generation | Encoding, target: Target, which: Which) -> None:
    model = which.load(spec)
    if target.dry:
        plan = interp.estimate(
            model, target.points, recipe, rows=target.rows, shard_size=target.shard_size
        )
        print(plan)
        return
    store = interp.capture(
        model,
        target.points,
        recipe,
        out=target.out,
        rows=target.rows,
        shard_size=target.shard_size,
        rank=target.rank,
        world=target.world,
    )
    print(store.path)


@dataclass(frozen=True)
class CaptureGenerate:
    """Store activations while the model makes images.

    Example: interp capture generate zoo:ddpm --n 64 --points "up_blocks.*"
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """zoo:ddpm, diffusers:<id or folder>, ..."""
    recipe: Annotated[Generation, Flat] = field(default_factory=Generation)
    target: Annotated[Target, Flat] = field(default_factory=Target)
    which: Annotated[Which, Flat] = field(default_factory=Which)

    def run(self) -> None:
        """Print the store's folder."""
        _capture(self.model, self.recipe, self.target, self.which)


@dataclass(frozen=True)
class CaptureEncode:
    """Store activations while the model looks at images.

    Example: interp capture encode zoo:vit --images glyphs/heldout --rows.positions mean
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """zoo:vit, diffusers:<id or folder>, transformers:<id or folder>, ..."""
    recipe: Annotated[Encoding, Flat] = field(default_factory=Encoding)
    target: Annotated[Target, Flat] = field(default_factory=Target)
    which: Annotated[Which, Flat] = field(default_factory=Which)

    def run(self) -> None:
        """Print the store's folder."""
        _capture(self.model, self.recipe, self.target, self.which)
