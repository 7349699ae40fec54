"""`interp steer`: what a direction or an SAE's feature does to images, strength by strength."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

import interp
from interp import Generation, InterpError
from interp.cli.capturing import Which
from interp.cli.sae import Reading
from interp.cli.show import print_table

Flat = arg(name="")
# Far from the seeds 0, 1, ... on whose images SAEs are usually trained.
SEED = 1_000_000
# Seeds of a strip: each half of 16 finds an axis for the other.
SEEDS = 16
# Clean runs behind the unit, the covariance and the scales of the attributes.
REFERENCE = 64


@dataclass(frozen=True)
class Where:
    """When and where rows are edited."""

    window: tuple[float, float] | None = None
    """Denoiser calls from the first number to below the second, in units of --axis; None: all."""
    axis: Literal["call", "t", "log_snr"] = "call"
    """Unit of the window: number of the call, timestep, or log(signal power / noise power)."""
    cfg: Literal["both", "cond", "uncond"] = "both"
    """Guidance half whose rows are edited."""

    def carrier(self, point: str) -> Any:
        """Return the place of the edit."""
        from interp.interventions import Carrier

        return Carrier((point,), cfg=self.cfg, window=self.window, axis=self.axis)


@dataclass(frozen=True)
class Steer:
    """Steer a model by an SAE's feature or a direction, and measure what its images do.

    Every change is in units of the distance between the images of two seeds: 1 is as different as
    another image. Beside it stand random directions that move every row as far, of all directions
    alike (isotropic) and with the covariance of the activations (matched). The folder holds
    steering.json and steering.webp; of a scan scan.json. --n, --seed, --steps ... are those of the
    images; the seeds after them (after a scan's second half) give clean activations.

    Example: interp steer zoo:gan --sae runs/w --feature 12 --strengths -1 -0.5 0 0.5 1

    Example: interp steer zoo:ddpm --direction up.npy --point mid_block.resnets.1 --window 0 10

    Example: interp steer zoo:gan --sae runs/w --scan --random 32
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """zoo:gan, diffusers:<id or folder>, ..."""
    sae: Path | None = None
    """Run directory, folder, file or hub id of an SAE of the point."""
    feature: int | None = None
    """Number of its latent."""
    direction: Path | None = None
    """File .npy with a direction [d] at --point, of any length, in place of an SAE."""
    scan: bool = False
    """Steer by every feature that fires, rank them, and report the best on as many other seeds."""
    mode: Literal["add", "clamp", "suppress", "scale"] = "add"
    """add the direction; or, of a feature, clamp its activation to a value, suppress a share of
    it, scale it. What the SAE does not reconstruct stays."""
    strengths: tuple[float, ...] = ()
    """add: length added to each row, in root mean squared deviations of rows from their mean; at 1
    a row moves as far as rows are from their mean. clamp: length of the feature's part of the row,
    in the same units. suppress: share removed, 0 to 1. scale: factor on the activation. A scan
    takes one. None: those of the mode."""
    recipe: Annotated[Generation, Flat] = field(
        default_factory=lambda: Generation(n=SEEDS, seed=SEED)
    )
    where: Annotated[Where, Flat] = field(default_factory=Where)
    attributes: tuple[str, ...] = ("content", "composition", "surface")
    """What is measured: these, or their parts luminance_layout, edge_layout, color_histogram, lbp,
    gram, frequency_bands."""
    encoder: str = "zoo:vit"
    """Vision encoder behind content."""
    target: str = ""
    """Attribute that should change; none: the one that changes most on half of the seeds (of a
    scan: all rank)."""
    random: int | None = None
    """Random directions of each of the two kinds; None: as many as features were scanned, at least
    8."""
    scanned: int = 1
    """How many features were looked at to choose this one: the control is the largest of as many
    random directions."""
    reference: int = REFERENCE
    """Clean runs of further seeds, for the unit of strengths, the covariance and the scales of the
    attributes; points with one row per image need 40."""
    limit: int = 0
    """Of a scan: at most this many features, chosen at random; 0: all that fire."""
    top: int = 8
    """Of a scan: winners that are measured again."""
    draw_seed: int = 0
    """Seed of halves, folds and random directions."""
    allow_train: bool = False
    """Let seeds in on whose images the SAE was trained."""
    which: Annotated[Which, Flat] = field(default_factory=Which)
    reading: Annotated[Reading, Flat] = field(default_factory=Reading)
    out: Path = Path("steering")
    """Folder of the result."""

    def run(self) -> None:
        """Print the cost before it starts, a table, and the path of what was written."""
        self._check()
        model = self.which.load(self.model)
        sae = None if self.sae is None else self.reading.load(self.sae)
        place = self.where.carrier(self._point(sae))
        if self.scan:
            self._scan(model, sae, place)
        else:
            self._steer(model, sae, place)

    def _check(self) -> None:
        if (self.sae is None) == (self.direction is None):
            raise InterpError("give --sae RUN with --feature, or --direction FILE.npy with --point")
        if self.scan and (self.sae is None or self.feature is not None):
            raise InterpError("--scan takes --sae and no --feature")
        if self.sae is not None and not self.scan and self.feature is None:
            raise InterpError("--sae needs --feature NUMBER, or --scan to look at all that fire")
        if self.scan and len(self.strengths) > 1:
            raise InterpError(f"--scan takes one strength, not {len(self.strengths)}")
        if self.target and self.target not in self.attributes:
            raise InterpError(
                f"--target {self.target} is not one of --attributes {' '.join(self.attributes)}"
            )

    def _point(self, sae: Any) -> str:
        known = "" if sae is None or sae.point is None else sae.point["name"]
        if not (self.reading.point or known):
            raise InterpError("which hook point? give --point, as `interp points MODEL` lists them")
        return self.reading.point or known

    def _reference(self, place: int) -> Generation:
        """Clean runs: seeds after `place` parts of as many images as are steered."""
        one = self.recipe
        return dataclasses.replace(one, seed=one.seed + place * one.n, n=self.reference)

    def _load_encoder(self) -> Any:
        """The encoder behind content; None where content is not measured."""
        if "content" not in self.attributes:
            return None
        encoder = interp.load(self.encoder)
        if "encode" not in encoder.capabilities:
            raise InterpError(
                f"--encoder {self.encoder} cannot encode images; give a vision encoder: zoo:vit, "
                "transformers:<id or folder>"
            )
        return encoder

    def _attributes(self, model: Any, reference: Generation, encoder: Any) -> Any:
        import torch

        from interp.interventions import make_attributes

        model.require("generate")
        parts = [
            model.generate(reference.batch(i, min(i + reference.batch_size, reference.n),
                                           n_classes=model.n_classes)).cpu()
            for i in range(0, reference.n, reference.batch_size)
        ]  # fmt: skip
        return make_attributes(torch.cat(parts), self.attributes, encoder=encoder)

    def _steer(self, model: Any, sae: Any, place: Any) -> None:
        from interp.interventions import estimate_steering, steer

        reference, strengths = self._reference(1), self.strengths or None
        shared = {"mode": self.mode, "strengths": strengths, "reference": reference}
        shared |= {"n_random": self.random, "n_scanned": self.scanned}
        shared |= {"direction": None if self.direction is None else read_direction(self.direction)}
        shared |= {"sae": sae, "feature": self.feature, "target": self.target}
        shared |= {"allow_train": self.allow_train}
        encoder = self._load_encoder()
        # A cost is said of a run that will not be refused.
        named = {"point": place, "attributes": self.attributes}
        _announce(estimate_steering(model, self.recipe, **named, **shared))
        found = steer(
            model,
            place,
            self.recipe,
            attributes=self._attributes(model, reference, encoder),
            seed=self.draw_seed,
            **shared,
        )
        print_response(found)
        print(found.save(self.out))

    def _scan(self, model: Any, sae: Any, place: Any) -> None:
        from interp.interventions import estimate_scan_features, scan_features

        second = dataclasses.replace(self.recipe, seed=self.recipe.seed + self.recipe.n)
        reference = self._reference(2)
        shared = {"limit": self.limit, "top": self.top, "n_random": self.random}
        shared |= {"reference": reference, "seed": self.draw_seed, "allow_train": self.allow_train}
        encoder = self._load_encoder()
        _announce(estimate_scan_features(model, sae, place, self.recipe, second, **shared))
        found = scan_features(
            model,
            sae,
            place,
            self.recipe,
            second,
            self._attributes(model, reference, encoder),
            mode=self.mode,
            strength=self.strengths[0] if self.strengths else None,
            target=self.target,
            **shared,
        )
        print_scan(found)
        print(found.save(self.out / "scan.json"))


def read_direction(path: Path) -> np.ndarray:
    """Read a direction [d] from a .npy file, without running anything that it may hold.

    Raises:
        InterpError: the file is missing, no array, or holds other than a vector of finite numbers.
    """
    try:
        found = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InterpError(f"{path} is no .npy file with numbers: {error}") from error
    if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "fiu":
        raise InterpError(f"{path} has to hold one vector [d] of numbers, saved by numpy.save")
    if not np.isfinite(found).all():
        raise InterpError(f"{path} holds NaN or infinite values")
    return np.array(found, dtype=np.float64)


def _announce(cost: Any) -> None:
    print(f"{cost.images} images, about {cost.seconds:.0f} s", file=sys.stderr, flush=True)


def print_response(found: Any) -> None:
    """Print a dose-response: responses beside their controls, then what else changes."""
    print(f"{found.label} at {found.point} of {found.model}, {found.n_seeds} seeds")
    print(f"{found.mode}: {found.unit_words}")
    most = min(found.n_scanned, found.n_random)
    largest = f"largest of {most}" if most > 1 else f"mean of {found.n_random} random"
    rows: list[tuple[str, ...]] = []
    rows.append(
        ("strength", "attribute", "along", "95 %", "size", f"{largest}: isotropic", "matched")
    )
    for i, dose in enumerate(found.strengths):
        for name in found.attributes:
            one = found.responses[name][i]
            controls = (table[name][i].size if table else None for table in _controls(found))
            low, high = _short(one.along_low), _short(one.along_high)
            numbers = (_short(one.along), f"{low} .. {high}", _short(one.size))
            rows.append((f"{dose:g}", name, *numbers, *map(_short, controls)))
    print_table(rows)
    if found.n_random and not found.random_suffices:
        print(f"only {found.n_random} random directions for {found.n_scanned} features scanned")
    print()
    points = list(found.off_distribution)
    heads = [f"rows outside at {point}" for point in points]
    rows = [("strength", "rows moved by", f"off {found.target}", *heads)]
    for i, dose in enumerate(found.strengths):
        outside = (_short(found.off_distribution[point][i].outside) for point in points)
        share = found.off_target[i].value
        rows.append((f"{dose:g}", _short(found.shifts[i]), _short(share), *outside))
    print_table(rows)
    print(found.conclude())
    print("along: mean change on the attribute's own axis, found on the other half of the seeds")
    print(
        "size: root mean squared change in any direction; 1: as different as another seed's image"
    )
    print(f"off {found.target}: share of the squared change that is not in {found.target}")
    print("outside: farther from clean activations than 95 % of held-out ones (clean: 0.05)")


def _controls(found: Any) -> tuple[Any, Any]:
    return found.isotropic, found.matched


def print_scan(found: Any) -> None:
    """Print the winners of a scan, the best random directions, and how activity goes with it."""
    what = f"{found.target or 'all attributes'}, {found.mode} {found.strength:g}"
    print(f"{len(found.features)} of {found.n_latents} latents scanned ({found.n_firing} fire)")
    print(f"score: {what}; ranked on {found.n_rank} seeds, reported on {found.n_report} others")
    names = list(found.effects)
    rows = [("handle", "activation", "ranked", "reported", *names)]
    active = dict(zip(found.features.tolist(), found.activation.tolist(), strict=True))
    for one in (*found.reported, *found.random_reported.values()):
        sizes = (_short(one.attributes[name].size) for name in names)
        scores = (_short(active.get(one.feature)), _short(one.ranked), _short(one.score))
        rows.append((one.label, *scores, *sizes))
    print_table(rows)
    if found.random_reported and not found.random_suffices:
        print(f"fewer random directions than the {len(found.features)} features: a low control")
    if found.correlation is not None:
        value, low, high = found.correlation
        print(f"score against mean activation: Spearman {value:.2f} ({low:.2f} .. {high:.2f})")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
