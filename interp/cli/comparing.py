"""`interp compare` and `interp measures`."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

import interp
from interp import InterpError
from interp.cli.show import print_table

# How the library names a setting in its errors -> the option of `interp compare`.
OPTIONS = (
    (r"\bn_(permutations|folds|neighbors|layers)=(\S+?)(?=[,;.)]*(\s|$))", r"--\1 \2"),
    (r"\bn_(permutations|folds|neighbors|layers)\b", r"--\1"),
    (r"\bpooling=\"(\w+)\"", r"--pooling \1"),
    (r"\bpairing=\"(\w+)\"", r"--pairing \1"),
    (r"\b(untrained|limit|size|draws)=(\d+)", r"--\1 \2"),
    (r"\blog_snr\b", "--log-snr"),
    (r"\btwins=", "--twins"),
    (r"\bimages=STORE\b", "--images STORE"),
    (r", or name the common ones in images=", ""),
    (r"\bids=", "--ids"),
    (r": pass a Representation, or pixels=False", ": name other --levels"),
    (r": pass a Representation, or leave '[^']*' out", ": name other --levels"),
    (r"\bpixels=False\b", "--levels without pixels"),
)
# Options that the library calls by the same name.
SAME = (
    *("images", "captions", "limit", "size", "log_snr", "draws", "untrained", "batch_size"),
    *("device", "measures", "pooling", "clip", "normalize", "pairing", "halves", "seed"),
)
NAMED = re.compile(r"^(?P<label>[^=:/\\]+)=(?P<rest>.+)$", re.DOTALL)


@dataclass(frozen=True)
class Compare:
    """Compare layers across models, beside untrained twins and pixels, and say what it shows.

    A model is a spec (captured on the way), the folder of a store, or a file of features; LABEL=
    names it. The folder of the result gets the page, figures, table, numbers, and reading.md.

    Example: interp compare zoo:vit zoo:ddpm --images glyphs/heldout --limit 256

    Example: interp compare vit=activations/0123 ddpm=activations/4567 --twins ddpm=activations/89ab

    Example: interp compare x.npy y.npy --ids ids.txt --clusters clusters.txt
    """

    models: Annotated[Positional[tuple[str, ...]], arg(metavar="[LABEL=]MODEL ...")]
    """Two or more of zoo:vit, diffusers:..., transformers:..., lens:..., STORE, x.npy,
    x.safetensors."""
    twins: tuple[str, ...] = ()
    """LABEL=STORE (or file): the same of the untrained twin; several of one label are several
    initializations. Those of specs are made."""
    references: tuple[str, ...] = ()
    """LABEL=FILE: features of your own that stand for a layer, such as pixels."""
    points: tuple[str, ...] = ()
    """Names or patterns of points, LABEL=PATTERN for one model; none: ends of blocks of specs, all
    points of stores."""
    images: str = "glyphs/heldout"
    """What specs are shown: glyphs/train, glyphs/heldout, glyphs/all, a folder, or a store."""
    captions: str = ""
    """File of captions for language models: .csv, .tsv (columns id or file, caption) or .json."""
    limit: int = 0
    """At most this many images; 0: all."""
    size: int = 0
    """Height and width to which images are resampled; 0: as they are, or the models' own."""
    log_snr: tuple[float, ...] = ()
    """Noise levels of diffusion models as log(signal power / noise power); none: 2, 0 and -2."""
    draws: int = 1
    """Noise draws per image."""
    untrained: int = 1
    """Untrained twins of each spec; 5 show how much initializations differ."""
    layers: int = 8
    """Block outputs of a spec, evenly over the depth, where no points are named."""
    batch_size: int = 64
    """Images per batch."""
    device: str = "cpu"
    """cpu, cuda, cuda:0 ..."""
    dtype: Literal["native", "float32", "float16", "bfloat16"] = "native"
    """Type of the weights; native keeps that of the files."""
    activations: str = ""
    """Folder of the stores, kept and used again; none: activations in the folder of the result."""
    ids: tuple[str, ...] = ()
    """File with one id per row of the matrices, or LABEL=FILE ...; none: row i is image i."""
    clusters: str = ""
    """File with the near-duplicate group of each row of the matrices."""
    strata: str = "source"
    """Column of the stores within which images are permuted (none: ""), or a file with the group of
    each row of the matrices."""
    measures: tuple[str, ...] = ("cka", "mutual_knn", "procrustes")
    """What to measure; `interp measures` lists them."""
    recipe: tuple[str, ...] = ("prh",)
    """Published scores, exactly, beside their calibrated value."""
    levels: tuple[str, ...] = ()
    """Reference levels: pixels, colors, spectrum, words, tfidf, "caption length", "random
    convolutions"; none: pixels and colors of images, words of captions, spectrum of matrices."""
    pooling: Literal["mean", "tokens"] = "mean"
    """mean over positions, or tokens on a 4 x 4 grid with each position's mean removed."""
    clip: float | None = None
    """Quantile of absolute values at which features are clipped first."""
    normalize: bool = False
    """Scale every row to length 1 first."""
    pairs: tuple[str, ...] = ()
    """LABEL,LABEL ...: the pairs of models to test; none: all."""
    pairing: Literal["image", "seed"] = "image"
    """Pair rows by image, or samples of different weights by seed."""
    halves: bool = True
    """Choose layers on one half of the images and score them on the other."""
    permutations: int | None = None
    """Permutations behind each p, at least 200; None: as many as the tests need, 0: no p."""
    folds: int = 20
    """Folds of the jackknife, unions of whole clusters; 0: no intervals."""
    neighbors: float = 0.01
    """Neighbors as a fraction of the images, for measures that count them."""
    seed: int = 0
    """Seed of permutations, folds, halves, noise and random levels. A model's permutations come
    from the seed and its label: under other labels p is another draw of the same."""
    out: Path = Path("comparison")
    """Folder of the result; NAME.json: that file alone, for `interp dashboard build`."""

    def run(self) -> None:
        """Print the verdicts, the strongest pair of layers of each pair of models, and the page."""
        try:
            study = self._study()
        except InterpError as error:
            raise type(error)(in_cli_terms(str(error))) from error
        for line in (*study.verdicts, *(f"Not computed: {one}" for one in study.problems)):
            print(line)
        print()
        print_table(strongest_rows(study.alignment))
        print()
        if self._whole:
            print(self.out / "reading.md")
            print(self.out / "index.html")
        else:
            print(study.alignment.save(self.out))

    @property
    def _whole(self) -> bool:
        return self.out.suffix.lower() != ".json"

    def _study(self) -> Any:
        options = {name: getattr(self, name) for name in SAME}
        renamed = {
            "n_layers": self.layers,
            "n_permutations": self.permutations,
            "n_folds": self.folds,
            "n_neighbors": self.neighbors,
            "recipes": self.recipe,
            "levels": self.levels or None,
            "dtype": "" if self.dtype == "native" else self.dtype,
            "pairs": _pairs(self.pairs),
            # Beside a file there is no folder of the result.
            "activations": self.activations or ("" if self._whole else "activations"),
        }
        clusters = _lines(self.clusters, "clusters") if self.clusters else ()
        is_file = Path(self.strata).is_file()
        return interp.study(
            read_models(self.models),
            twins=_gather(self.twins, "--twins"),
            references={k: v[0] for k, v in _gather(self.references, "--references").items()},
            points=_points(self.points),
            ids=_ids(self.ids),
            clusters=clusters,
            strata=_lines(self.strata, "strata") if is_file else self.strata,
            out=self.out if self._whole else None,
            made_by=self.command_line(),
            progress=lambda line: print(line, file=sys.stderr),
            **options,
            **renamed,
        )

    def command_line(self) -> str:
        """Return the command with the options that differ from their defaults."""
        words = ["interp", "compare", *self.models]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "models" or value == field.default:
                continue
            name = field.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
                continue
            several = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", *map(str, several)]
        return shlex.join(words)


