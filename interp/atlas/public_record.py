"""Settings and results of the public protocol as plain data."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

from interp.atlas.public_facts import FLAWS
from interp.atlas.public_measures import Gain
from interp.atlas.public_prompts import PROMPTS, Prompts
from interp.errors import InputError
from interp.interventions import Effect
from interp.interventions.effects import MIN_PAIRS

# Donor and recipient start from one noise, as in the source, or from two.
ARMS = ("shared", "independent")


@dataclass(frozen=True)
class PublicConfig:
    """Settings; the defaults are those of the public experiment, as far as they are known."""

    prompts: str | Prompts = "large"
    """A name of `PROMPTS`, or lists of one's own (the source: 49 x 48 x 49, not copied)."""
    n_pairs: int = 500
    """Pairs of prompts (test/prompts.py of the source)."""
    n_sets: int = 50
    """Random sets of blocks per pair (test.py of the source); 0: none."""
    set_sizes: tuple[int, ...] = (2, 3)
    """Blocks in a set, drawn with equal chances (test.py of the source)."""
    windows: tuple[tuple[float, float], ...] = ((1000.0, 0.0), (1000.0, 200.0))
    """First and last timestep at which outputs are swapped (main.py and configs of the source)."""
    noise: tuple[str, ...] = ARMS
    """"shared" (as the source: donor and recipient start from one noise) and "independent"."""
    steps: int = 50
    """Sampling steps (configs of the source: 25 to 50; 3 or 4 for turbo models)."""
    guidance: float = 7.5
    """Guidance scale (configs of the source: 7.5; 1 here is its 0 for turbo models)."""
    scheduler: str = ""
    """Empty: the pipeline's own."""
    seed: int = 42
    """Of the first pair (configs of the source, which give all pairs one seed)."""
    blocks: tuple[str, ...] = ()
    """Names of points; empty: every residual and attention block."""
    batch_size: int = 1
    """Pairs per run. All blocks of all steps of a batch are in memory: 4.7 GB for one prompt of
    50 steps of SD1.4 at 512 pixels, half precision, and two sides are held."""
    control: bool = True
    """Also move rows as far in random directions."""
    height: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.prompts, str) and self.prompts not in PROMPTS:
            raise InputError(f"prompts {self.prompts!r}: one of {', '.join(PROMPTS)}, or lists")
        if not self.noise or set(self.noise) - set(ARMS):
            raise InputError(f"noise {self.noise}: one or both of {ARMS}")
        if self.n_pairs < MIN_PAIRS or self.n_sets < 0 or self.batch_size < 1:
            raise InputError(
                f"n_pairs {self.n_pairs}, n_sets {self.n_sets}, batch_size {self.batch_size}: at "
                f"least {MIN_PAIRS} pairs (intervals need them), 0 sets and 1 pair per run"
            )
        if not self.windows or any(first <= last for first, last in self.windows):
            raise InputError(f"windows {self.windows}: (first, last) timestep, first > last")
        if self.n_sets and (not self.set_sizes or min(self.set_sizes) < 2):
            raise InputError(f"set_sizes {self.set_sizes}: two or more blocks in a set")


class Likeness(NamedTuple):
    """One similarity: means over pairs, and the gains that the public experiment reports."""

    to_donor: float
    to_recipient: float
    between: float
    """Of donor and recipient: what two unrelated images have."""
    donor_gain: Gain
    recipient_gain: Gain


@dataclass(frozen=True)
class PublicCell:
    """One block (or all sets that hold it), one window, one arm."""

    block: str
    window: tuple[float, float]
    noise: str
    likeness: dict[str, Likeness]
    """By name of the similarity."""
    effect: Effect | None = None
    """Ours: donor share, recipient share, damage. None for sets, which differ from pair to pair."""
    random: Effect | None = None
    """The same rows moved as far at random; None without `control`."""
    tau: dict[str, float] = dataclasses.field(default_factory=dict)
    """Classical transfer ratio by attribute; an unrelated image has about .5."""


@dataclass(frozen=True)
class PublicResult:
    """What the protocol gives, with what is wrong with it."""

    model: str
    config: PublicConfig
    blocks: tuple[str, ...]
    singles: tuple[PublicCell, ...]
    sets: tuple[PublicCell, ...]
    """By block: means within a pair over its sets that hold the block, then over pairs."""
    runs: int
    """Images generated."""
    flaws: tuple[str, ...] = FLAWS

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        plain = dataclasses.asdict(dataclasses.replace(self, singles=(), sets=()))
        for name in ("singles", "sets"):
            plain[name] = [_plain(cell) for cell in getattr(self, name)]
        return plain


def _plain(cell: PublicCell) -> dict[str, Any]:
    effects = {
        name: None
        if one is None
        else {
            "attributes": {key: value._asdict() for key, value in one.attributes.items()},
            "sufficiency": one.sufficiency._asdict(),
            "n_pairs": one.n_pairs,
        }
        for name, one in (("effect", cell.effect), ("random", cell.random))
    }
    likeness = {
        key: {
            **value._asdict(),
            "donor_gain": value.donor_gain._asdict(),
            "recipient_gain": value.recipient_gain._asdict(),
        }
        for key, value in cell.likeness.items()
    }
    head = {"block": cell.block, "window": list(cell.window), "noise": cell.noise}
    return {**head, "likeness": likeness, **effects, "tau": cell.tau}
