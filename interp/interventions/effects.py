"""What an interchange does to images: donor share, recipient share and damage, with intervals."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InputError
from interp.interventions.numbers import check_whole

Embedded = Mapping[str, np.ndarray]

# Percentile intervals of fewer clusters are too narrow to be believed.
MIN_PAIRS = 10
# Confidence of every bound; the decision rule states the same number.
LEVEL = 0.95
RESAMPLES = 1000
# Draws beyond a quantile: its own error is then a third of its tail.
_BEYOND = 10
# The classical transfer ratio gives this for an image that is neither donor nor recipient.
UNRELATED_TAU = 0.5
# cos^2 of the angle between all donors and all recipients at which they count as one direction.
_COLLINEAR = 1 - 1e-9


@dataclass(frozen=True)
class Pairs:
    """Donors and recipients by attribute, row by row, centered on reference images.

    A row is one (pair, noise seed). Pairs are disjoint: no image is in two of them, so they are the
    clusters of every bootstrap, and the noise seeds are nested in them.
    """

    donor: dict[str, np.ndarray]
    """Attribute -> [n, d_k], centered."""
    recipient: dict[str, np.ndarray]
    center: dict[str, np.ndarray]
    """Attribute -> [d_k], the mean of the reference images."""
    pair: np.ndarray
    """[n]: 0..n_pairs - 1."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes, in order."""
        return tuple(self.donor)

    @property
    def n_pairs(self) -> int:
        """Number of disjoint pairs."""
        return int(self.pair.max()) + 1


class Bound(NamedTuple):
    """A value between one-sided bounds, each of confidence 1 - 0.05 / n_tests."""

    value: float
    lower: float
    upper: float


class AttributeEffect(NamedTuple):
    """One attribute's shares with their two-sided 95 % bootstrap intervals.

    alpha: donor share. beta: recipient share. damage: 1 - R2, what neither explains; NaN where the
    images have no energy in the attribute at all.
    """

    alpha: float
    alpha_low: float
    alpha_high: float
    beta: float
    beta_low: float
    beta_high: float
    damage: float
    damage_low: float
    damage_high: float


@dataclass(frozen=True)
class Effect:
    """What the interchange of one carrier did."""

    carrier: str
    role: str
    """"source", "write" or "descendant"; only sources and writes enter a decision."""
    attributes: dict[str, AttributeEffect]
    sufficiency: Bound
    """min_k alpha_k: lower, the smallest lower bound; upper, the smallest Bonferroni upper one."""
    largest: Bound
    """max_k alpha_k, both bounds Bonferroni-corrected over attributes."""
    n_pairs: int
    n_rows: int
    n_tests: int
    """Number of carriers over which the bounds of `sufficiency` and `largest` are corrected."""
    seed: int
    moments: np.ndarray | None = field(default=None, repr=False, compare=False)
    """[n_pairs, k, 6] of `make_moments`: all that another resampling or test needs; None where only
    the numbers above were kept."""

    def __repr__(self) -> str:
        return table_effects([self])


