"""`interp sae match` and `interp sae shares`: features of two SAEs, latents of several sites."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

import interp
from interp import InterpError
from interp.alignment.matching import FeatureMatches, match_features
from interp.cli.show import plain, print_table
from interp.sae import crosscoder_shares, join, load_sae

# Pairs that are printed; the file has all.
_PRINTED = 10


@dataclass(frozen=True)
class SAEMatch:
    """Match the features of two SAEs on the same images: found on one half, scored on the other.

    Each side is an SAE and a store of its point; both stores hold the same images.

    Example: interp sae match runs/vae activations/0123 runs/ddpm activations/4567
    """

    first: Annotated[Positional[Path], arg(metavar="SAE")]
    """Run directory of the first SAE."""
    first_store: Annotated[Positional[Path], arg(metavar="STORE")]
    """A store with its point."""
    second: Annotated[Positional[Path], arg(metavar="SAE")]
    """Run directory of the second SAE."""
    second_store: Annotated[Positional[Path], arg(metavar="STORE")]
    """A store with its point, of the same images."""
    method: Literal["mutual", "best", "hungarian", "soft"] = "mutual"
    """Both are each other's best; the first's best; one to one; optimal transport."""
    by: Literal["activations", "decoder"] = "activations"
    """What matches are found by; decoder needs two SAEs of one point."""
    pooling: Literal["mean", "max", "positions"] = "mean"
    """Over the positions of an image, or every position of points with one grid."""
    calls: tuple[int, int] | None = None
    """One call (noise level, step) of each side; otherwise the mean over all."""
    twins: tuple[Path, Path, Path, Path] | None = None
    """SAE STORE SAE STORE of the untrained twins: the reference level."""
    second_seeds: tuple[Path, Path] | None = None
    """SAEs of another seed for both sides: the ceiling."""
    min_images: int = 5
    """Images of each half on which a latent must be active."""
    permutations: int = 200
    """Repeated matchings behind the threshold and each p; 0 for none, else at least 200."""
    folds: int = 20
    """Folds of whole clusters behind each interval; 0 for none."""
    allow_train: bool = False
    """Keep images that an SAE was trained on."""
    seed: int = 0
    """Of halves, permutations and folds."""
    out: Path = Path("matches.json")
    """File of the result; `interp dashboard build --matches` shows it."""

    def run(self) -> None:
        """Print the strongest pairs and what they stand beside."""
        stores = [interp.open_store(path) for path in (self.first_store, self.second_store)]
        calls = self.calls or (None, None)
        sides = list(zip((self.first, self.second), stores, calls, strict=True))
        twins = self.twins and [((self.twins[0], self.twins[1]), (self.twins[2], self.twins[3]))]
        seeds = self.second_seeds or (None, None)
        seconds = [
            None if sae is None else (sae, store, call)
            for sae, store, call in zip(seeds, stores, calls, strict=True)
        ]
        found = match_features(
            sides[0],
            sides[1],
            method=self.method,
            by=self.by,
            pooling=self.pooling,
            twins=twins or (),
            seconds=(seconds[0], seconds[1]),
            min_images=self.min_images,
            n_permutations=self.permutations,
            n_folds=self.folds,
            allow_train=self.allow_train,
            seed=self.seed,
            progress=lambda line: print(line, file=sys.stderr),
        )
        found.save(self.out)
        print_table(match_rows(found))
        print(summary(found))
        print(self.out)


def match_rows(found: FeatureMatches) -> list[tuple[str, ...]]:
    """Return the strongest pairs as text, with a heading."""
    names = ("r", "universality", "p", "ceiling_first", "cosine")
    rows = [(found.first.name, found.second.name, *(name.replace("_", " ") for name in names))]
    for row in found.table(_PRINTED):
        numbers = ("-" if row[name] is None else f"{row[name]:.3f}" for name in names)
        rows.append((str(row["latent_first"]), str(row["latent_second"]), *numbers))
    return rows


def summary(found: FeatureMatches) -> str:
    """Return how many features are shared, beside the null and the levels, in a few lines."""
    counted = f"{len(found.first.counted)} and {len(found.second.counted)} features counted"
    lines = [f"{found.n_pairs} {found.method} matches of {counted}: mean r {found.mean:.3f}"]
    if found.low is not None:
        lines[0] += f" [{found.low:.3f}, {found.high:.3f}]"
    if found.threshold is not None:
        lines.append(
            f"{found.n_shared} above {found.threshold:.3f}, which 5 % of {found.n_permutations} "
            f"permuted matchings exceed anywhere; their mean r {found.null_mean:.3f}"
        )
    for level in found.levels:
        bounds = "" if level.low is None else f" [{level.low:.3f}, {level.high:.3f}]"
        lines.append(
            f"{level.name}: mean r {level.mean:.3f}, difference {level.difference:.3f}{bounds}"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class SAEShares:
    """Which sites each latent of a crosscoder belongs to, judged on held-out rows.

    Example: interp sae shares runs/both STORE

    Example: interp sae shares RUN A::POINT B::POINT --twin TWIN_RUN C::POINT D::POINT
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of the crosscoder."""
    sites: Annotated[Positional[tuple[str, ...]], arg(metavar="STORE | STORE::POINT ...")]
    """One store with all its points, or its sites in the order of training."""
    twin: tuple[str, ...] = ()
    """RUN and sites of a crosscoder of the untrained twins."""
    allow_train: bool = False
    """Also judge rows of trained images."""

    def run(self) -> None:
        """Print JSON without the columns per latent, which `crosscoder_shares` gives."""
        twin = None
        if self.twin:
            other = load_sae(Path(self.twin[0]))
            twin = other, joined_sites(other, self.twin[1:])
        sae = load_sae(self.run_dir)
        found = crosscoder_shares(
            sae, joined_sites(sae, self.sites), twin=twin, allow_train=self.allow_train
        )
        print(json.dumps(plain(found.summary()), indent=1))


def joined_sites(sae: Any, words: tuple[str, ...]) -> Any:
    """The rows of a crosscoder's sites: of one store that has all, or of the sites named."""
    from interp.cli.saes import site_of
    from interp.sae import rejoin

    if not words:
        raise InterpError("name a store, or the sites as STORE::POINT")
    if len(words) == 1 and "::" not in words[0]:
        return rejoin(sae, interp.open_store(Path(words[0])))
    if bare := [word for word in words if "::" not in word]:
        raise InterpError(f"sites are STORE::POINT or STORE::POINT@CALL, not {bare[0]!r}")
    return join([site_of(word, None) for word in words])
