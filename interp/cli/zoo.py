"""`interp zoo`: the models in the box."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from interp.cli.show import plain, print_table


@dataclass(frozen=True)
class ZooList:
    """List the models in the box with their quality and training."""

    def run(self) -> None:
        """Print one line per model."""
        from interp.zoo import MODELS, card

        rows = [("name", "parameters", "steps", "status")]
        for name in MODELS:
            one = card(name)
            status = one.warning.partition(": ")[2] or "good"
            numbers = str(one.net["parameters"]), str(one.training["steps"])
            rows.append((one.name, *numbers, status))
        print_table(rows)


@dataclass(frozen=True)
class ZooCard:
    """Print a model's card: data, recipe, training, quality."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """A name of `interp zoo list`, or with a training seed: gan/1."""

    def run(self) -> None:
        """Print JSON."""
        from interp.zoo import card

        print(json.dumps(plain(card(self.name)), indent=1))


@dataclass(frozen=True)
class ZooTrain:
    """Train a model of the zoo; a rerun continues a killed one.

    Example: interp zoo train gan --seed 1 --minutes 60 --out checkpoints
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """A name of `interp zoo list`; ldm needs vae and text, shipped or in the same folder."""
    out: Path = Path("checkpoints")
    """Folder of checkpoints and of the finished weights and card."""
    seed: int = 0
    """Seed of weights, order and noise; part of the model's name."""
    steps: int | None = None
    """Steps; with none given, minutes decide."""
    minutes: float | None = None
    """Time to train; the learning rate is planned for it."""
    device: str = "cpu"
    """cpu, cuda ..."""

    def run(self) -> None:
        """Print where the weights are."""
        from interp.zoo import train_zoo

        chosen = {"steps": self.steps, "minutes": self.minutes, "device": self.device}
        print(train_zoo(self.name, out=self.out, seed=self.seed, **chosen))


@dataclass(frozen=True)
class ZooEvaluate:
    """Measure a model of the zoo on held-out glyphs, and write the result into your own card.

    Example: interp zoo evaluate gan/1 --folder checkpoints
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """A name of `interp zoo list`, or with a training seed: gan/1."""
    folder: Path | None = None
    """Folder of `interp zoo train`; its card is rewritten. None: the shipped model, only shown."""
    n: int | None = None
    """Samples or images; as many as there are held-out images where none is given."""

    def run(self) -> None:
        """Print the quality as JSON, then the verdict."""
        from interp.zoo import evaluate_zoo, verdict, write_quality

        quality = evaluate_zoo(self.name, folder=self.folder, n=self.n)
        print(json.dumps(plain(quality), indent=1))
        if self.folder is not None:
            write_quality(self.name, quality, folder=self.folder)
        judged = verdict(quality)
        print(f"UNDERTRAINED: {'; '.join(judged.reasons)}" if judged.undertrained else "good")
