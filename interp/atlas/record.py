"""The atlas of one model as plain data: every number with its interval, its levels, its images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from interp.atlas.files import read_atlas_files, write_atlas_files
from interp.errors import InputError

Matrix = tuple[tuple[float | None, ...], ...]
SHARES = ("first_in", "last_in", "shapley", "shapley_low", "shapley_high", "shapley_se")


@dataclass(frozen=True)
class Interval:
    """A value with its bounds; None where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Cell:
    """What one swap did to one attribute: alpha donor share, beta recipient share, damage 1 - R2.

    Bounds are two-sided 95 % bootstrap intervals over disjoint pairs.
    """

    alpha: Interval
    beta: Interval
    damage: Interval


@dataclass(frozen=True)
class Raw:
    """A raw measure between images, mean over pairs."""

    to_donor: float | None
    to_recipient: float | None
    between: float | None
    """Between donor and recipient: the level of two images that have nothing to do."""


@dataclass(frozen=True)
class OffDistribution:
    """How far edited activations lie from clean ones, and how far clean ones of other images do."""

    edited: float | None
    clean: float | None


@dataclass(frozen=True)
class CarrierRow:
    """One carrier of the table."""

    name: str
    role: str
    """"source", "write", "descendant", or "reference" for levels that are no carrier."""
    arm: str
    """"independent" (donor and recipient share nothing) or "shared noise"."""
    effects: dict[str, Cell]
    """By attribute."""
    sufficiency: Interval
    """min_k alpha_k, between one-sided 95 % bounds, corrected over the carriers of the table."""
    largest: Interval
    """max_k alpha_k, likewise."""
    points: tuple[str, ...] = ()
    """Hook points that are swapped."""
    fields: tuple[str, ...] = ()
    """Sources that are swapped."""
    window: str = ""
    """Steps, in words; empty: all."""
    random: dict[str, Cell] | None = None
    """The same rows moved as far in random directions: what a push does by itself."""
    tau: dict[str, float | None] = field(default_factory=dict)
    """Classical transfer ratio by attribute; an unrelated image has about .5."""
    raw: dict[str, Raw] = field(default_factory=dict)
    """SSIM and, where installed, other measures, by name."""
    off: dict[str, OffDistribution] = field(default_factory=dict)
    """By name of the distance."""
    p: dict[str, float | None] = field(default_factory=dict)
    """By attribute: p of alpha = 0, Holm-adjusted over the confirmatory set."""
    confirmatory: bool = False
    """Whether it is a source or write that a decision may use."""
    images: tuple[int, ...] = ()
    """Tiles of the swapped images, in the order of `Arm.recipients`."""


@dataclass(frozen=True)
class Arm:
    """One way of pairing donors with recipients."""

    name: str
    what: str
    """In words."""
    n_pairs: int
    donor: dict[str, Any]
    """Recipe of the donors."""
    recipient: dict[str, Any]
    donors: tuple[int, ...]
    """Tiles of the first donors' images."""
    recipients: tuple[int, ...]


@dataclass(frozen=True)
class StepMap:
    """Donor share by step window and layer: alpha[attribute][window][layer]."""

    name: str
    role: str
    windows: tuple[str, ...]
    calls: tuple[tuple[int, int], ...]
    """First and last denoiser call of each window."""
    noise: tuple[tuple[float | None, float | None], ...]
    """log-SNR at those calls."""
    layers: tuple[str, ...]
    alpha: dict[str, tuple[tuple[Interval, ...], ...]]
    damage: dict[str, tuple[tuple[Interval, ...], ...]]


@dataclass(frozen=True)
class ShareTable:
    """Shares of each layer by attribute; matrices [attribute][layer]."""

    layers: tuple[str, ...]
    attributes: tuple[str, ...]
    role: str
    first_in: Matrix
    last_in: Matrix
    shapley: Matrix
    shapley_low: Matrix
    shapley_high: Matrix
    shapley_se: Matrix
    """Monte Carlo error; 0 where every subset was run."""
    gap_low: Matrix
    gap_high: Matrix
    total: tuple[float | None, ...]
    redundancy: tuple[Interval, ...]
    interactions: tuple[Matrix, ...] | None
    """[attribute][layer][layer]."""
    kinds: tuple[str, ...]
    """By attribute: additive, redundant, synergistic, mixed or undecided; only shares of additive
    ones are interpreted."""
    n_pairs: int


