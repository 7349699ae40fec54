"""Running a model over generations and turning what its points show into rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError
from interp.harvest.inputs import (
    Inputs,
    describe_generations,
    encode_batches,
    generate_batch,
    takes_noise,
)
from interp.models.inputs import Encoding, Generation, Rows
from interp.models.model import Model
from interp.models.reading import Read, reading
from interp.models.rows import to_rows
from interp.models.samples import Origin, find_origin
from interp.store.coords import Segment, choose_positions

HALVES = {"uncond": 0, "cond": 1}
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Piece(NamedTuple):
    """Rows of one point at one call and one guidance half."""

    point: str
    x: Tensor
    segment: Segment
    grid: tuple[int, ...]


class Enough(Exception):
    """Raised inside a run, and caught outside it, to end it early."""


@dataclass(frozen=True)
class Job:
    """A model, the points to read, and the recipes."""

    model: Model
    points: tuple[str, ...]
    recipe: Generation | Encoding
    rows: Rows
    inputs: Inputs | None

    @property
    def n_generations(self) -> int:
        """Samples, or images times draws."""
        if isinstance(self.recipe, Generation):
            return self.recipe.n
        assert self.inputs is not None
        return len(self.inputs) * self.recipe.draws

    def table(self, generations: np.ndarray) -> dict:
        """Return the columns of the generations table."""
        return describe_generations(
            self.recipe, self.model, self._source, generations, self._weights
        )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The model's identity; hashing large weights takes seconds, so it is done once."""
        return self.model.identity()

    @property
    def _weights(self) -> str:
        """Digest that decides the noise; large models are not hashed where there is none."""
        noisy = isinstance(self.recipe, Encoding) and takes_noise(self.model)
        return str(self.identity["weights_sha256"]) if noisy else ""

    @cached_property
    def _source(self) -> Inputs | Origin:
        if isinstance(self.recipe, Generation):
            return find_origin(self.recipe, self.model, self.identity)
        assert self.inputs is not None
        return self.inputs

    def run(self, generations: np.ndarray, take: Callable[[Read], None]) -> Tensor | None:
        """Run the model on some generations, and return the images: made ones, or the inputs."""
        with reading(self.model, self.points, callback=take):
            if isinstance(self.recipe, Generation):
                batch = generate_batch(self.recipe, self.model, generations)
                return self.model.generate(batch)
            assert self.inputs is not None
            batches = encode_batches(
                self.recipe, self.model, self.inputs, generations, self._weights
            )
            for encoding in batches:
                self.model.encode(encoding)
            return batches[0].images

    def pieces(self, generations: np.ndarray, take: Callable[[Piece], None]) -> Tensor | None:
        """Run the model on some generations and pass on the rows that the recipe keeps."""
        ids = [str(i) for i in self.table(generations)["image_id"]]
        chosen: dict[int, np.ndarray] = {}

        def split(read: Read) -> None:
            for half, value in self.halves(read, len(generations)):
                total = value.shape[1]
                if total not in chosen:
                    chosen[total] = choose_positions(
                        self.rows.positions, total, ids, self.rows.seed
                    )
                x = self.keep(self._words(read.point, value), chosen[total])
                segment = _segment(read, half, generations, chosen[total])
                take(Piece(read.point, x, segment, read.grid))

        return self.run(generations, split)

    def halves(self, read: Read, count: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the guidance halves that are kept as rows [count, positions, d].

        Raises:
            InputError: the batch is not a multiple of the samples, or has no such half.
        """
        value = to_rows(read.value, self.model.points[read.point])
        if len(value) != read.factor * count:
            raise InputError(
                f"{read.point} has {len(value)} samples for {count} generations "
                f"times {read.factor} guidance halves"
            )
        if read.factor == 1 and self.rows.cfg == "uncond":
            raise InputError(
                'Rows(cfg="uncond") without guidance: there is one half, the conditional one'
            )
        for half, part in enumerate(value.split(count)):
            # Without guidance the only half is the conditional one.
            number = half if read.factor > 1 else HALVES["cond"]
            if read.factor == 1 or self.rows.cfg in ("both", _half_name(number)):
                yield number, part

    def _words(self, point: str, value: Tensor) -> Tensor:
        """Maps [b, p, d] that are averaged over tokens, without those that begin every text.

        Raises InputError for a text of no other tokens.
        """
        lead = self.model.provenance.get("lead_tokens", 0)
        text = self.model.points[point].stream == "text"
        if self.rows.positions != "mean" or not lead or not text:
            return value
        if value.shape[1] <= lead:
            raise InputError(
                f"a text of {self.model.name} has no tokens but the {lead} that begin every text: "
                "leave images without a caption out"
            )
        return value[:, lead:]

    def keep(self, value: Tensor, positions: np.ndarray) -> Tensor:
        """Return the kept positions of maps [b, p, d] as rows on the CPU, in the recipe's dtype."""
        dtype = DTYPES.get(self.rows.dtype, value.dtype)
        if self.rows.positions == "mean":
            value = value.float().mean(1, keepdim=True)
        elif positions.shape[1] < value.shape[1]:
            index = torch.from_numpy(np.ascontiguousarray(positions)).to(value.device)
            value = torch.take_along_dim(value, index[:, :, None], 1)
        return value.to("cpu", dtype).reshape(-1, value.shape[2])


def _half_name(number: int) -> str:
    return next((name for name, half in HALVES.items() if half == number), "")


def _segment(read: Read, half: int, generations: np.ndarray, positions: np.ndarray) -> Segment:
    nan = float("nan")
    return Segment(
        generations=generations,
        call=read.call,
        t=nan if read.t is None else float(read.t),
        log_snr=nan if read.log_snr is None else float(read.log_snr),
        half=half,
        positions=positions,
    )


def batches(start: int, stop: int, size: int) -> Iterator[np.ndarray]:
    """Yield generation numbers in batches: a shard's batches depend on the shard alone."""
    for first in range(start, stop, size):
        yield np.arange(first, min(first + size, stop))


@contextmanager
def until_enough() -> Iterator[None]:
    """Let `Enough` end a run."""
    try:
        yield
    except Enough:
        return


def first_call(job: Job) -> Sequence[Read]:
    """Return what the points show at the first call of the first generation, and run no further."""
    reads: list[Read] = []

    def take(read: Read) -> None:
        if read.call > 0:
            raise Enough
        reads.append(read)

    with until_enough():
        job.run(np.arange(1), take)
    return reads