@dataclass(frozen=True)
class Measures:
    """Say what each measure of likeness is, what it can show, and what it cannot.

    Example: interp measures cka mutual_knn
    """

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME ...")] = ()
    """Measures to explain; none: list them all."""
    markdown: bool = False
    """Print all of them as one page of Markdown."""

    def run(self) -> None:
        """Print one line per measure, or each one's definition, null, bias and limits."""
        from interp.geometry import explain, measure_rows, measures_markdown

        if self.markdown:
            print(measures_markdown())
        elif self.names:
            print("\n\n".join(map(explain, self.names)))
        else:
            print_table([row[:2] for row in measure_rows()])


def in_cli_terms(text: str) -> str:
    """Return an error of the library with options in place of the names of its arguments."""
    for pattern, option in OPTIONS:
        text = re.sub(pattern, option, text)
    return text


def read_models(words: Sequence[str]) -> dict[str, Any] | list[str]:
    """Return label -> model where every word names its label, else the words themselves.

    Raises:
        InterpError: a label that stands twice, or labels for some models only.
    """
    found = [NAMED.match(word) for word in words]
    if not any(found):
        return list(words)
    if bare := [word for word, match in zip(words, found, strict=True) if match is None]:
        raise InterpError(f"{bare[0]!r} has no label: give LABEL=MODEL for all, or for none")
    labels = [match["label"] for match in found if match]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise InterpError(f"two models have the label {twice[0]!r}")
    return {match["label"]: match["rest"] for match in found if match}


def _gather(words: Sequence[str], option: str) -> dict[str, list[str]]:
    """LABEL=PATH words as label -> paths."""
    out: dict[str, list[str]] = {}
    for word in words:
        match = NAMED.match(word)
        if match is None:
            raise InterpError(f"{option} {word!r}: LABEL=PATH is needed")
        out.setdefault(match["label"], []).append(match["rest"])
    return out


def _points(words: Sequence[str]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for word in words:
        match = NAMED.match(word)
        label, pattern = (match["label"], match["rest"]) if match else ("", word)
        out.setdefault(label, []).append(pattern)
    return out


def _pairs(words: Sequence[str]) -> list[tuple[str, str]] | None:
    out = []
    for word in words:
        first, _, second = word.partition(",")
        if not first or not second:
            raise InterpError(f"--pairs {word!r}: LABEL,LABEL is needed")
        out.append((first, second))
    return out or None


def _ids(words: Sequence[str]) -> Any:
    if len(words) == 1 and not NAMED.match(words[0]):
        return _lines(words[0], "ids")
    return {k: _lines(paths[0], "ids") for k, paths in _gather(words, "--ids").items()}


def _lines(path: str, what: str) -> tuple[str, ...]:
    from interp.alignment import read_labels

    return read_labels(path, what)


def strongest_rows(alignment: Any) -> list[tuple[str, ...]]:
    """Return the strongest cell of each model pair and measure as text."""
    rows: list[tuple[str, ...]] = []
    rows.append(("layers", "measure", "value", "null", "p (max-T, Holm)", "twin", "difference"))
    names = [layer.name for layer in alignment.layers]
    for family in alignment.families:
        cell = alignment.cell(*family.best, family.measure)
        numbers = [cell.comparison.value, cell.comparison.null_mean, family.p_holm]
        numbers += [cell.twin_value, cell.difference]
        texts = ["-" if number is None else f"{number:.4f}" for number in numbers]
        rows.append((f"{names[cell.i]} ~ {names[cell.j]}", family.measure, *texts))
    return rows