def table_effects(effects: Sequence[Effect]) -> str:
    """Return a text table of donor share, its interval, and damage by carrier and attribute."""
    rows = [("carrier", "role", "attribute", "donor share", "damage")]
    for one in effects:
        for name, row in one.attributes.items():
            share = f"{row.alpha:.2f} [{row.alpha_low:.2f}, {row.alpha_high:.2f}]"
            rows.append((one.carrier, one.role, name, share, f"{row.damage:.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def make_pairs(
    donor: Embedded,
    recipient: Embedded,
    *,
    reference: Embedded,
    pair: Sequence[Hashable] | None = None,
    donor_ids: Sequence[Hashable] | None = None,
    recipient_ids: Sequence[Hashable] | None = None,
) -> Pairs:
    """Center the embeddings of donors and recipients and check that the pairs are disjoint.

    Args:
        donor: attribute -> [n, d_k] of the unedited donor images.
        recipient: the same of the unedited recipients.
        reference: the same of other images, whose mean is the origin of each attribute. An error of
            the origin is common to all images and so counts as a share: m reference images give an
            unrelated image alpha = beta = about 1 / m. Take at least as many as there are pairs.
        pair: [n] the pair of each row; rows of one pair differ in noise only. None: all differ.
        donor_ids: [n] names of the donor images (such as prompt or latent); None: not checked.
        recipient_ids: the same for recipients.

    Raises:
        InputError: attributes, shapes or lengths differ, a value is not finite, an image is in two
            pairs, or there are fewer than 10 pairs.
    """
    shapes = _check_embedded(donor, "donor", None)
    _check_embedded(recipient, "recipient", shapes)
    n = next(iter(shapes.values()))[0]
    others = _check_embedded(reference, "reference", {k: (-1, d) for k, (_, d) in shapes.items()})
    fewest = min(rows for rows, _ in others.values())
    if fewest < 2:
        raise InputError(
            f"{fewest} reference images: their mean is the origin of each attribute; give 2 or "
            "more, at best as many as there are pairs"
        )
    names = list(range(n)) if pair is None else list(pair)
    if len(names) != n:
        raise InputError(f"pair has {len(names)} entries for {n} rows")
    codes: dict[Hashable, int] = {}
    code = np.array([codes.setdefault(name, len(codes)) for name in names])
    if len(codes) < MIN_PAIRS:
        raise InputError(
            f"{len(codes)} disjoint pairs: intervals need {MIN_PAIRS} or more; noise seeds of one "
            "pair do not count as pairs"
        )
    _check_disjoint(code, donor_ids, recipient_ids)
    center = {k: _double(reference[k]).mean(0) for k in shapes}
    sides = ({k: _double(side[k]) - center[k] for k in shapes} for side in (donor, recipient))
    return Pairs(next(sides), next(sides), center, code)


def _double(value: np.ndarray) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)


def _check_embedded(
    given: Embedded, name: str, shapes: Mapping[str, tuple[int, int]] | None
) -> dict[str, tuple[int, int]]:
    """Shapes by attribute; -1 rows in the wanted shapes is any number."""
    if not given or (shapes is not None and set(given) != set(shapes)):
        raise InputError(
            f"the {name} images have the attributes {sorted(given)}, the donors "
            f"{sorted(shapes or ())}; embed all images by the same attributes, at least one"
        )
    found = {}
    for key, value in given.items():
        shape = np.shape(value)
        wanted = None if shapes is None else shapes[key]
        rows = shape[0] if wanted is None or wanted[0] < 0 else wanted[0]
        if len(shape) != 2 or (wanted is not None and shape != (rows, wanted[1])):
            raise InputError(f"{key} of the {name} images is {shape}, not {wanted or '[n, d]'}")
        if not np.isfinite(value).all():
            raise InputError(f"{key} of the {name} images holds NaN or infinite values")
        found[key] = shape
    if shapes is None and len({rows for rows, _ in found.values()}) != 1:
        raise InputError(f"the attributes of the {name} images differ in rows: {found}")
    return found


def _check_disjoint(
    code: np.ndarray,
    donor_ids: Sequence[Hashable] | None,
    recipient_ids: Sequence[Hashable] | None,
) -> None:
    owner: dict[Hashable, int] = {}
    for ids, side in ((donor_ids, "donor"), (recipient_ids, "recipient")):
        if ids is not None and len(ids) != len(code):
            raise InputError(f"{side}_ids has {len(ids)} entries for {len(code)} rows")
        for image, p in zip(ids or (), code.tolist(), strict=False):
            if owner.setdefault(image, p) != p:
                raise InputError(
                    f"image {image!r} is in pairs {owner[image]} and {p}: pairs have to be "
                    "disjoint, or their intervals are too narrow"
                )


