"""What the models of a study are shown, and how the study judges."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from interp.alignment.recipes import RECIPES
from interp.errors import InputError
from interp.geometry import CORE
from interp.geometry.neighbors import FRACTION
from interp.geometry.preprocessing import Preprocessing
from interp.stats import FOLDS

O = TypeVar("O", "Showing", "Judging")  # noqa: E741


@dataclass(frozen=True)
class Showing:
    """How models that are named by spec are read; of no effect on stores and matrices."""

    images: str = "glyphs/heldout"
    """Images: glyphs/train, glyphs/heldout, glyphs/all, a folder, or a store with images."""
    captions: str = ""
    """File with the captions of the images: .csv or .tsv with columns id (or file) and caption, or
    .json with {id: caption}; "": those that the images have."""
    limit: int = 0
    """At most this many images; 0: all."""
    size: int = 0
    """Height and width to which images are padded and resampled; 0: as they are, or the models' own
    size."""
    log_snr: tuple[float, ...] = ()
    """Diffusion models: noise levels as log(signal power / noise power); empty: 2, 0 and -2."""
    draws: int = 1
    """Noise draws per image."""
    untrained: int = 1
    """Untrained twins of each model, with seeds 1, 2, ...; five show how much they differ."""
    n_layers: int = 8
    """Block outputs that are read where no points are named, evenly over the depth."""
    batch_size: int = 64
    """Images per batch; does not change any row beyond rounding."""
    device: str = "cpu"
    """cpu, cuda, cuda:0 ..."""
    dtype: str = ""
    """float32, float16 or bfloat16; "": that of the files."""
    activations: str = ""
    """Folder of the stores, which are kept and used again; "": `activations` in the folder of the
    result, or here."""

    def __post_init__(self) -> None:
        for name, low in (("limit", 0), ("untrained", 0), ("n_layers", 1), ("draws", 1)):
            if getattr(self, name) < low:
                raise InputError(f"{name} = {getattr(self, name)}: at least {low} is needed")


@dataclass(frozen=True)
class Judging:
    """What is measured, beside what, and how it is tested."""

    measures: tuple[str, ...] = CORE
    """Keys of `interp.geometry.MEASURES`."""
    recipes: tuple[str, ...] = RECIPES
    """Published scores, exactly, beside their calibrated value: "prh"."""
    levels: tuple[str, ...] | None = None
    """Reference levels: pixels, colors, random convolutions, words, tfidf, caption length,
    spectrum, shared noise (of diffusion models named by spec). None: pixels and colors of stores,
    words and their number where a language model is among them, spectrum for matrices."""
    pooling: str = "mean"
    """mean over positions, or tokens on a 4 x 4 grid, each position's mean removed."""
    clip: float | None = None
    """Quantile of the absolute values at which features are clipped before anything else."""
    normalize: bool = False
    """Scale every row to length 1 before anything else."""
    pairs: tuple[tuple[str, str], ...] | None = None
    """Pairs of models to test; None: all. Fewer need fewer permutations."""
    pairing: str = "image"
    """image: rows pair by image id; seed: samples of different weights pair by seed and options."""
    halves: bool = True
    """Choose layers on one half of the images and score them on the other."""
    n_permutations: int | None = None
    """Permutations behind each p; None: 500, or as many as the number of tests needs; 0: no p."""
    n_folds: int = FOLDS
    """Folds of the jackknife, unions of whole clusters; 0: no intervals."""
    n_neighbors: float = FRACTION
    """Neighbors as a fraction of the images, for measures that count them."""
    seed: int = 0
    """Of permutations, folds, halves, noise and random levels. A model's permutations come from the
    seed and its label, whoever else is compared: under other labels p is another draw of the same.
    """

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to every layer before it is measured."""
        return Preprocessing(clip=self.clip, normalize=self.normalize)

    def __post_init__(self) -> None:
        if odd := sorted(set(self.recipes) - set(RECIPES)):
            raise InputError(f"no recipe {odd[0]!r}; there are {', '.join(RECIPES)}")
        if not self.measures:
            raise InputError("no measures given: name at least one")
        if len(set(self.measures)) < len(self.measures):
            raise InputError(
                f"measures {', '.join(self.measures)}: each once, or p counts it twice"
            )
        if self.pooling not in ("mean", "tokens"):
            raise InputError(f"pooling {self.pooling!r} is mean or tokens")
        counts = {"n_permutations": self.n_permutations or 0, "n_folds": self.n_folds}
        for name, value in {**counts, "seed": self.seed}.items():
            if not isinstance(value, numbers.Integral) or value < 0:
                raise InputError(f"{name} = {value}: a whole number from 0 on is needed")
        if not isinstance(self.n_neighbors, numbers.Real) or not math.isfinite(self.n_neighbors):
            raise InputError(
                f"n_neighbors = {self.n_neighbors}: a fraction of the images is needed"
            )


def split_options(
    options: Mapping[str, Any], showing: Showing | None, judging: Judging | None
) -> tuple[Showing, Judging]:
    """The two records with options by field name set over them.

    Raises InputError for a name that is a field of neither.
    """
    showing, judging = showing or Showing(), judging or Judging()
    known = [field.name for one in (showing, judging) for field in dataclasses.fields(one)]
    if odd := sorted(set(options) - set(known)):
        raise InputError(f"no option {odd[0]!r}; there are {', '.join(known)}")
    return _with(showing, options), _with(judging, options)


def _with(record: O, options: Mapping[str, Any]) -> O:
    names = {field.name for field in dataclasses.fields(record)} & set(options)
    given = {name: options[name] for name in names}
    # A single word is meant as a list of one.
    tuples = ("measures", "recipes", "levels", "log_snr", "pairs")
    for name in names & set(tuples):
        value = given[name]
        given[name] = (value,) if isinstance(value, str | float | int) else value
        given[name] = None if value is None else tuple(given[name])
    if "images" in given:
        given["images"] = str(given["images"])
    return dataclasses.replace(record, **given)
