"""`interp dashboard` and `interp demo`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

import interp
from interp import Generation, InterpError
from interp.cli.capturing import Which
from interp.cli.steering import REFERENCE, SEED
from interp.demo import DemoConfig
from interp.sae import load_sae

# As the server's own bound: every generator takes seeds of 31 bits.
MAX_SEED = 2**31 - 1


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
        if not (self.features or self.alignments):
            raise InterpError(
                "nothing to show: give --features DIR of `interp describe`, or --alignments FILE "
                "of `interp compare`; --steering stands on the pages of features, --matches on "
                "those of alignments"
            )
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
    """Show a dashboard at an address of this machine alone, until stopped.

    With --live, the pages of the features of these SAEs get a panel that steers the model and shows
    what it makes; --n, --seed, --steps ... are then those of the clean runs that set the unit of
    strengths (and --steps, --guidance ... those of the pictures).

    Example: interp dashboard serve dashboard --live zoo:gan --sae runs/w
    """

    path: Positional[Path] = Path("dashboard")
    """Folder of the page."""
    port: int = 8765
    """Port on 127.0.0.1; 0 chooses a free one."""
    live: str = ""
    """Model to steer: zoo:gan, diffusers:<id or folder>, ...; none: only show."""
    sae: tuple[Path, ...] = ()
    """SAEs of the page: run directories, folders or files."""
    recipe: Annotated[Generation, arg(name="")] = field(
        default_factory=lambda: Generation(n=REFERENCE, seed=SEED)
    )
    which: Annotated[Which, arg(name="")] = field(default_factory=Which)

    def run(self) -> None:
        """Print the address and serve until interrupted."""
        from interp.dashboards import serve

        if bool(self.live) != bool(self.sae):
            raise InterpError("live steering needs --live MODEL and --sae RUN")
        if not self.live:
            serve(self.path, self.port, ready=lambda where: _tell(f"showing {self.path}", where))
            return
        print(f"loading {self.live} ...", flush=True)
        live = self._live()
        serve(
            self.path,
            self.port,
            live=live,
            ready=lambda where: _tell(f"steering {self.live}", where),
        )

    def _live(self) -> Any:
        from interp.dashboards import Dial, Live, LiveSAE
        from interp.interventions import LIVE_RANGES, make_renderer

        model = self.which.load(self.live)
        saes = [load_sae(path) for path in self.sae]
        render = make_renderer(model, saes, self.recipe)
        one = self.recipe
        points = [(sae.point or {})["name"] for sae in saes]
        steered = zip(saes, points, strict=True)
        return Live(
            model.name,
            {sae.digest: LiveSAE(point, sae.n_latents) for sae, point in steered},
            {mode: Dial(*ends) for mode, ends in LIVE_RANGES.items()},
            lambda request: render(*request),
            {"steps": one.steps, "guidance": one.guidance, "prompts": list(one.prompts)},
            # After the clean runs, and so as far as they are from the SAEs' training seeds.
            seed=min(one.seed + one.n, MAX_SEED),
        )


def _tell(what: str, where: str) -> None:
    print(f"{what} at {where}; Ctrl-C stops", flush=True)


@dataclass(frozen=True)
class Demo:
    """Run the whole job on the models in the box and write a page to open."""

    config: Annotated[DemoConfig, arg(name="")] = field(default_factory=DemoConfig)

    def run(self) -> None:
        """Print one line per stage and a closing table."""
        from interp.demo import demo

        demo(self.config)