@dataclass(frozen=True)
class LayerStudy:
    """One game: players whose subsets were all swapped, and what that says of specialization."""

    name: str
    what: str
    decides: bool
    """Whether the verdict is drawn from it."""
    players: dict[str, tuple[str, ...]]
    """Points of each player."""
    shares: ShareTable
    specialization: Interval
    given_step: Interval | None = None
    """Specialization with the step held fixed; None without steps."""
    over_steps: Interval | None = None
    """Specialization of step windows as players."""
    twins: tuple[float | None, ...] = ()
    """Specialization of the same network with other fresh weights."""
    excess: Interval | None = None
    """Specialization beyond these, 99 % interval."""
    band_twins: tuple[float | None, ...] = ()
    """Where frequencies of the images are dealt out by the grids of the players, and beyond it."""
    band_excess: Interval | None = None
    wiring: dict[str, Interval] = field(default_factory=dict)
    """Specialization of the wiring twins, by name: skips cut, random subspaces."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curve:
    """How many directions of one basis keep 95 % of every donor share of the full swap."""

    d_star: int | None
    """None: not reached with `rank` directions, or the full swap moves too little."""
    rank: int
    full: float | None
    """min_k alpha_k of the full swap."""
    kept: tuple[tuple[int, float | None], ...]
    """(directions, share kept), for every number tried."""


@dataclass(frozen=True)
class SourceCompactness:
    """One source: whether it suffices, and how few of its directions do."""

    source: str
    width: int
    """Numbers in one sample of it."""
    sufficiency: Interval
    others: Interval | None
    """Largest donor share of all other sources swapped together; None: there are none."""
    other_names: tuple[str, ...]
    pca: Curve
    jacobian: Curve
    n_fit: int
    """Samples behind the PCA."""
    n_gradients: int
    """Random projections, each at another seed, behind the Jacobian basis."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class KindRow:
    """One kind of module: its writes swapped, and replaced by their mean."""

    name: str
    points: tuple[str, ...]
    swapped: dict[str, Cell]
    ablated: dict[str, Cell]
    """Mean ablation: beta is what of the recipient survives, damage what is lost."""
    swapped_images: tuple[int, ...] = ()
    ablated_images: tuple[int, ...] = ()


@dataclass(frozen=True)
class ControlCheck:
    """One number of one planted control against its truth."""

    control: str
    quantity: str
    expected: float | None
    found: float | None
    expected_word: str
    found_word: str
    """Words where the truth is a word; else empty."""
    tolerance: float
    passed: bool


@dataclass(frozen=True)
class AnswerRecord:
    """Yes, no or undecided, and why."""

    answer: str
    reason: str
    smallest_effect: float | None
    """Undecided: the smallest value that this many pairs could have shown."""
    pairs_needed: int | None
    """Undecided: pairs that would decide it if the values stayed; None: no number would."""


@dataclass(frozen=True)
class VerdictRecord:
    """Two answers and the corner that they name."""

    compact: AnswerRecord
    specialized: AnswerRecord
    corner: str
    text: str
    rule_sha256: str
    rule_text: str


@dataclass(frozen=True)
class ModelRecord:
    """Which network it was."""

    spec: str
    family: str
    class_name: str
    weights_sha256: str
    untrained: bool
    training_seeds: tuple[str, ...]
    """Specs of every training seed that exists, this one among them."""
    versions: dict[str, str]
    image_size: tuple[int, int]


@dataclass(frozen=True)
class AttributeRecord:
    """One attribute and what it sees."""

    name: str
    width: int
    what: str


