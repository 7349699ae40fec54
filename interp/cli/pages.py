"""`interp dashboard` and `interp demo`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

import interp
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
    matches: tuple[Path, ...] = ()
    """Files of `interp sae match`; cells of the comparison open them."""
    steering: tuple[Path, ...] = ()
    """Folders of `interp steer`, of features of these SAEs; each stands on its feature's page."""
    out: Path = Path("dashboard")
    """Folder of the page."""
    title: str = "Features and alignments"
    """Heading of the page."""

    def run(self) -> None:
        """Print the page's path."""
        page = interp.build_dashboard(
            self.out,
            self.features,
            self.stores,
            alignments=self.alignments,
            matches=self.matches,
            steering=self.steering,
            title=self.title,
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
class Demo:
    """Run the whole job on the models in the box and write a page to open."""

    config: Annotated[DemoConfig, arg(name="")] = field(default_factory=DemoConfig)

    def run(self) -> None:
        """Print one line per stage and a closing table."""
        from interp.demo import demo

        demo(self.config)
