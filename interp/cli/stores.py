"""`interp store`: look after activation stores."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

import interp
from interp.cli.show import print_table


@dataclass(frozen=True)
class StoreInfo:
    """Say what a store holds: model, recipe, points, rows, bytes."""

    path: Annotated[Positional[Path], arg(metavar="STORE")]
    """The store's folder."""

    def run(self) -> None:
        """Print JSON."""
        from interp.store import store_info

        print(json.dumps(store_info(self.path), indent=1, default=str))


@dataclass(frozen=True)
class StoreList:
    """List the stores in a folder: model, recipe, rows, points."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")] = Path("activations")
    """Folder of stores."""

    def run(self) -> None:
        """Print one line per store."""
        from interp.store import find_stores, store_info

        rows = [("store", "model", "made by", "generations", "points", "MB")]
        for path in find_stores(self.folder):
            info = store_info(path)
            kind, megabytes = info["recipe"]["kind"], f"{info['bytes'] / 1e6:.1f}"
            counts = str(info["generations"]), str(len(info["points"]))
            rows.append((path.name, str(info["model"]), kind, *counts, megabytes))
        print_table(rows)


@dataclass(frozen=True)
class StoreVerify:
    """Read every byte of a store and compare it with its hashes; exit status 1 if any differs."""

    path: Annotated[Positional[Path], arg(metavar="STORE")]
    """The store's folder."""

    def run(self) -> int:
        """Print one line per problem."""
        problems = interp.open_store(self.path, partial=True).verify()
        for problem in problems:
            print(problem)
        print(f"{len(problems)} problems" if problems else "sound")
        return 1 if problems else 0


@dataclass(frozen=True)
class StoreMerge:
    """Join stores of one recipe, such as captures of different seeds, into a new one."""

    paths: Annotated[Positional[tuple[Path, ...]], arg(metavar="STORE ...")]
    """The stores."""
    out: Path = Path("activations")
    """Folder in which the joint store is made."""

    def run(self) -> None:
        """Print the new store's folder."""
        from interp.store import merge_stores

        print(merge_stores(self.paths, self.out).path)


@dataclass(frozen=True)
class StoreRemove:
    """Delete a store; a folder that is not a store is left alone."""

    path: Annotated[Positional[Path], arg(metavar="STORE")]
    """The store's folder."""

    def run(self) -> None:
        """Print how much that freed."""
        from interp.store import remove_store

        print(f"freed {remove_store(self.path) / 1e6:.1f} MB")
