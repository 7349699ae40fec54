"""`interp dashboard`, `interp compare` and `interp demo`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

import interp
from interp import InterpError
from interp.cli.show import print_table
from interp.demo import DemoConfig


@dataclass(frozen=True)
class DashboardBuild:
    """Write a page that opens from a file, without server or network.

    Example: interp dashboard build --features features --stores activations/ba9876543210
    """

    features: tuple[Path, ...] = ()
    """Folders of `interp describe`."""
    stores: tuple[Path, ...] = ()
    """Stores that the features were described on, for their images."""
    alignments: tuple[Path, ...] = ()
    """Files of `interp compare`."""
    out: Path = Path("dashboard")
    """Folder of the page."""
    title: str = "Features and alignments"
    """Heading of the page."""

    def run(self) -> None:
        """Print the page's path."""
        page = interp.build_dashboard(
            self.out, self.features, self.stores, alignments=self.alignments, title=self.title
        )
        print(page)


@dataclass(frozen=True)
class DashboardServe:
    """Show a dashboard at an address of this machine alone, until stopped."""

    path: Positional[Path] = Path("dashboard")
    """Folder of the page."""
    port: int = 8765
    """Port on 127.0.0.1; 0 chooses a free one."""

    def run(self) -> None:
        """Serve until interrupted."""
        from interp.dashboards import serve

        serve(self.path, self.port)


@dataclass(frozen=True)
class Compare:
    """Compare the layers of models on the same images, with nulls, intervals and twins.

    Each model is LABEL=STORE; the stores hold the same images.
    Example: interp compare vit=activations/0123 ddpm=activations/4567 --twins ddpm=activations/89ab
    """

    models: Annotated[Positional[tuple[str, ...]], arg(metavar="LABEL=STORE ...")]
    """LABEL=STORE, two or more."""
    twins: tuple[str, ...] = ()
    """LABEL=STORE: the same capture of the untrained twin."""
    measures: tuple[str, ...] = ("cka", "mutual_knn", "procrustes")
    """What to measure."""
    points: tuple[str, ...] = ("*",)
    """Names or patterns of points, in every store that has some."""
    pooling: Literal["mean", "tokens"] = "mean"
    """mean over positions, or tokens on a 4 x 4 grid with each position's mean removed."""
    permutations: int = 500
    """Permutations behind each p; 0 for none, else at least 200."""
    seed: int = 0
    """Seed of permutations and folds."""
    out: Path = Path("alignment.json")
    """File of the result; `interp dashboard build --alignments` shows it."""

    def run(self) -> None:
        """Print the strongest pair of layers for each pair of models."""
        if len(self.models) < 2:
            raise InterpError(f"{len(self.models)} model to compare: two or more are needed")
        alignment = interp.compare_layers(
            self._open(self.models),
            twins=self._open(self.twins),
            measures=self.measures,
            pooling=self.pooling,
            n_permutations=self.permutations,
            seed=self.seed,
            progress=lambda line: print(line, file=sys.stderr),
        )
        alignment.save(self.out)
        print_table(strongest_rows(alignment))
        print(self.out)

    def _open(self, pairs: Sequence[str]) -> dict[str, Any]:
        found = {}
        for pair in pairs:
            label, _, path = pair.partition("=")
            if not label or not path:
                raise InterpError(f"{pair!r}: LABEL=STORE is needed")
            found[label] = (interp.open_store(path), self.points)
        return found


@dataclass(frozen=True)
class Demo:
    """Run the whole job on the models in the box and write a page to open."""

    config: Annotated[DemoConfig, arg(name="")] = field(default_factory=DemoConfig)

    def run(self) -> None:
        """Print one line per stage and a closing table."""
        from interp.demo import demo

        demo(self.config)


def strongest_rows(alignment: Any) -> list[tuple[str, ...]]:
    """Return the strongest cell of each model pair and measure as text."""
    rows: list[tuple[str, ...]] = []
    rows.append(("layers", "measure", "value", "null", "p (max-T, Holm)", "twin", "difference"))
    names = [layer.name for layer in alignment.layers]
    for family in alignment.families:
        cell = alignment.cell(*family.best, family.measure)
        numbers = [cell.comparison.value, cell.comparison.null_mean, family.p_holm]
        numbers += [cell.twin_value, cell.difference]
        texts = ["-" if number is None else f"{number:.4f}" for number in numbers]
        rows.append((f"{names[cell.i]} ~ {names[cell.j]}", family.measure, *texts))
    return rows
