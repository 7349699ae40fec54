"""`interp sae`: look at SAEs, turn them into other libraries' layouts, write cards, push."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from interp import InterpError
from interp.cli.show import plain, print_table
from interp.sae import load_sae, save_sae
from interp.sae.cards import model_card, push_to_hub
from interp.sae.formats import FORMATS, detect_format

Flat = arg(name="")


@dataclass(frozen=True)
class Reading:
    """What a file of another library may leave out."""

    point: str = ""
    """Hook point of the SAE: other libraries' files do not name ours."""
    source: str = "auto"
    """Whose layout it is, see `interp sae formats`; auto recognizes it."""
    active: int = 0
    """Active latents per row, of overcomplete's bare weights."""
    activation: Literal["", "relu", "topk"] = ""
    """Activation of overcomplete's bare weights."""
    threshold: float | None = None
    """Threshold of a BatchTopK SAE whose file lost it."""
    input_scale: float | None = None
    """Factor on the activations that a SAELens file speaks of but does not hold."""
    inexact: bool = False
    """Take the nearest function where there is no equal one."""
    revision: str | None = None
    """Branch, tag or commit, of an SAE on the hub."""

    def load(self, path: Path) -> Any:
        """Return the SAE of a run directory, a file, a folder or a hub id."""
        return load_sae(
            path,
            self.source,
            point=self.point,
            k=self.active,
            activation=self.activation,
            threshold=self.threshold,
            input_scale=self.input_scale,
            inexact=self.inexact,
            revision=self.revision,
        )

    def load_at(self, path: Path, store: Any) -> tuple[Any, str]:
        """Return the SAE and the name of its point, which it knows or `--point` tells."""
        sae = self.load(path)
        if sae.point is None:
            fitting = [name for name, one in store.points.items() if one.width == sae.d_in]
            names = ", ".join(fitting) or "none"
            raise InterpError(
                f"{path} does not say which point it belongs to: give --point; of this store's "
                f"points have its width {sae.d_in}: {names}"
            )
        return sae, sae.point["name"]


@dataclass(frozen=True)
class SAEShow:
    """Say what an SAE is: whose file, variant, sizes, point, digest.

    Example: interp sae show path/to/any/librarys/sae
    """

    path: Annotated[Positional[Path], arg(metavar="SAE")]
    """Run directory, folder, file, or owner/name on the hub."""
    reading: Annotated[Reading, Flat] = field(default_factory=Reading)

    def run(self) -> None:
        """Print JSON."""
        sae = self.reading.load(self.path)
        source = sae.provenance.get("source") or {"format": "interp"}
        spec = sae.spec()
        shown = {
            "format": source.get("format"),
            "variant": sae.variant,
            "d": sae.d_in,
            "m": sae.n_latents,
            "k": spec.get("k") or None,
            "spec": spec,
            "point": sae.point["name"] if sae.point else None,
            "model": (sae.provenance.get("model") or {}).get("spec"),
            "trained_units": len(sae.trained_units),
            "digest": sae.digest,
        }
        print(json.dumps(plain(shown), indent=1))


@dataclass(frozen=True)
class SAEFormats:
    """List the layouts that are read and written."""

    def run(self) -> None:
        """Print one line per layout."""
        rows = [("format", "library", "read", "written")]
        for name, one in FORMATS.items():
            written = "yes" if one.write or name == "interp" else "no"
            rows.append(
                (name, one.library, "convert first" if name == "prisma" else "yes", written)
            )
        print_table(rows)


@dataclass(frozen=True)
class SAEConvert:
    """Write an SAE in the layout of another library, or another library's in ours.

    Codes come out in units of the data; `interp sae formats` lists the layouts.

    Example: interp sae convert runs/mid mid-for-saelens --format saelens
    """

    path: Annotated[Positional[Path], arg(metavar="SAE")]
    """Run directory, folder, file, or owner/name on the hub."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder, or file where the layout is one (openai, saev)."""
    format: str = "interp"
    """Layout to write."""
    reading: Annotated[Reading, Flat] = field(default_factory=Reading)

    def run(self) -> None:
        """Print what was written."""
        sae = self.reading.load(self.path)
        print(save_sae(sae, self.out, self.format, inexact=self.reading.inexact))


@dataclass(frozen=True)
class SAECard:
    """Write a model card: what the SAE is, what it was trained on, how good it is.

    Example: interp sae card runs/mid --name me/mid --out README.md
    """

    path: Annotated[Positional[Path], arg(metavar="SAE")]
    """Run directory, folder, file, or owner/name on the hub."""
    name: str = ""
    """owner/name, for the lines that load it."""
    evaluation: Path | None = None
    """File of `interp evaluate`; default: evaluation.json in the run directory, if there."""
    license: str = ""
    """SPDX name, such as apache-2.0."""
    out: Path | None = None
    """File of the card; none: print it."""
    reading: Annotated[Reading, Flat] = field(default_factory=Reading)

    def run(self) -> None:
        """Print the card, or its path."""
        record = find_evaluation(self.path, self.evaluation)
        text = model_card(
            self.reading.load(self.path), name=self.name, evaluation=record, license=self.license
        )
        if self.out is None:
            print(text)
            return
        self.out.write_text(text, encoding="utf-8")
        print(self.out)


@dataclass(frozen=True)
class SAEPush:
    """Upload an SAE with its card to the Hugging Face hub; `load_sae("owner/name")` reads it.

    Example: interp sae push runs/mid me/mid --license apache-2.0
    """

    path: Annotated[Positional[Path], arg(metavar="SAE")]
    """Run directory, folder or file."""
    name: Annotated[Positional[str], arg(metavar="OWNER/NAME")]
    """Repository; made if missing."""
    format: str = "interp"
    """Layout to upload."""
    evaluation: Path | None = None
    """As in `interp sae card`."""
    license: str = ""
    """SPDX name, such as apache-2.0."""
    private: bool = False
    """Make a new repository private."""
    local: Path | None = None
    """Folder in place of the hub."""
    reading: Annotated[Reading, Flat] = field(default_factory=Reading)

    def run(self) -> None:
        """Print where it is."""
        place = push_to_hub(
            self.reading.load(self.path),
            self.name,
            evaluation=find_evaluation(self.path, self.evaluation),
            license=self.license,
            format=self.format,
            private=self.private,
            local=self.local,
        )
        print(place)


def find_evaluation(path: Path, file: Path | None) -> dict[str, Any] | None:
    """Return the record of `interp evaluate` that belongs to a run, or None."""
    place = file or path / "evaluation.json"
    if file is None and not place.is_file():
        return None
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InterpError(f"{place} holds no evaluation: {error}") from error
    if not isinstance(found, dict):
        raise InterpError(f"{place} holds no evaluation")
    return found


def is_own(path: Path) -> bool:
    """Whether a path is a run directory or SAE of this library, beside which records are kept."""
    return path.is_dir() and detect_format(path) == "interp"
