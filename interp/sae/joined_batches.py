"""Batches of joined rows for the training loop: as input and target, or side by side."""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from interp.errors import InputError, SAEError
from interp.sae.batches import (
    Batch,
    Batches,
    Moments,
    check_batch,
    joins_of,
    sample_of,
    with_options,
)
from interp.sae.joined import Joined

if TYPE_CHECKING:
    from interp.sae.config import TrainConfig


class JoinedBatches(Batches):
    """Shuffled batches of joined rows.

    Args:
        joined: the rows.
        config: batch size and seed.
        mask: [n] bool, rows that may train.
        target: whether the second site is to be reconstructed from the first; otherwise a row is
            all sites side by side.
    """

    def __init__(
        self, joined: Joined, config: "TrainConfig", mask: np.ndarray, *, target: bool
    ) -> None:
        self._joined, self._target = joined, target
        self._reader = joined.read(config.batch_size, seed=config.seed, rows=mask, epochs=None)
        self._width = joined.widths[0] if target else sum(joined.widths)
        self.fingerprint = {"source": "joined", "sites": [site.name for site in joined.sites]}

    def statistics(self) -> Moments:
        """Of all joined rows, in float64."""
        mean, var = self._joined.statistics()[:2]
        if not self._target:
            return Moments(mean, var)
        d = self._width
        return Moments(mean[:d], var[:d], mean[d:], var[d:])

    def take(self, step: int) -> Batch:
        """The reader's next batch."""
        found = next(self._reader)
        whole = Batch(found.x, found.row_ids)
        if not self._target:
            return whole
        check_batch(whole, sum(self._joined.widths), step)
        x, target = found.x[:, : self._width], found.x[:, self._width :]
        return Batch(x.contiguous(), found.row_ids, None, target.contiguous())

    def sample(self, n: int) -> Tensor:
        """The reader's next rows, of the input; its position stays."""
        return sample_of(self._reader, n)[:, : self._width]

    def complete(self, config: "TrainConfig") -> "TrainConfig":
        """The settings with the widths of the sites."""
        if self._target:
            return with_options(config, d_out=self._joined.widths[1])
        return with_options(config, widths=list(self._joined.widths))

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
            raise SAEError(f"the checkpoint does not fit the joined rows: {error}") from error


def open_joined(
    joined: Joined, config: "TrainConfig", point: str | None, rows: np.ndarray | None
) -> tuple[JoinedBatches, dict[str, Any], Tensor]:
    """Open joined rows for training: batches, provenance, and hashes of the training images.

    Args:
        joined: the rows.
        config: its variant decides what the sites are.
        point: refused: the sites name their points.
        rows: mask or ids of joined rows that may train; None: by the split of the first site.

    Raises:
        SAEError: the variant reads one point, or another number of them.
    """
    joins = joins_of(config)
    if not joins:
        raise SAEError(
            f"{config.variant} reads one point: train(store, config, point=...); joined points are "
            "for transcoder and crosscoder"
        )
    if point is not None:
        raise SAEError(f"point = {point!r}: joined sites have their own points")
    if joins == "target" and len(joined.sites) != 2:
        raise SAEError(
            f"{config.variant} reads two points, input and target; {len(joined.sites)} are joined"
        )
    mask, units = joined.training_rows(config.held_out, config.seed, rows)
    generation = joined.generation()
    sites = joined.describe()
    provenance: dict[str, Any] = {
        "sites": sites,
        "split": {
            "rows": int(mask.sum()),
            "rows_held_out": int((~mask).sum()),
            "generations": len(np.unique(generation[mask])),
            "epochs": round(config.steps * config.batch_size / int(mask.sum()), 3),
            "rows_sha256": hashlib.sha256(np.packbits(mask).tobytes()).hexdigest(),
        },
    }
    if joins == "target":
        first, second = sites
        own = {name: first[name] for name in ("point", "model", "store")}
        provenance = {**own, "target": second["point"], **provenance}
    return JoinedBatches(joined, config, mask, target=joins == "target"), provenance, units
