"""`interp assets`: real pretrained networks that the user may fetch."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from interp import InterpError
from interp.cli.show import print_table


@dataclass(frozen=True)
class AssetsList:
    """List the pretrained networks that can be fetched, and which are here."""

    def run(self) -> None:
        """Print one line per asset, then the cache folder, then what is left out and why."""
        from interp.assets import ASSETS, LEFT_OUT, cache_folder, is_fetched

        rows = [("name", "license", "MB", "fetched", "what")]
        for name, asset in ASSETS.items():
            here = "yes" if is_fetched(name) else "no"
            rows.append((name, asset.license, f"{asset.megabytes:.0f}", here, asset.about))
        print_table(rows)
        print(f"\ncache: {cache_folder()} (set INTERP_ASSETS to change it)")
        for package, reason in LEFT_OUT.items():
            print(f"left out: {package}: {reason}")


@dataclass(frozen=True)
class AssetsShow:
    """Print what an asset is: package, hash, terms, and how far our network is from the original.

    Example: interp assets show terrain-unet
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """A name of `interp assets list`."""

    def run(self) -> None:
        """Print the entry, the card of the check, and the terms."""
        from interp.assets import ASSETS, card, is_fetched

        measured = card(self.name)
        asset = ASSETS[self.name]
        rows = [
            ("name", f"asset:{asset.name}"),
            ("what", asset.about),
            ("package", f"{asset.package} {asset.version} ({asset.megabytes:.1f} MB)"),
            ("sha256", asset.wheel_sha256),
            ("weights", asset.weights),
            ("parameters", f"{asset.parameters:,}"),
            ("shares", "; ".join(asset.leaks)),
            ("fetched", "yes" if is_fetched(asset.name) else "no"),
        ]
        print_table(rows)
        print(f"\nchecked against the original: {json.dumps(measured, indent=1)}\n")
        print(asset.terms)


@dataclass(frozen=True)
class AssetsFetch:
    """Download assets with pip, after showing their terms; nothing of the packages is run.

    Example: interp assets fetch dcgan-faces --yes
    """

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME ...")]
    """Names of `interp assets list`."""
    yes: bool = False
    """Accept the terms without being asked."""
    wheel: Path | None = None
    """A wheel that is here already, in place of a download; for one name."""

    def run(self) -> None:
        """Print the terms, ask, fetch, and print each folder."""
        from interp.assets import fetch, is_fetched

        if not self.names or (self.wheel is not None and len(self.names) != 1):
            raise InterpError(f"{len(self.names)} names: give one or more, one beside --wheel")
        for name in self.names:
            if not is_fetched(name):
                _ask(name, accepted=self.yes)
            print(fetch(name, accept=True, wheel=self.wheel))


def _ask(name: str, *, accepted: bool) -> None:
    """Show the terms of an asset, and return if they are accepted, now or before.

    Raises:
        InterpError: they are not, or nobody can answer.
    """
    from interp.assets import ASSETS

    print(f"{name} ({ASSETS[name].package} {ASSETS[name].version})\n\n{ASSETS[name].terms}")
    if accepted:
        return
    if not sys.stdin.isatty():
        raise InterpError(f"nobody is here to accept the terms of {name}: give --yes if you do")
    if input(f"accept these terms and fetch {ASSETS[name].megabytes:.0f} MB? [y/N] ") != "y":
        raise InterpError(f"{name} was not fetched: its terms were not accepted")


@dataclass(frozen=True)
class AssetsVerify:
    """Check that fetched assets are what they were on the day they were fetched."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME ...")] = ()
    """Names; none: all that are in the cache."""

    def run(self) -> int:
        """Print one line per asset; exit status 1 if something is wrong."""
        from interp.assets import ASSETS, is_fetched, verify

        names = self.names or tuple(name for name in ASSETS if is_fetched(name))
        problems = {name: verify(name) for name in names}
        for name, found in problems.items():
            print(f"{name}: {'; '.join(found) or 'sound'}")
        if not names:
            print("no asset is in the cache")
        return int(any(problems.values()))
