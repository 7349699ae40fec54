"""`interp train`, `evaluate` and `describe`."""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

import interp
from interp import Generation, InterpError, TrainConfig
from interp.cli.sae import Reading, is_own
from interp.cli.show import plain, print_evaluation
from interp.sae.distributed import share, this_rank

Flat = arg(name="")
# Of the components of k-sparse PCA, as in `evaluate`.
FITTING_ROWS = 4096


def read_options(words: list[str]) -> dict[str, Any]:
    """Options of the command line, NAME=VALUE each: numbers, true and false, lists, else words."""
    options = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not name or not equals:
            raise InterpError(f"option {word!r} must be NAME=VALUE, such as l1=0.01")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def write_options(options: dict[str, Any]) -> list[str]:
    """The words from which `read_options` reads the options."""
    values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in options.items()}
    return [f"{name}={text}" for name, text in values.items()]


@dataclass(frozen=True)
class Train:
    """Train a sparse autoencoder on a point of a store; a rerun continues a killed one.

    Under torchrun several ranks share the work: torchrun --nproc-per-node 2 -m interp train ...

    Example: interp train activations/0123456789ab mid_block.resnets.1 --out runs/mid
    """

    store: Annotated[Positional[Path], arg(metavar="STORE")]
    """The store's folder."""
    points: Annotated[Positional[tuple[str, ...]], arg(metavar="POINT ...")]
    """Hook point, as `interp store info` lists them; of several, each gets a run in OUT/POINT."""
    target: str = ""
    """Another point, reconstructed from POINT: for --variant transcoder."""
    sites: bool = False
    """All POINTs are sites of one crosscoder: POINT, POINT@CALL, or STORE::POINT of other models
    on the same images."""
    out: Path = Path("runs/sae")
    """Run directory: config.json, log.jsonl, sae/."""
    config: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)
    fresh: bool = False
    """Start again instead of continuing what the directory holds."""
    device: str = "cpu"
    """cpu or cuda."""
    layout: str = "auto"
    """Under torchrun: auto splits the latents over the ranks; 2x4 takes batches in 2 parts, latents
    in 4; each gives every rank points of its own."""
    backend: str = "auto"
    """Of the kernels: dense, eager, triton; auto takes the best, or what a continued run used."""
    tracker: tuple[Literal["wandb", "trackio", "tensorboard"], ...] = ()
    """Also send the log to these; each is an extra: python -m pip install 'interp[NAME]'."""

    def run(self) -> None:
        """Print the run directory and the last line of the log; of a split run, one rank does."""
        if not self.points:
            raise InterpError("name a point of the store, as `interp store info` lists them")
        from interp.sae.trackers import make_tracker

        store = interp.open_store(self.store)
        joined = self._joined(store)
        apart = self.layout == "each"
        points = [None] if joined else share(self.points) if apart else self.points
        for point in points:
            run = interp.train(
                joined or store,
                self.config,
                point=point,
                out=self.out / point if point and len(self.points) > 1 else self.out,
                resume=not self.fresh,
                device=self.device,
                layout=self.layout,
                backend=self.backend,
                trackers=[make_tracker(name) for name in self.tracker],
            )
            if apart or this_rank() == 0:
                # One write, so that ranks do not mix their lines.
                last = f"{json.dumps(run.log[-1])}\n" if run.log else ""
                print(f"{run.path}\n{last}", end="", flush=True)

    def _joined(self, store: Any) -> Any:
        """The joined sites; None where each point is read by itself."""
        from interp.sae import VARIANTS, join

        if self.target and (self.sites or len(self.points) != 1):
            raise InterpError("--target takes one POINT, and no --sites")
        given = "target" if self.target else "sites" if self.sites else ""
        variant = self.config.variant
        wanted = VARIANTS[variant].joins if variant in VARIANTS else given
        if given != wanted:
            use = {"": "neither --target nor --sites", "target": "--target OTHER_POINT"}
            raise InterpError(f"--variant {variant} takes {use.get(wanted, '--sites')}")
        if not self.target and not self.sites:
            return None
        words = [*self.points, self.target] if self.target else self.points
        return join([site_of(word, store) for word in words])


def site_of(word: str, store: Any) -> tuple[Any, str, int | None]:
    """The site that POINT, POINT@CALL, STORE::POINT or STORE::POINT@CALL names.

    Raises:
        InterpError: the call is not a number.
    """
    folder, _, rest = word.rpartition("::")
    point, at, call = rest.partition("@")
    if at and not call.isdecimal():
        raise InterpError(f"site {word!r}: the call after @ must be a whole number")
    where = interp.open_store(Path(folder)) if folder else store
    return where, point, int(call) if at else None