@dataclass(frozen=True)
class Atlas:
    """Everything that one run of `interp atlas` found about one model."""

    model: ModelRecord
    attributes: tuple[AttributeRecord, ...]
    config: dict[str, Any]
    recipe: dict[str, Any]
    """What donors and recipients share: steps, sampler, guidance."""
    n_pairs: int
    n_reference: int
    seeds: dict[str, int]
    """First seed of donors, recipients, references, and of images that bases are fitted on."""
    arms: tuple[Arm, ...]
    carriers: tuple[CarrierRow, ...]
    maps: tuple[StepMap, ...]
    layers: tuple[LayerStudy, ...]
    """The first whose `decides` is true carries the verdict."""
    compactness: tuple[SourceCompactness, ...]
    image_curve: Curve | None
    """d_img: principal directions of held-out images that keep the same attributes."""
    kinds: tuple[KindRow, ...]
    controls: tuple[ControlCheck, ...]
    verdict: VerdictRecord | None
    """None where the controls failed or a part that the rule needs is missing; see `warnings`."""
    scope: str
    not_measured: tuple[str, ...]
    """What the numbers do not say, one sentence each."""
    seconds: dict[str, float]
    """By stage."""
    warnings: tuple[str, ...] = ()
    made_by: str = ""
    """Command or call."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """A published protocol that was followed, with its flaws; empty: none."""
    images: np.ndarray = field(
        default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8),
        compare=False,
        metadata={"json": False},
    )
    """Tiles uint8 [n, h, w, 3] that rows point into."""

    def __post_init__(self) -> None:
        _check_counts(self)
        _check_tiles(self)
        for study in self.layers:
            _check_shares(study.shares, study.name)
        for one in self.maps:
            _check_map(one)

    def save(self, folder: str | Path) -> Path:
        """Write `atlas.json` and `images.png`; a killed writer leaves no half file.

        Returns the path of atlas.json.
        """
        return write_atlas_files(self, folder)


def load_atlas(folder: str | Path) -> Atlas:
    """Read what `Atlas.save` wrote: a folder, or its atlas.json.

    Raises InputError for a file that is missing, cut short, of another format, or inconsistent.
    """
    return read_atlas_files(Atlas, folder)


def _check_counts(atlas: Atlas) -> None:
    counts = {"n_pairs": (atlas.n_pairs, 1), "n_reference": (atlas.n_reference, 0)}
    counts |= {f"n_pairs of {arm.name}": (arm.n_pairs, 1) for arm in atlas.arms}
    counts |= {f"n_pairs of {one.name}": (one.shares.n_pairs, 1) for one in atlas.layers}
    counts |= {f"width of {one.name}": (one.width, 1) for one in atlas.attributes}
    for one in atlas.compactness:
        numbers = {"width": one.width, "n_fit": one.n_fit, "n_gradients": one.n_gradients}
        counts |= {f"{name} of {one.source}": (value, 0) for name, value in numbers.items()}
    for name, (value, least) in counts.items():
        if value < least:
            raise InputError(f"{name} is {value}: at least {least} is needed")


def _check_tiles(atlas: Atlas) -> None:
    images = atlas.images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise InputError(f"images are {images.dtype} {images.shape}, not uint8 [n, h, w, 3]")
    named = [(row.name, row.images) for row in atlas.carriers]
    named += [(arm.name, arm.donors + arm.recipients) for arm in atlas.arms]
    named += [(kind.name, kind.swapped_images + kind.ablated_images) for kind in atlas.kinds]
    for name, tiles in named:
        for tile in (tile for tile in tiles if not 0 <= tile < len(images)):
            raise InputError(f"{name} shows tile {tile}, the atlas has {len(images)} images")


def _check_shares(table: ShareTable, name: str) -> None:
    k, n = len(table.attributes), len(table.layers)
    for field_name in (*SHARES, "gap_low", "gap_high"):
        _check_matrix(getattr(table, field_name), (k, n), f"{field_name} of {name}")
    for field_name in ("total", "redundancy", "kinds"):
        if (found := len(getattr(table, field_name))) != k:
            raise InputError(f"{field_name} of {name} has {found} entries for {k} attributes")
    for one in table.interactions or ():
        _check_matrix(one, (n, n), f"interactions of {name}")


def _check_map(one: StepMap) -> None:
    w, n = len(one.windows), len(one.layers)
    for cells in (*one.alpha.values(), *one.damage.values()):
        _check_matrix(cells, (w, n), one.name)
    if {len(one.calls), len(one.noise)} != {w}:
        raise InputError(f"{one.name}: {len(one.calls)} calls for {w} windows")


def _check_matrix(rows: tuple[tuple[Any, ...], ...], shape: tuple[int, int], name: str) -> None:
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        sizes = sorted({len(row) for row in rows})
        raise InputError(f"{name} is {len(rows)} x {sizes}, not {shape[0]} x {shape[1]}")
