"""The record of matched features of two SAEs: FeatureMatches, its levels and examples; JSON."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.errors import InputError

FORMAT = "interp-matches 1"
# Digits kept in JSON, below any resolution of a correlation over images.
DIGITS = 6
# Features with a smaller p, over all features of the match, count as shared.
ALPHA = 0.05
_PER_PAIR = (
    "latent_first",
    "latent_second",
    "found",
    "r",
    "universality",
    "p",
    "ceiling_first",
    "ceiling_second",
    "cosine",
)


@dataclass(frozen=True)
class MatchSide:
    """One of the two SAEs."""

    model: str
    point: str
    call: int | None
    """None: the mean, or maximum, over all calls."""
    n_latents: int
    counted: tuple[int, ...]
    """Latents active often enough to be matched; the others have no score."""
    sae: str
    """Digest."""
    store: str
    """Hash."""

    @property
    def name(self) -> str:
        """`model/point`, with the call where one was read."""
        return f"{self.model}/{self.point}" + ("" if self.call is None else f"@{self.call}")


@dataclass(frozen=True)
class MatchLevel:
    """The same matching between other SAEs on the same images: what the match stands beside."""

    name: str
    n_first: int
    n_second: int
    """Counted latents."""
    n_pairs: int
    mean: float
    """Mean held-out correlation of its matches."""
    share: float | None
    """Share of the first SAE's counted latents above its own null's maximum; None: no null."""
    difference: float
    """Mean of the match - mean of this level, with its paired 95 % jackknife interval."""
    low: float | None
    high: float | None


@dataclass(frozen=True)
class MatchExamples:
    """What both latents of a pair do on the same held-out images: the top images of either."""

    latent_first: int
    latent_second: int
    ids: tuple[str, ...]
    """[e] image ids: first those of the first latent."""
    value_first: tuple[float, ...]
    """[e] activation of the image, as pooled."""
    value_second: tuple[float, ...]
    map_first: tuple[tuple[int, ...], ...]
    """[e] activation over the map, 0..254 of the latent's largest here, 255 where no row was
    captured; () where the point has no map."""
    map_second: tuple[tuple[int, ...], ...]
    shape_first: tuple[int, ...]
    """Height and width of the maps."""
    shape_second: tuple[int, ...]


@dataclass(frozen=True)
class FeatureMatches:
    """Matched latents of two SAEs over shared images, strongest first.

    Columns of one entry per pair: numbers of both latents; `found`, the correlation on the half of
    the images on which the match was found; `r`, that on the other half; `universality` =
    max(0, (r - threshold) / (1 - threshold)); `p`, max-T over all features of the match; the
    correlations that each latent reaches with an SAE of a second seed (None: not given, or no match
    there); the cosine of the decoders (None: they do not read the same space). For soft matches r
    is the mean over a latent's partners, weighted by the plan, of which the largest is named.
    """

    first: MatchSide
    second: MatchSide
    method: str
    """best, mutual, hungarian or soft."""
    by: str
    """What matches were found by: activations or decoder."""
    pooling: str
    latent_first: tuple[int, ...]
    latent_second: tuple[int, ...]
    found: tuple[float, ...]
    r: tuple[float, ...]
    universality: tuple[float, ...]
    p: tuple[float | None, ...]
    ceiling_first: tuple[float | None, ...]
    ceiling_second: tuple[float | None, ...]
    cosine: tuple[float | None, ...]
    threshold: float | None
    """95 % quantile of the largest r of a whole matching under permuted pairing."""
    mean: float
    """Mean r over the matched features, with its 95 % jackknife interval over held-out clusters."""
    low: float | None
    high: float | None
    null_mean: float | None
    """Of `mean` under permuted pairing."""
    null_sd: float | None
    p_mean: float | None
    """(1 + b) / (1 + K) of `mean`."""
    levels: tuple[MatchLevel, ...]
    """Untrained twins and second seeds."""
    examples: tuple[MatchExamples, ...]
    """Of the pairs shown on a page; (): of matrices of your own."""
    n_found: int
    """Images on which matches were found."""
    n_scored: int
    """Images on which they were scored."""
    min_images: int
    n_permutations: int
    n_folds: int
    seed: int
    strata: str
    """What the permutations kept."""
    sample_set: str
    sample_hash: str
    note: str

    @property
    def n_pairs(self) -> int:
        """Matched pairs."""
        return len(self.r)

    @property
    def n_shared(self) -> int:
        """Pairs with p <= .05 over all features of the match."""
        return sum(p is not None and p <= ALPHA for p in self.p)

    def scores(self, side: str = "first") -> np.ndarray:
        """Universality of every latent of a side: [n_latents].

        0 for a counted latent without a match, NaN for one that is active on too few images.
        side: "first" or "second"; best and soft matches score the first side only.
        Raises InputError for another side.
        """
        if side not in ("first", "second"):
            raise InputError(f"side {side!r} is first or second")
        if side == "second" and self.method in ("best", "soft"):
            raise InputError(
                f"{self.method} matches score the features of the first SAE: match the second "
                "with the first"
            )
        one: MatchSide = getattr(self, side)
        out = np.full(one.n_latents, np.nan)
        out[list(one.counted)] = 0
        out[list(getattr(self, f"latent_{side}"))] = self.universality
        return out

    def table(self, n: int | None = None) -> list[dict[str, Any]]:
        """One flat row per pair, strongest first; n: that many."""
        rows = zip(*(getattr(self, name) for name in _PER_PAIR), strict=True)
        return [dict(zip(_PER_PAIR, row, strict=True)) for row in list(rows)[:n]]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, floats rounded to 6 digits."""
        return {"format": FORMAT, **_plain(dataclasses.asdict(self))}

    def save(self, path: str | os.PathLike) -> Path:
        """Write JSON with a fixed order of keys; equal results give equal bytes."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.as_dict(), separators=(",", ":"), allow_nan=False)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(text + "\n")
        partial.replace(path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> "FeatureMatches":
        """Read what `save` wrote. Raises InputError for another file or format."""
        path = Path(path)
        try:
            values = json.loads(path.read_text())
            if values.pop("format") != FORMAT:
                raise InputError(f"{path} has another format than {FORMAT!r}")
            return cls._build(values)
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{path} is no saved FeatureMatches: {error!r}") from error

    @classmethod
    def _build(cls, values: Mapping[str, Any]) -> "FeatureMatches":
        sides = {name: MatchSide(**_tuples(values[name])) for name in ("first", "second")}
        levels = tuple(MatchLevel(**one) for one in values["levels"])
        examples = tuple(MatchExamples(**_tuples(one)) for one in values["examples"])
        columns = {name: tuple(values[name]) for name in _PER_PAIR}
        if len({len(column) for column in columns.values()}) > 1:
            raise InputError("columns of unequal length")
        return cls(**{**values, **sides, **columns, "levels": levels, "examples": examples})


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _tuple(value) for name, value in values.items()}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(one) for one in value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    if isinstance(value, str | int) or value is None:
        return value
    if isinstance(value, Iterable):
        return [_plain(one) for one in value]
    raise TypeError(f"{type(value)} has no JSON form")