def make_moments(pairs: Pairs, swapped: Embedded) -> Float[np.ndarray, "n_pairs k 6"]:
    """Sums over each pair's rows of <A,A>, <A,B>, <B,B>, <A,C>, <B,C>, <C,C> by attribute.

    Everything that the pooled regression needs, so that a bootstrap costs one matrix product.
    swapped: attribute -> [n, d_k] of the recipients with the donor's carrier in place, as embedded
    (not centered). Raises InputError where they do not fit the pairs.
    """
    _check_embedded(swapped, "swapped", {k: v.shape for k, v in pairs.donor.items()})
    out = np.zeros((pairs.n_pairs, len(pairs.donor), 6))
    for k, name in enumerate(pairs.attributes):
        a, b = pairs.donor[name], pairs.recipient[name]
        c = _double(swapped[name]) - pairs.center[name]
        products = ((a, a), (a, b), (b, b), (a, c), (b, c), (c, c))
        rows = np.stack([(x * y).sum(1) for x, y in products], axis=1)
        np.add.at(out[:, k], pairs.pair, rows)
    return out


class Shares(NamedTuple):
    """Solutions of the pooled regression, of one shape."""

    alpha: np.ndarray
    beta: np.ndarray
    damage: np.ndarray


def solve_shares(moments: Float[np.ndarray, "*s 6"], names: Sequence[str] = ()) -> Shares:
    """Least squares of C on A and B from summed moments, by Cramer's rule.

    alpha = (BB AC - AB BC) / det, beta = (AA BC - AB AC) / det, det = AA BB - AB^2,
    damage = |C - alpha A - beta B|^2 / |C|^2 = 1 - R2. Cramer's rule because it is exact at the
    ends: C = B gives alpha = 0 and beta = 1 to the last bit, C = A the reverse.
    names: of the attributes, which are the last of the axes s; for the error alone.
    Raises InputError where donors and recipients are one direction.
    """
    aa, ab, bb, ac, bc, cc = np.moveaxis(moments, -1, 0)
    flat = ab * ab >= _COLLINEAR * aa * bb
    if bool(flat.any()):
        which = [name for k, name in enumerate(names) if flat[..., k].any()]
        where = f"attribute {', '.join(which)}" if which else "an attribute"
        raise InputError(
            f"donors and recipients are proportional in {where} (or one of them is 0 throughout, "
            "as where all images are equal): their shares cannot be told apart; pair different "
            "images, or leave the attribute out"
        )
    det = aa * bb - ab * ab
    alpha, beta = (bb * ac - ab * bc) / det, (aa * bc - ab * ac) / det
    rest = cc - 2 * (alpha * ac + beta * bc)
    rest = rest + alpha * alpha * aa + 2 * alpha * beta * ab + beta * beta * bb
    with np.errstate(divide="ignore", invalid="ignore"):
        damage = np.where(cc > 0, rest / cc, np.nan)
    return Shares(alpha, beta, damage)


def draw_pairs(
    n_pairs: int, count: int, seed: int, half: Int[np.ndarray, " n_pairs"] | None = None
) -> Float[np.ndarray, "count n_pairs"]:
    """How often each pair is drawn in each bootstrap sample: whole pairs, with replacement.

    half: [n_pairs] labels; each part is then resampled within itself.
    Source: cluster bootstrap, Davison and Hinkley 1997, sec. 3.8 (whole clusters; their rows stay).
    Raises InputError for fewer than 2 samples, of which there are no quantiles, and a seed below 0.
    """
    check_whole("n_resamples", count, 2)
    check_whole("seed", seed, 0)
    rng = np.random.default_rng([seed, n_pairs])
    labels = np.zeros(n_pairs, int) if half is None else half
    out = np.zeros((count, n_pairs))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        drawn = rng.integers(len(members), size=(count, len(members)))
        drawn += len(members) * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size)
        out[:, members] = times.reshape(drawn.shape)
    return out


