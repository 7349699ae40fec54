"""One atlas in the making: the model, its pairs, what was said and how long it took."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from interp.atlas.config import AtlasConfig, Sizes
from interp.atlas.pairing import Drawn
from interp.interventions import Carrier, Pairs
from interp.interventions.swapping import Attribute
from interp.models import Generation, Model


@dataclass
class Tiles:
    """Images that rows point into, each stored once."""

    parts: list[np.ndarray] = field(default_factory=list)
    count: int = 0

    def add(self, images: Tensor, limit: int) -> tuple[int, ...]:
        """Store the first `limit` images uint8 [n, h, w, 3] and return their numbers."""
        chosen = images[:limit].numpy()
        self.parts.append(chosen)
        first, self.count = self.count, self.count + len(chosen)
        return tuple(range(first, self.count))

    def stack(self) -> np.ndarray:
        """Return all of them, [count, h, w, 3]."""
        return np.concatenate(self.parts)


@dataclass
class Clock:
    """Seconds by stage, said as each one ends."""

    say: Callable[[str], None]
    starting: Callable[[str], None] | None = None
    """Called with the name of each stage as it starts."""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, label: str) -> Iterator[None]:
        """Time one stage."""
        if self.starting is not None:
            self.starting(label)
        start = time.perf_counter()
        yield
        self.seconds[label] = round(time.perf_counter() - start, 2)
        self.say(f"{self.seconds[label]:7.1f} s  {label}")


@dataclass(frozen=True)
class Job:
    """What every part of an atlas needs."""

    model: Model
    config: AtlasConfig
    sizes: Sizes
    recipe: Generation
    drawn: Drawn
    attributes: Mapping[str, Attribute]
    """Their references are embedded once."""
    reference: Tensor
    """uint8 [n, h, w, 3]: the first of the held-out images."""
    held_out: Tensor
    donors: Tensor
    recipients: Tensor
    pairs: Pairs
    sources: tuple[str, ...]
    """Names of the model's sources, as `Model.sources` has them."""
    stages: Sequence[Carrier]
    """Players that share the writes out among them, in order of depth."""
    calls: int
    """Calls of the network behind one image."""
    noise: Mapping[int, float | None]
    """Call -> log-SNR."""
    folder: Path | None
    """Finished parts; None: nothing is kept."""
    tiles: Tiles
    clock: Clock
    warnings: list[str]
