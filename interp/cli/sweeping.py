"""`interp sweep`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

import interp
from interp import InterpError, TrainConfig
from interp.cli.saes import read_options
from interp.cli.show import print_table

Flat = arg(name="")


@dataclass(frozen=True)
class Sweep:
    """Train SAEs with a grid of settings over one pass of a store, and compare them.

    Example: interp sweep activations/0123456789ab mid --grid k=8,16,32 n_latents=512,1024
    """

    store: Annotated[Positional[Path], arg(metavar="STORE")]
    """The store's folder."""
    point: Annotated[Positional[str], arg(metavar="POINT")]
    """Hook point, as `interp store info` lists them."""
    grid: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE,VALUE ...")]
    """Settings or options and their values; every combination is trained."""
    out: Path = Path("sweep")
    """Folder of the run directories, sweep.json and sweep.csv."""
    judge: Path | None = None
    """A store of other images that judges them; none: the rows held out of STORE."""
    config: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)
    fresh: bool = False
    """Start again instead of continuing what the folder holds."""
    device: str = "cpu"
    """cpu or cuda."""

    def run(self) -> None:
        """Print the table, best FVU first, and the path of the CSV file."""
        from interp.sae.sweep import sweep

        results = sweep(
            interp.open_store(self.store),
            read_grid(self.grid),
            self.config,
            point=self.point,
            out=self.out,
            judge=None if self.judge is None else interp.open_store(self.judge),
            resume=not self.fresh,
            device=self.device,
        )
        rows = [("run", "fvu", "l0", "dead", "judged on")]
        for one in results:
            rows.append(
                (one.name, f"{one.fvu:.4f}", f"{one.l0:.1f}", f"{one.dead:.1%}", one.judged)
            )
        print_table(rows)
        print(self.out / "sweep.csv")


def read_grid(words: tuple[str, ...]) -> dict[str, list[Any]]:
    """Return setting -> values of words such as "k=8,16".

    Raises:
        InterpError: no "=", or a setting twice.
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        name, _, text = word.partition("=")
        if not name or not text or name in grid:
            why = "is there twice" if name in grid else "must be NAME=VALUE,VALUE, such as k=8,16"
            raise InterpError(f"--grid {word!r} {why}")
        grid[name] = [read_options([f"{name}={value}"])[name] for value in text.split(",")]
    return grid