@dataclass(frozen=True)
class Evaluate:
    """Judge an SAE on rows of images and seeds that it was not trained on, beside baselines.

    Example: interp evaluate runs/mid activations/ba9876543210

    Example: interp evaluate RUN STORE --twin TWIN_RUN TWIN_STORE --second SECOND_RUN --substitute
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `interp train`, or an SAE of another library (`interp sae formats`)."""
    store: Annotated[Positional[Path], arg(metavar="STORE")]
    """A store with the SAE's point."""
    twin: tuple[Path, Path] | None = None
    """Run directory of an SAE of the untrained model, and a store of that model."""
    second: Path | None = None
    """Run directory of an SAE that differs in its seed."""
    allow_train: bool = False
    """Also judge rows of trained images; the record says so."""
    substitute: bool = False
    """Also put the reconstruction, and those of the baselines, into the running model and measure
    the damage to its images."""
    n: int = 64
    """Images of the substitution."""
    device: str = "cpu"
    """Device of the model for the substitution."""
    reading: Annotated[Reading, Flat] = field(default_factory=Reading)

    json: bool = False
    """Print the whole record, not its table."""

    def run(self) -> None:
        """Print a table, or JSON; `evaluation.json` in the run directory keeps the record."""
        store = interp.open_store(self.store)
        sae = self.reading.load(self.run_dir)
        of_sites = bool(sae.provenance.get("sites"))
        record = self._of_sites(sae, store) if of_sites else self._of_point(store)
        record = plain(record)
        text = json.dumps(record, indent=1, allow_nan=False)
        if is_own(self.run_dir):
            # Beside it first: a kill leaves the old record or the new one.
            part = self.run_dir / ".evaluation.json.tmp"
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(self.run_dir / "evaluation.json")
        if self.json:
            print(text)
        else:
            print_evaluation(record)

    def _of_point(self, store: Any) -> dict[str, Any]:
        sae, point = self.reading.load_at(self.run_dir, store)
        judged = interp.evaluate(
            sae, store, point, allow_train=self.allow_train, twin=self.twin, second=self.second
        )
        record = judged.as_dict()
        if self.substitute:
            found = self._substitute(sae, store, point)
            record |= {"substitution": found["sae"], "substitutions": found}
        return record

    def _of_sites(self, sae: Any, store: Any) -> dict[str, Any]:
        """A transcoder or crosscoder, whose points the store has."""
        from interp.interventions import substitute_transcoder
        from interp.sae import evaluate_joined, rejoin

        if self.twin is not None or self.second is not None:
            raise InterpError("--twin and --second judge SAEs of one point")
        judged = evaluate_joined(sae, rejoin(sae, store), allow_train=self.allow_train)
        record = judged.as_dict()
        if self.substitute:
            source = _source_of(store, self.n)
            found = substitute_transcoder(_model_of(store, self.device), sae, source)
            record["substitution"] = plain(found)
        return record

    def _substitute(self, sae: Any, store: Any, point: str) -> dict[str, Any]:
        from interp.interventions import substitute_beside

        twin = None
        if self.twin is not None:
            untrained = _model_of(interp.open_store(self.twin[1]), self.device)
            twin = untrained, Reading().load(self.twin[0])
        done = substitute_beside(
            _model_of(store, self.device), sae, point, _source_of(store, self.n),
            _fitting_rows(store, point), twin=twin,
            second=None if self.second is None else Reading().load(self.second),
        )  # fmt: skip
        return plain(done)


@dataclass(frozen=True)
class Describe:
    """Find out what each latent does: examples with maps, profiles, neighbors, co-activation.

    Example: interp describe runs/mid activations/ba9876543210 --out runs/mid/features
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `interp train`, or an SAE of another library (`interp sae formats`)."""
    store: Annotated[Positional[Path], arg(metavar="STORE")]
    """A store with the SAE's point, best one of held-out images."""
    out: Path = Path("features")
    """Folder of the result."""
    seed: int = 0
    """Seed of random examples and of the map of directions."""
    umap: bool = True
    """Lay the directions out by UMAP; --no-umap: by two principal components, at once."""
    reading: Annotated[Reading, Flat] = field(default_factory=Reading)

    def run(self) -> None:
        """Print the folder."""
        store = interp.open_store(self.store)
        sae, point = self.reading.load_at(self.run_dir, store)
        slow = "; UMAP compiles first, which takes ten seconds or more (--no-umap)"
        rows = f"{store.n_rows(point)} rows of {point}"
        print(f"describing {sae.n_latents} latents on {rows}{slow * self.umap}", file=sys.stderr)
        interp.describe(sae, store, point, seed=self.seed, umap=self.umap).save(self.out)
        print(self.out)


def _fitting_rows(store: Any, point: str) -> Any:
    """Rows from all over the store for the baselines: as many as give PCA a steady spectrum."""
    n, wanted = store.n_rows(point), max(FITTING_ROWS, 4 * store.points[point].width)
    return store.rows(point, range(0, n, max(1, n // wanted)))


def _model_of(store: Any, device: str) -> Any:
    identity = store.model
    untrained = {"untrained": True, "seed": identity["seed"]} if identity["untrained"] else {}
    return interp.load(identity["spec"], device=device, **untrained)


def _source_of(store: Any, n: int) -> Any:
    """Return what made the store's images: its recipe, or the images that it was shown."""
    if store.recipe["kind"] == "generation":
        fields = {key: value for key, value in store.recipe.items() if key != "kind"}
        return dataclasses.replace(Generation.from_json(json.dumps(fields)), n=n)
    if "vae" in store.model["family"]:
        return store.images(range(min(n, len(store.generations["generation"]))))
    return Generation(n=n)
