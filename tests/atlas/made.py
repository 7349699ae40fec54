"""A small atlas made by hand: every part filled in, numbers chosen, no model run."""

import numpy as np

from interp.atlas.record import (
    AnswerRecord,
    Arm,
    Atlas,
    AttributeRecord,
    CarrierRow,
    Cell,
    ControlCheck,
    Curve,
    Interval,
    KindRow,
    LayerStudy,
    ModelRecord,
    OffDistribution,
    Raw,
    ShareTable,
    SourceCompactness,
    StepMap,
    VerdictRecord,
)

ATTRIBUTES = ("content", "composition", "surface")
LAYERS = ("down", "mid", "up")
WINDOWS = ("early", "middle", "late")


def make_atlas(seed: int = 0) -> Atlas:
    """Three carriers and the two levels, three stages, three windows, 12 tiles of noise."""
    rng = np.random.default_rng(seed)
    return Atlas(
        model=ModelRecord(
            "zoo:made",
            "unet",
            "UNet2DModel",
            "0" * 64,
            False,
            ("zoo:made",),
            {"torch": "2"},
            (8, 8),
        ),
        attributes=tuple(AttributeRecord(name, 12, f"{name} of images") for name in ATTRIBUTES),
        config={"n_pairs": 40, "steps": 8, "quick": False},
        recipe={"steps": 8, "scheduler": "ddim", "guidance": 1.0},
        n_pairs=40,
        n_reference=64,
        seeds={"donor": 0, "recipient": 1000, "reference": 2000, "fit": 3000},
        arms=(
            Arm(
                "independent", "nothing is shared", 40, {"seed": 0}, {"seed": 1000}, (0, 1), (2, 3)
            ),
            Arm("shared noise", "equal x_T", 40, {"seed": 0}, {"seed": 0}, (4, 5), (6, 7)),
        ),
        carriers=(
            _row("no edit", "reference", 0.0, rng),
            _row("unrelated image", "reference", 0.0, rng, damage=1.0),
            _row("x_T", "source", 0.94, rng, images=(8, 9)),
            _row("mid_block", "descendant", 0.31, rng, images=(10, 11)),
            _row("writes of up", "write", 0.12, rng, arm="shared noise", images=(8, 10)),
        ),
        maps=(_map(rng),),
        layers=(_study(True, "writes by stage"), _study(False, "outputs by stage")),
        compactness=(
            SourceCompactness(
                "x_T",
                192,
                Interval(0.94, 0.9, 0.97),
                Interval(0.04, 0.0, 0.08),
                ("classes",),
                Curve(150, 192, 0.94, ((96, 0.7), (150, 0.95), (192, 1.0))),
                Curve(20, 64, 0.94, ((10, 0.6), (20, 0.96), (64, 1.0))),
                256,
                128,
                ("The noise is white: its principal directions are arbitrary.",),
            ),
        ),
        image_curve=Curve(30, 128, 1.0, ((15, 0.8), (30, 0.95), (128, 1.0))),
        kinds=(
            KindRow(
                "resnet", ("down.resnet",), _cells(0.4, rng), _cells(0.0, rng, 0.7), (8,), (9,)
            ),
            KindRow("self-attention", ("mid.attn",), _cells(0.1, rng), _cells(0.0, rng, 0.2)),
        ),
        controls=(
            ControlCheck("P1", "alpha of the source", 1.0, 1.0, "", "", 1e-9, True),
            ControlCheck("P1", "corner", None, None, "strict", "strict", 0.0, True),
        ),
        verdict=VerdictRecord(
            AnswerRecord("undecided", "x_T: S = 0.940, the two bases disagree", None, None),
            AnswerRecord("undecided", "excess over 5 twins 0.050 [-0.020, 0.120]", 0.07, 96),
            "undecided",
            "undecided\ncompact: undecided\nspecialized: undecided",
            "f" * 64,
            '{"version": 1}',
        ),
        scope="Numbers made by hand.",
        not_measured=("Nothing here was measured.",),
        seconds={"carriers": 1.5, "layers": 2.5},
        warnings=("20 pairs are few.",),
        made_by="interp atlas zoo:made",
        images=rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8),
    )


