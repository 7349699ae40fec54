"""Where a run's batches come from, and how to come back to the same place."""

import abc
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError, SAEError

# Batches from which centering and scale are fitted where no store has statistics.
FIT_BATCHES = 16


class Batch(NamedTuple):
    """One step's rows."""

    x: Tensor
    """[b, d] float32."""
    row_ids: np.ndarray | None
    """[b] row ids in the store, or None."""
    groups: Tensor | None = None
    """[b] int64, the budget group of each row, or None."""
    target: Tensor | None = None
    """[b, d_out] float32 rows to reconstruct; None: x."""


class Moments(NamedTuple):
    """Mean and variance of the data."""

    mean: Tensor
    """[d] float64."""
    var: Tensor
    """[d] float64."""


class Batches(abc.ABC):
    """A sequence of batches with a position that can be saved."""

    fingerprint: dict[str, Any]

    @abc.abstractmethod
    def statistics(self) -> Moments:
        """Mean and variance from which centering and scale are fitted."""

    @abc.abstractmethod
    def take(self, step: int) -> Batch:
        """The batch of a step; steps come in order."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The position, as plain values."""

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a position."""


@runtime_checkable
class _Reader(Protocol):
    n_rows: int

    def __next__(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class StoreBatches(Batches):
    """Batches of a store's shuffled reader."""

    def __init__(self, reader: _Reader, statistics: Any, point: str) -> None:
        self._reader, self._statistics = reader, statistics
        self.fingerprint = {"source": "store", "point": point}

    def statistics(self) -> Moments:
        """The store's own, in float64 over all rows."""
        return Moments(self._statistics.mean, self._statistics.var)

    def take(self, step: int) -> Batch:
        """The reader's next batch."""
        batch = next(self._reader)
        return Batch(batch.x, batch.row_ids)

    def state_dict(self) -> dict[str, Any]:
        """The reader's position."""
        return self._reader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a position of the same rows.

        Raises:
            SAEError: the checkpoint was made on other rows.
        """
        try:
            self._reader.load_state_dict(state)
        except InputError as error:
            raise SAEError(f"the checkpoint does not fit the store: {error}") from error


class IterableBatches(Batches):
    """Batches of an iterable; its first ones also give the statistics and the fingerprint."""

    def __init__(self, source: Iterable[Tensor]) -> None:
        self._iterator: Iterator[Tensor] = iter(source)
        self._one_pass = self._iterator is source
        first = list(itertools.islice(self._iterator, FIT_BATCHES))
        if not first:
            raise SAEError("the source is empty: it gave no batch")
        self._first = [torch.as_tensor(x) for x in first]
        for step, x in enumerate(self._first):
            check_batch(Batch(x, None), self._first[0].shape[-1], step)
        self._iterator = itertools.chain(self._first, self._iterator)
        self.fingerprint = {
            "source": "batches",
            "shape": list(self._first[0].shape),
            "first": len(self._first),
            "sha256": _sha256(self._first),
        }
        self._taken = 0

    def statistics(self) -> Moments:
        """Moments of the first batches, in float64."""
        x = torch.cat(self._first).double()
        return Moments(x.mean(dim=0), x.var(dim=0, unbiased=False))

    def take(self, step: int) -> Batch:
        """The iterable's next batch.

        Raises:
            SAEError: it ended before the steps did.
        """
        x = next(self._iterator, None)
        if x is None:
            raise SAEError(
                f"the source ended after {self._taken} batches, at step {step}; "
                "pass a longer one or set steps to what it holds"
            )
        self._taken += 1
        return Batch(torch.as_tensor(x).float(), None)

    def state_dict(self) -> dict[str, Any]:
        """Number of batches taken."""
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Skip the batches that the run has seen.

        Raises:
            SAEError: the iterable is a one-pass iterator, or too short.
        """
        if self._one_pass:
            raise SAEError(
                "a one-pass iterator cannot be resumed: pass an object whose iteration starts anew "
                "with the same batches, or resume=False"
            )
        for step in range(state["taken"]):
            self.take(step)


def _sha256(batches: list[Tensor]) -> str:
    """Of the values, shapes and dtypes: two sources that begin alike are taken for one."""
    digest = hashlib.sha256()
    for x in batches:
        digest.update(f"{x.dtype} {tuple(x.shape)}".encode())
        flat = x.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_batch(batch: Batch, d_in: int, step: int) -> None:
    """Refuse rows of another width and values that are not finite.

    Raises:
        SAEError: with the step and the rows.
    """
    x = batch.x
    if x.ndim != 2 or x.shape[1] != d_in or not x.is_floating_point():
        raise SAEError(
            f"the batch of step {step} has shape {tuple(x.shape)} and dtype {x.dtype}; "
            f"floating-point rows [b, {d_in}] are needed"
        )
    # One sum first: a NaN or an infinity anywhere survives it.
    if bool(torch.isfinite(x.sum())):
        return
    bad = (~torch.isfinite(x)).any(dim=1).nonzero().flatten()
    if not len(bad):
        return
    places = bad.numpy() if batch.row_ids is None else batch.row_ids[bad.numpy()]
    kind = "rows of the batch" if batch.row_ids is None else "row ids"
    raise SAEError(
        f"step {step}: {len(bad)} of {len(x)} rows hold NaN or infinity ({kind} "
        f"{places[:8].tolist()}); the last checkpoint is kept: mask them with rows=, "
        "or capture in a wider dtype"
    )
