"""Each planted control against its truth; verdicts need all of them to pass."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from interp.errors import InputError
from interp.interventions import linear
from interp.interventions.effects import measure_effect
from interp.interventions.excess import Excess
from interp.interventions.layers import measure_specialization
from interp.interventions.linear import LAYERS
from interp.interventions.planted import SYNERGY_PAIRS, Study, by_layer, by_step
from interp.interventions.verdict import Check, Controls, decide_unchecked, load_rule

# Largest difference to a planted number that is exact, and to one that is sampled.
EXACT = 1e-9
SAMPLED = 0.08


def check_controls(names: Sequence[str] = (), *, seed: int = 0) -> Controls:
    """Run the planted controls and compare each stated number and verdict with its truth.

    names: some of P1 .. P7, synergy and exact; empty: all, which a verdict needs. seed: 0 is the
    committed one; a control is one draw, and at another seed P5 lies outside its 99 % interval with
    the chance that this has.
    Raises InputError for an unknown name.
    """
    unknown = set(names) - set(_CHECKS)
    if unknown:
        raise InputError(f"no planted control {sorted(unknown)}; there are {', '.join(_CHECKS)}")
    checks = tuple(c for name in (names or _CHECKS) for c in _CHECKS[name](seed))
    missing = tuple(name for name in _CHECKS if names and name not in names)
    return Controls(checks, load_rule().sha256, missing)


def _near(
    control: str, quantity: str, found: np.ndarray | float | None, expected: float, tolerance: float
) -> Check:
    """Check the entry that is farthest from the truth."""
    if found is None:
        return Check(control, quantity, expected, None, tolerance, False)
    values = np.atleast_1d(np.asarray(found, dtype=np.float64)).ravel()
    worst = float(values[np.abs(values - expected).argmax()])
    return Check(control, quantity, expected, worst, tolerance, abs(worst - expected) <= tolerance)


def _same(control: str, quantity: str, found: str, expected: str) -> Check:
    return Check(control, quantity, expected, found, 0, found == expected)


def _verdicts(study: Study, compact: str, specialized: str, corner: str) -> list[Check]:
    verdict = study.verdict
    return [
        _same(study.name, "compact", verdict.compact.answer, compact),
        _same(study.name, "specialized", verdict.specialized.answer, specialized),
        _same(study.name, "corner", verdict.corner, corner),
    ]


def _latent(study: Study) -> list[Check]:
    """One 12-d source that decides everything: its share, and d* = d_img = 12."""
    one, n = study.sources[0], study.name
    counts = [("d* PCA", one.pca), ("d* Jacobian", one.jacobian), ("d_img", one.image)]
    alphas = np.array([e.alpha for e in one.effect.attributes.values()])
    return [
        _near(n, "alpha of the source", alphas, 1, EXACT),
        *(_near(n, name, value.d_star, linear.CODE, 0) for name, value in counts),
    ]


def _check_strict(seed: int) -> list[Check]:
    study = Study("P1", seed)
    return [
        *_latent(study),
        _near("P1", "first-in", study.shares.first_in, 1, EXACT),
        _near("P1", "last-in", study.shares.last_in, 0, EXACT),
        _near("P1", "redundancy", study.shares.redundancy, 5, EXACT),
        _near("P1", "specialization", study.specialization.value, 0, EXACT),
        *(_same("P1", "shares", kind, "redundant") for kind in study.shares.kinds),
        *_verdicts(study, "yes", "no", "strict"),
    ]


def _check_shares(study: Study, tolerance: float) -> list[Check]:
    """Two layers for each attribute, half of it each, and nothing of the others."""
    shares, n = study.shares, study.name
    own = np.kron(np.eye(3, dtype=bool), np.ones(2, dtype=bool)).reshape(3, 6)
    found = [
        ("first-in", shares.first_in),
        ("last-in", shares.last_in),
        ("Shapley", shares.shapley),
    ]
    return [
        *(_near(n, f"own {name}", value[own], 0.5, tolerance) for name, value in found),
        *(_near(n, f"other {name}", value[~own], 0, EXACT) for name, value in found),
        _near(n, "redundancy", shares.redundancy, 0, EXACT),
        _near(n, "specialization", study.specialization.value, 1, tolerance),
    ]


def _min_alpha(study: Study) -> Check:
    smallest = np.array([one.effect.sufficiency.value for one in study.sources])
    return _near(study.name, "min alpha of every source", smallest, 0, EXACT)


def _check_broad(seed: int) -> list[Check]:
    study = Study("P2", seed)
    verdicts = _verdicts(study, "no", "yes", "broad")
    return [*_check_shares(study, SAMPLED), _min_alpha(study), *verdicts]


def _check_compact_specialized(seed: int) -> list[Check]:
    study = Study("P3", seed)
    corner = "compact and specialized: contradicts the dichotomy"
    verdicts = _verdicts(study, "yes", "yes", corner)
    return [*_latent(study), *_check_shares(study, EXACT), *verdicts]


def _check_time(seed: int) -> list[Check]:
    layers, steps = (Study("P4", seed, groups=groups) for groups in (by_layer(), by_step()))
    given = measure_specialization(
        [Study("P4", seed, groups=tuple((i,) for i in group)).game for group in by_step()]
    )
    corner = "neither compact nor specialized: contradicts the dichotomy"
    over = decide_unchecked(layers.sources, steps.shares, steps.excess, None)
    return [
        _near("P4", "specialization over layers", layers.specialization.value, 0, EXACT),
        _near("P4", "specialization over steps", steps.specialization.value, 1, EXACT),
        _near("P4", "specialization over layers given the step", given.value, 0, EXACT),
        _min_alpha(layers),
        *_verdicts(layers, "no", "no", corner),
        _same("P4", "specialized over steps", over.specialized.answer, "yes"),
    ]


def _check_wiring(seed: int) -> list[Check]:
    study = Study("P5", seed)
    profile, raw = study.shares.shapley.mean(0), study.specialization
    answer = study.verdict.specialized.answer
    uneven = float(profile.max() - profile.min()) > 0.2 and (raw.low or 0) > 0
    return [
        _same("P5", "raw profile", "uneven" if uneven else "even", "uneven"),
        _same("P5", "excess over twins", _where(study.excess), "covers 0"),
        _same("P5", "specialized", "yes" if answer == "yes" else "not yes", "not yes"),
    ]


def _check_noise(seed: int) -> list[Check]:
    study = Study("P6", seed)
    one = study.sources[0]
    alphas = np.array([e.alpha for e in one.effect.attributes.values()])
    hundreds = 100 <= (one.pca.d_star or math.inf) <= linear.PIXELS
    return [
        _near("P6", "alpha of the source", alphas, 1, EXACT),
        _near("P6", "d* Jacobian", one.jacobian.d_star, linear.CODE, 0),
        _near("P6", "d_img", one.image.d_star, linear.CODE, 0),
        _same("P6", "d* PCA", "hundreds" if hundreds else str(one.pca.d_star), "hundreds"),
        _same("P6", "compact", study.verdict.compact.answer, "undecided"),
    ]


def _check_bands(seed: int) -> list[Check]:
    study = Study("P7", seed)
    answer = study.verdict.specialized.answer
    words = [_where(excess) for excess in (study.excess, study.bands)]
    return [
        _same("P7", "excess over twins of all frequencies", words[0], "above 0"),
        _same("P7", "excess over band twins", words[1], "covers 0"),
        _same("P7", "specialized", "yes" if answer == "yes" else "not yes", "not yes"),
    ]


def _where(excess: Excess | None) -> str:
    if excess is None or excess.low is None or excess.high is None:
        return "undefined"
    return "above 0" if excess.low > 0 else "below 0" if excess.high < 0 else "covers 0"


def _check_synergy(seed: int) -> list[Check]:
    study = Study("synergy", seed, SYNERGY_PAIRS)
    singles = [one.effect for one in study.sources]
    rows = [row for effect in singles for row in effect.attributes.values()]
    answer = study.verdict.specialized.answer
    return [
        _near("synergy", "alpha of one source", np.array([r.alpha for r in rows]), 0, SAMPLED),
        _near("synergy", "beta of one source", np.array([r.beta for r in rows]), 0, SAMPLED),
        _near("synergy", "damage of one", np.array([r.damage for r in rows]), 1, SAMPLED),
        _near("synergy", "alpha of both", study.shares.total, 1, EXACT),
        *(_same("synergy", "shares", kind, "synergistic") for kind in study.shares.kinds),
        _same("synergy", "specialized", answer, "undecided"),
    ]


def _check_ends(seed: int) -> list[Check]:
    """The identity carrier, the full state, and an image of neither."""
    study = Study("P2", seed)
    generator, rng = study.generator, np.random.default_rng([seed, 100])
    garbage = generator.embed(generator.run(generator.draw(study.n_pairs, rng)).images)
    ends = {
        "identity": study.swap_layers(()),
        "full state": study.swap_layers(range(LAYERS)),
        "garbage": garbage,
    }
    expected = {"identity": (0, 1), "full state": (1, 0), "garbage": (0, 0)}
    found = []
    for name, swapped in ends.items():
        rows = measure_effect(study.pairs, swapped, carrier=name).attributes.values()
        tolerance = SAMPLED if name == "garbage" else 0
        shares = np.array([[row.alpha, row.beta] for row in rows]).T
        for letter, value, truth in zip(("alpha", "beta"), shares, expected[name], strict=True):
            found.append(_near("exact", f"{letter} of {name}", value, truth, tolerance))
    return found


_CHECKS: dict[str, Callable[[int], list[Check]]] = {
    "P1": _check_strict,
    "P2": _check_broad,
    "P3": _check_compact_specialized,
    "P4": _check_time,
    "P5": _check_wiring,
    "P6": _check_noise,
    "P7": _check_bands,
    "synergy": _check_synergy,
    "exact": _check_ends,
}