def _around(value: float, width: float = 0.05) -> Interval:
    # Nine digits are kept in the file.
    return Interval(*(round(v, 6) for v in (value, value - width, value + width)))


def _cells(alpha: float, rng: np.random.Generator, damage: float = 0.1) -> dict[str, Cell]:
    found = {}
    for name in ATTRIBUTES:
        a = alpha + float(rng.normal(0, 0.02))
        found[name] = Cell(_around(a), _around(1 - a - damage), _around(damage))
    return found


def _row(
    name: str,
    role: str,
    alpha: float,
    rng: np.random.Generator,
    *,
    damage: float = 0.05,
    arm: str = "independent",
    images: tuple[int, ...] = (),
) -> CarrierRow:
    real = role != "reference"
    return CarrierRow(
        name=name,
        role=role,
        arm=arm,
        effects=_cells(alpha, rng, damage),
        sufficiency=_around(alpha),
        largest=_around(alpha + 0.05),
        points=(name,) if role in ("write", "descendant") else (),
        fields=("latents",) if role == "source" else (),
        window="late" if role == "write" else "",
        random=_cells(0.0, rng, 0.3) if role in ("write", "descendant") else None,
        tau=dict.fromkeys(ATTRIBUTES, 0.5 + alpha / 2),
        raw={"ssim": Raw(0.4, 0.6, 0.1)} if real else {},
        off={"mahalanobis": OffDistribution(1.3, 1.0)} if role == "descendant" else {},
        p=dict.fromkeys(ATTRIBUTES, 0.001) if role in ("source", "write") else {},
        confirmatory=role in ("source", "write"),
        images=images,
    )


def _map(rng: np.random.Generator) -> StepMap:
    def grid() -> dict[str, tuple[tuple[Interval, ...], ...]]:
        return {
            name: tuple(tuple(_around(float(rng.uniform(0, 0.6))) for _ in LAYERS) for _ in WINDOWS)
            for name in ATTRIBUTES
        }

    calls, noise = ((0, 2), (3, 5), (6, 7)), ((-9.0, -4.0), (-2.0, 0.0), (1.0, None))
    return StepMap("writes by stage", "write", WINDOWS, calls, noise, LAYERS, grid(), grid())


def _study(decides: bool, name: str) -> LayerStudy:
    share = ((0.5, 0.1, 0.0), (0.1, 0.2, 0.3), (0.0, 0.1, 0.6))
    zero = ((0.0,) * 3,) * 3
    table = ShareTable(
        layers=LAYERS,
        attributes=ATTRIBUTES,
        role="write" if decides else "descendant",
        first_in=share,
        last_in=share,
        shapley=share,
        shapley_low=_shift(share, -0.05),
        shapley_high=_shift(share, 0.05),
        shapley_se=zero,
        gap_low=_shift(zero, -0.06),
        gap_high=_shift(zero, 0.06),
        total=(0.6, 0.6, 0.7),
        redundancy=(_around(0.0), _around(0.02), _around(0.1)),
        interactions=(zero, zero, zero),
        kinds=("additive", "additive", "redundant"),
        n_pairs=40,
    )
    return LayerStudy(
        name=name,
        what="each stage's writes",
        decides=decides,
        players={layer: (f"{layer}.resnets.0:delta",) for layer in LAYERS},
        shares=table,
        specialization=_around(0.3),
        given_step=_around(0.1),
        over_steps=_around(0.2),
        twins=(0.2, 0.25, None, 0.3, 0.22, 0.28) if decides else (),
        excess=_around(0.05, 0.07) if decides else None,
        band_twins=(0.1, 0.12, 0.11, 0.15, 0.09) if decides else (),
        band_excess=_around(0.18, 0.06) if decides else None,
        wiring={"skips cut": _around(0.02)} if decides else {},
        notes=("Twins have 20 pairs each.",),
    )


def _shift(matrix: tuple[tuple[float, ...], ...], by: float) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(value + by, 6) for value in row) for row in matrix)
