"""DESCRIPTORS: numbers of one representation, by name; their intervals and n-curves.

A descriptor is a covariate of every similarity: two layers of one dimension each are alike in
another sense than two of a hundred. Smooth ones get a jackknife interval over folds of whole
clusters (`describe_interval`). Those that count neighbors depend on n itself, because neighbors
come nearer as rows are added; they get a curve over subsamples without replacement (`n_curve`), and
no interval.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.geometry import dimension, spectra
from interp.geometry.features import MIN_ROWS, as_rows, center
from interp.geometry.search import metric_rows
from interp.stats import FOLDS, Interval, jackknife, make_folds

# Floats in one slab of distances: 32 MB in float64.
SLAB = 1 << 22
# Wang and Isola 2020, sec. 4.1.2.
TEMPERATURE = 2.0
# Halvings of n are what a trend over n is read from; smaller parts say little.
SHARES = (0.125, 0.25, 0.5, 1.0)
# Subsamples of each size; their spread is shown and no interval.
DRAWS = 5


class Descriptor(NamedTuple):
    """One function of a feature matrix, with what is known of it."""

    function: Callable[..., float]
    definition: str
    source: str
    cost: str
    # Of the estimate in a finite sample.
    bias: str
    # Of "orthogonal", "scale", "translation", "permutation", "row_scale" (each row by its own
    # factor): changes that leave the value as it is.
    invariances: frozenset[str]
    # False: a function of nearest neighbors, which repeated rows break and n changes.
    smooth: bool = True
    # Fewest columns for which the defaults have a value.
    least_width: int = 1


def anisotropy(x: Float[Tensor | np.ndarray, "n d"]) -> float:
    """Mean cosine of two different rows.

    1 / (n (n - 1)) sum over i != j of <u_i, u_j>, u the rows of norm 1, about the origin: 1 for a
    narrow cone, 0 for directions without a mean, at least -1 / (n - 1). Cost n d.
    Raises InputError for NaN, n < 4, a constant representation, a zero row.
    Source: Ethayarajh 2019, sec. 3 (there over sampled pairs).
    """
    center(x)
    rows = metric_rows(x, "cosine")
    n = len(rows)
    return float((rows.sum(0).square().sum() - n) / (n * (n - 1)))


def uniformity(x: Float[Tensor | np.ndarray, "n d"], temperature: float = TEMPERATURE) -> float:
    """Log of the mean Gaussian potential of two different rows on the sphere.

    log 1 / (n (n - 1)) sum over i != j of exp(-t |u_i - u_j|^2), u the rows of norm 1, t =
    temperature. 0 for one direction; the lowest for the uniform distribution, -4 + log 0F1(4; 4) =
    -3.0825 on the sphere of d = 8 with t = 2. A row is no pair with itself. Cost n^2 d in slabs.
    Raises InputError as `anisotropy`, and for temperature <= 0.
    Source: Wang and Isola 2020, sec. 4.1.2 (there over pairs of a batch, i < j).
    """
    if temperature <= 0:
        raise InputError(f"temperature {temperature} is positive")
    center(x)
    rows = metric_rows(x, "cosine")
    n = len(rows)
    total = torch.zeros((), dtype=torch.float64)
    for part in torch.arange(n).split(max(1, SLAB // n)):
        potential = (2 * temperature * (rows[part] @ rows.T - 1)).exp_()
        potential[torch.arange(len(part)), part] = 0
        total += potential.sum()
    return float((total / (n * (n - 1))).log())


def describe_interval(
    name: str,
    x: Float[Tensor, "n d"],
    clusters: Sequence[Hashable] | None = None,
    *,
    n_folds: int = FOLDS,
    seed: int = 0,
    **options: Any,
) -> tuple[float, Interval]:
    """A smooth descriptor and its jackknife interval over folds of whole clusters.

    name: a key of DESCRIPTORS. clusters: [n] labels of near-duplicates; None: each row its own.
    options: passed to the function. Cost n_folds + 1 times that of the function.
    The interval covers the estimate's scatter and not its bias in n (`n_curve` shows that).
    Raises InputError for a descriptor of neighbors, and as `make_folds`.
    """
    one = get_descriptor(name)
    if not one.smooth:
        raise InputError(
            f"no jackknife interval of {name}: it counts neighbors, which move apart as rows are "
            "left out, so that its folds scatter around another value; use n_curve"
        )
    rows = as_rows(x)
    folds = make_folds(range(len(rows)) if clusters is None else clusters, n_folds, seed)
    if len(folds) != len(rows):
        raise InputError(f"{len(folds)} clusters for {len(rows)} rows: one label per row is needed")
    kept = (torch.as_tensor(np.flatnonzero(folds != f)) for f in range(n_folds))
    value = one.function(rows, **options)
    deleted = np.array([one.function(rows[part], **options) for part in kept])
    return value, jackknife(value, deleted)


class NCurve(NamedTuple):
    """A descriptor over the number of rows. Entries of the same place belong together."""

    n: tuple[int, ...]
    mean: tuple[float, ...]
    # Over the draws; None for a single one. Subsamples of one sample overlap: no standard error.
    spread: tuple[float | None, ...]
    draws: int


def n_curve(
    name: str,
    x: Float[Tensor, "n d"],
    sizes: Sequence[int] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    **options: Any,
) -> NCurve:
    """A descriptor over subsamples drawn without replacement; the whole is taken once.

    name: a key of DESCRIPTORS. sizes: numbers of rows, at most n; None: eighth, quarter, half and
    whole. draws: subsamples of each size. options: passed to the function. A value that still
    moves at n is one of this n.
    Raises InputError for a size < 4 or > n, draws < 1, and as the function.
    """
    one, rows = get_descriptor(name), as_rows(x)
    n = len(rows)
    counts = tuple(sizes) if sizes is not None else tuple(round(share * n) for share in SHARES)
    if not counts or min(counts) < MIN_ROWS or max(counts) > n or draws < 1:
        raise InputError(
            f"sizes {list(counts)} with {draws} draws: sizes lie in [{MIN_ROWS}, n = {n}], draws "
            "are at least 1"
        )
    rng = np.random.default_rng(seed)
    means, spreads = [], []
    for m in counts:
        parts = [rng.choice(n, m, replace=False) for _ in range(1 if m == n else draws)]
        values = [one.function(rows[torch.as_tensor(np.sort(part))], **options) for part in parts]
        means.append(float(np.mean(values)))
        spreads.append(float(np.std(values, ddof=1)) if len(values) > 1 else None)
    return NCurve(counts, tuple(means), tuple(spreads), draws)


def get_descriptor(name: str) -> Descriptor:
    """The descriptor of that name. Raises InputError that lists the names."""
    if name not in DESCRIPTORS:
        raise InputError(f"no descriptor {name!r}; there are {', '.join(DESCRIPTORS)}")
    return DESCRIPTORS[name]


_LINEAR = frozenset({"orthogonal", "scale", "permutation"})
_RIGID = _LINEAR | {"translation"}
_SPHERE = _LINEAR | {"row_scale"}
_GRAPH = "n^2 d once, memory n k"
_THIN = "down in high dimensions (n rows are too few), towards the truth as n grows"

DESCRIPTORS: dict[str, Descriptor] = {
    "participation_ratio": Descriptor(
        function=spectra.participation_ratio,
        definition="(sum lambda)^2 / sum lambda^2 of the covariance",
        source="Gao et al. 2017",
        cost="n d min(n, d)",
        bias="down: n r / (n + r) for a ratio of r and Gaussian rows",
        invariances=_RIGID,
    ),
    "effective_rank": Descriptor(
        function=spectra.effective_rank,
        definition="exp of the entropy of sigma / sum sigma, rows centered",
        source="Roy and Vetterli 2007, def. 1",
        cost="n d min(n, d) + min(n, d)^3",
        bias="down while n is not much larger than d",
        invariances=_RIGID,
    ),
    "rankme": Descriptor(
        function=spectra.rankme,
        definition="exp of the entropy of sigma / sum sigma + 1e-7, rows not centered",
        source="Garrido et al. 2023, sec. 3",
        cost="n d min(n, d) + min(n, d)^3",
        bias="down while n is not much larger than d",
        invariances=_LINEAR,
    ),
    "alpha": Descriptor(
        function=spectra.alpha,
        definition="slope of -log lambda_i over log i, weights 1 / i, ranks 11 to 500 (or the last "
        "above rounding)",
        source="Stringer et al. 2019, fig. 2",
        cost="n d min(n, d) + min(n, d)^3",
        bias="up: the tail of a sample's spectrum falls faster, most near rank min(n, d)",
        invariances=_RIGID,
        least_width=spectra.ALPHA_FIRST + spectra.ALPHA_LEAST - 1,
    ),
    "twonn": Descriptor(
        function=dimension.twonn,
        definition="slope of -log(1 - F) over log(r_2 / r_1), smallest 90 %",
        source="Facco et al. 2017",
        cost=_GRAPH,
        bias=_THIN,
        invariances=_RIGID,
        smooth=False,
    ),
    "gride": Descriptor(
        function=dimension.gride,
        definition="maximum likelihood of r_4 / r_2",
        source="Denti et al. 2022",
        cost=_GRAPH,
        bias=_THIN,
        invariances=_RIGID,
        smooth=False,
    ),
    "mle": Descriptor(
        function=dimension.mle,
        definition="1 / mean of log(r_k / r_j) over rows and j < k, k = 1 % of n, at least 3",
        source="Levina and Bickel 2004, sec. 2; MacKay and Ghahramani 2005",
        cost=_GRAPH,
        bias=_THIN,
        invariances=_RIGID,
        smooth=False,
    ),
    "anisotropy": Descriptor(
        function=anisotropy,
        definition="mean cosine of two different rows",
        source="Ethayarajh 2019, sec. 3",
        cost="n d",
        bias="none: a mean over pairs",
        invariances=_SPHERE,
    ),
    "uniformity": Descriptor(
        function=uniformity,
        definition="log mean exp(-2 |u_i - u_j|^2) over i != j, rows of norm 1",
        source="Wang and Isola 2020, sec. 4.1.2",
        cost="n^2 d in slabs",
        bias="down by the log of an unbiased mean: of order 1 / n",
        invariances=_SPHERE,
    ),
}
