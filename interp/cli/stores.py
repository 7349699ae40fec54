"""`interp store`: look after activation stores."""

import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

import interp


@dataclass(frozen=True)
class StoreInfo:
    """Say what a store holds: model, recipe, points, rows, bytes."""

    path: Positional[Path]
    """The store's folder."""

    def run(self) -> None:
        """Print JSON."""
        from interp.store import store_info

        print(json.dumps(store_info(self.path), indent=1, default=str))


@dataclass(frozen=True)
class StoreVerify:
    """Read every byte of a store and compare it with its hashes; exit status 1 if any differs."""

    path: Positional[Path]
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

    paths: Positional[tuple[Path, ...]]
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

    path: Positional[Path]
    """The store's folder."""

    def run(self) -> None:
        """Print how much that freed."""
        from interp.store import remove_store

        print(f"freed {remove_store(self.path) / 1e6:.1f} MB")