def measure_effect(
    pairs: Pairs,
    swapped: Embedded,
    *,
    carrier: str,
    role: str = "source",
    n_tests: int = 1,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Effect:
    """Regress the swapped images on donors and recipients, with a bootstrap over pairs.

    phi_k(C_p) = alpha_k phi_k(A_p) + beta_k phi_k(B_p) + e_p, least squares pooled over all rows.
    Nothing is clipped and no row is excluded for its damage.

    Args:
        pairs: donors and recipients.
        swapped: attribute -> [n, d_k] of the recipients with the donor's carrier in place.
        carrier: its name.
        role: "source", "write" or "descendant".
        n_tests: number of carriers tested together; the bounds are Bonferroni-corrected over them.
        n_resamples: bootstrap samples, at least; more where the tails of the corrected bounds
            need them: ten beyond each, 10 n_tests k / .05 for k attributes.
        seed: of the bootstrap.

    Raises:
        InputError: shapes differ from those of the pairs, donors and recipients do not differ, or
            `role` is none of the three, or a number is below its bound (tests 1, resamples 2).
    """
    if role not in ("source", "write", "descendant"):
        raise InputError(f"role {role!r} is not source, write or descendant")
    check_whole("n_tests", n_tests, 1)
    moments = make_moments(pairs, swapped)
    point = solve_shares(moments.sum(0), pairs.attributes)
    needed = math.ceil(_BEYOND * n_tests * len(pairs.donor) / (1 - LEVEL) - 1e-6)
    check_whole("n_resamples", n_resamples, 2)
    weights = draw_pairs(pairs.n_pairs, max(n_resamples, needed), seed)
    drawn = solve_shares(np.tensordot(weights, moments, 1), pairs.attributes)
    tail = (1 - LEVEL) / 2
    found = {}
    for k, name in enumerate(pairs.attributes):
        triples = []
        for value, draws in zip(point, drawn, strict=True):
            low, high = np.quantile(draws[:, k], [tail, 1 - tail])
            triples += [float(value[k]), float(low), float(high)]
        found[name] = AttributeEffect(*triples)
    smallest, largest = _bound_extremes(point.alpha, drawn.alpha, n_tests)
    return Effect(
        carrier=carrier,
        role=role,
        attributes=found,
        sufficiency=smallest,
        largest=largest,
        n_pairs=pairs.n_pairs,
        n_rows=len(pairs.pair),
        n_tests=n_tests,
        seed=seed,
        moments=moments,
    )


def _bound_extremes(
    alpha: Float[np.ndarray, " k"], drawn: Float[np.ndarray, "b k"], n_tests: int
) -> tuple[Bound, Bound]:
    """Bounds of min_k and max_k alpha_k.

    The smallest lower bound needs no correction: it exceeds the minimum only where the bound of the
    attribute that attains it does. The other three do.
    """
    tail = (1 - LEVEL) / n_tests
    corrected = tail / len(alpha)
    lower = np.quantile(drawn, tail, axis=0).min()
    upper = np.quantile(drawn, 1 - corrected, axis=0)
    most_lower = np.quantile(drawn, corrected, axis=0).max()
    smallest = Bound(float(alpha.min()), float(lower), float(upper.min()))
    return smallest, Bound(float(alpha.max()), float(most_lower), float(upper.max()))


def transfer_ratio(
    donor: Float[np.ndarray, "n d"],
    recipient: Float[np.ndarray, "n d"],
    swapped: Float[np.ndarray, "n d"],
) -> float:
    """Mean of tau = [d(C,B) - d(C,A) + d(A,B)] / [2 d(A,B)], d the Euclidean distance.

    0 stays recipient, 1 becomes donor, and .5 an image unrelated to both: a high tau does not show
    a transfer. Computed to reproduce the public experiment only; `measure_effect` is the measure.
    Raises InputError for shapes that differ and for a donor that equals its recipient.
    """
    a, b, c = _double(donor), _double(recipient), _double(swapped)
    if not a.shape == b.shape == c.shape:
        raise InputError(f"shapes differ: donor {a.shape}, recipient {b.shape}, swapped {c.shape}")
    between = np.linalg.norm(a - b, axis=1)
    if bool((between == 0).any()):
        raise InputError(f"donor and recipient of row {int(between.argmin())} are equal: no tau")
    gain = np.linalg.norm(c - b, axis=1) - np.linalg.norm(c - a, axis=1)
    return math.fsum((gain + between) / (2 * between)) / len(a)
