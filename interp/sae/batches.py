"""Where a run's batches come from, and how to come back to the same place."""

import abc
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError, SAEError
from interp.sae.options import budget_of

if TYPE_CHECKING:
    from interp.sae.config import TrainConfig

# Batches from which centering and scale are fitted where no store has statistics.
FIT_BATCHES = 16
# What shares a budget of active latents -> the coordinate of a store's rows that numbers it.
GROUPS = {"image": "generation", "timestep": "call"}


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
    """Mean and variance of the data, and of what is to be reconstructed where that differs."""

    mean: Tensor
    """[d] float64."""
    var: Tensor
    """[d] float64."""
    target_mean: Tensor | None = None
    """[d_out] float64."""
    target_var: Tensor | None = None
    """[d_out] float64."""


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
    def sample(self, n: int) -> Tensor:
        """[<= n, d] of the rows that a run begins with; asked for before the first step."""

    @abc.abstractmethod
    def complete(self, config: "TrainConfig") -> "TrainConfig":
        """The settings with the options that only the source knows, such as widths."""

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
    """Batches of a store's shuffled reader.

    Args:
        reader: of one point.
        statistics: of the same point: `mean` and `var`.
        point: its name.
        groups: [n] int64 group of every row of the point, such as its image; None: no groups.
    """

    def __init__(
        self, reader: _Reader, statistics: Any, point: str, groups: np.ndarray | None = None
    ) -> None:
        self._reader, self._statistics, self._groups = reader, statistics, groups
        self.fingerprint = {"source": "store", "point": point}

    @classmethod
    def open(
        cls, store: Any, point: str, config: "TrainConfig", mask: np.ndarray
    ) -> "StoreBatches":
        """Shuffled batches of the rows of a store that may train, without an end.

        Args:
            store: an activation store.
            point: name of a point.
            config: its batch size, seed and, as an option of the variant, `budget`.
            mask: [n] bool, rows that may train.
        """
        refuse_alone(config)
        reader = store.read(point, config.batch_size, seed=config.seed, rows=mask, epochs=None)
        column = GROUPS.get(budget_of(config))
        groups = None if column is None else store.coords(point, columns=[column])[column]
        return cls(reader, store.statistics(point), point, groups)

    def statistics(self) -> Moments:
        """The store's own, in float64 over all rows."""
        return Moments(self._statistics.mean, self._statistics.var)

    def take(self, step: int) -> Batch:
        """The reader's next batch."""
        batch = next(self._reader)
        if self._groups is None:
            return Batch(batch.x, batch.row_ids)
        groups = self._groups[batch.row_ids].astype(np.int64)
        return Batch(batch.x, batch.row_ids, torch.from_numpy(groups))

    def sample(self, n: int) -> Tensor:
        """The reader's next rows; its position stays."""
        return sample_of(self._reader, n)

    def complete(self, config: "TrainConfig") -> "TrainConfig":
        """The settings as they are."""
        return config

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
    """Batches of an iterable; its first ones also give the statistics and the fingerprint.

    Args:
        source: gives rows [b, d], or a `Batch` where the rows have groups or targets.
    """

    def __init__(self, source: Iterable[Tensor] | Iterable[Batch]) -> None:
        self._iterator: Iterator[Tensor | Batch] = iter(source)
        self._atom_seed = getattr(source, "atom_seed", None)
        self._one_pass = self._iterator is source
        first = list(itertools.islice(self._iterator, FIT_BATCHES))
        if not first:
            raise SAEError("the source is empty: it gave no batch")
        batches = [_as_batch(given) for given in first]
        self._first = [batch.x for batch in batches]
        self._targets = [batch.target for batch in batches]
        for step, batch in enumerate(batches):
            check_batch(batch, self._first[0].shape[-1], step)
        self._iterator = itertools.chain(batches, self._iterator)
        self.fingerprint = {
            "source": "batches",
            "shape": list(self._first[0].shape),
            "first": len(self._first),
            "sha256": _sha256(self._first),
        }
        self._taken = 0

    def statistics(self) -> Moments:
        """Moments of the first batches, in float64."""
        found = moments_of(torch.cat(self._first))
        targets = [target for target in self._targets if target is not None]
        if not targets:
            return found
        return Moments(*found[:2], *moments_of(torch.cat(targets))[:2])

    def sample(self, n: int) -> Tensor:
        """Of the first batches."""
        return torch.cat(self._first)[:n].float()

    def take(self, step: int) -> Batch:
        """The iterable's next batch.

        Raises:
            SAEError: it ended before the steps did.
        """
        given = next(self._iterator, None)
        if given is None:
            raise SAEError(
                f"the source ended after {self._taken} batches, at step {step}; "
                "pass a longer one or set steps to what it holds"
            )
        self._taken += 1
        batch = _as_batch(given)
        if (batch.target is None) != (self._targets[0] is None):
            has, first = ("no", "one") if batch.target is None else ("a", "none")
            raise SAEError(
                f"the batch of step {step} has {has} target, the first batch has {first}: give a "
                "target with every batch, or with none"
            )
        return batch._replace(x=batch.x.float())

    def complete(self, config: "TrainConfig") -> "TrainConfig":
        """The settings, with the target's width where there are targets.

        Raises:
            SAEError: the seed is the one from which the source drew its true directions.
        """
        if config.seed == self._atom_seed:
            raise SAEError(
                f"seed = {config.seed} is that of the source's atoms: the SAE would start at the "
                "truth; take another seed"
            )
        if self._targets[0] is None:
            return config
        return with_options(config, d_out=self._targets[0].shape[1])

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


def joins_of(config: "TrainConfig") -> str:
    """What joined sites are to the variant, see `SAE.joins`."""
    from interp.sae import VARIANTS

    return VARIANTS[config.variant].joins


def refuse_alone(config: "TrainConfig") -> None:
    """Refuse one point of a store for a variant that reads several.

    Raises:
        SAEError: with what it reads.
    """
    what = {"target": "two points, input and target", "sites": "several points"}
    joins = joins_of(config)
    if joins:
        raise SAEError(
            f"{config.variant} reads {what[joins]}: train(interp.sae.join([(store, point), ...]), "
            "config), or on the command line --target or --sites"
        )


def sample_of(reader: _Reader, n: int) -> Tensor:
    """[<= n, d] next rows of a reader, whose position stays."""
    position, parts, count = reader.state_dict(), [], 0
    while count < min(n, reader.n_rows):
        parts.append(next(reader).x)
        count += len(parts[-1])
    reader.load_state_dict(position)
    return torch.cat(parts)[:n]


def with_options(config: "TrainConfig", **found: Any) -> "TrainConfig":
    """The settings with options that the source knows.

    Raises:
        SAEError: the settings say otherwise.
    """
    for name, value in found.items():
        given = config.options.get(name)
        if given not in (None, value):
            raise SAEError(f"option {name} = {given}, but the source has {value}: leave it out")
    return dataclasses.replace(config, options={**config.options, **found})


def moments_of(rows: Tensor) -> Moments:
    """Mean and variance of rows [n, d], in float64."""
    rows = rows.double()
    return Moments(rows.mean(dim=0), rows.var(dim=0, unbiased=False))


def _as_batch(given: Any) -> Batch:
    return given if isinstance(given, Batch) else Batch(torch.as_tensor(given), None)


def _sha256(batches: list[Tensor]) -> str:
    """Of the values, shapes and dtypes: two sources that begin alike are taken for one."""
    digest = hashlib.sha256()
    for x in batches:
        digest.update(f"{x.dtype} {tuple(x.shape)}".encode())
        flat = x.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_batch(batch: Batch, d_in: int, step: int) -> None:
    """Refuse rows of another width, values that are not finite, and groups of other rows.

    Raises:
        SAEError: with the step and the rows.
    """
    x, groups = batch.x, batch.groups
    if x.ndim != 2 or x.shape[1] != d_in or not x.is_floating_point():
        raise SAEError(
            f"the batch of step {step} has shape {tuple(x.shape)} and dtype {x.dtype}; "
            f"floating-point rows [b, {d_in}] are needed"
        )
    if not len(x):
        raise SAEError(f"the batch of step {step} has no rows: leave empty batches out")
    if groups is not None and (groups.shape != x.shape[:1] or groups.is_floating_point()):
        raise SAEError(
            f"the batch of step {step} has groups of shape {tuple(groups.shape)} and dtype "
            f"{groups.dtype} for {len(x)} rows; one whole number per row is needed"
        )
    if batch.target is not None:
        _check_target(x, batch.target, step)
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


def _check_target(x: Tensor, target: Tensor, step: int) -> None:
    """Refuse targets of other rows, which would be spread over all of them, and of no number."""
    if target.ndim != 2 or len(target) != len(x) or not target.is_floating_point():
        raise SAEError(
            f"the batch of step {step} has a target of shape {tuple(target.shape)} and dtype "
            f"{target.dtype} for {len(x)} rows; floating-point rows [{len(x)}, d_out] are needed"
        )
    bad = (~torch.isfinite(target)).any(dim=1).nonzero().flatten()
    if len(bad):
        raise SAEError(
            f"step {step}: {len(bad)} of {len(x)} rows have a target of NaN or infinity (rows of "
            f"the batch {bad[:8].tolist()}); the last checkpoint is kept"
        )
