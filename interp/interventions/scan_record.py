"""What a scan returns and what it costs, as frozen records."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from interp.interventions.effects import Effect, Pairs, table_effects


@dataclass(frozen=True)
class Cost:
    """What a scan has to compute."""

    n_carriers: int
    n_pairs: int
    n_parts: int
    """Parts that are left: per batch one for donors and recipients, and one for each carrier."""
    runs: int
    """Runs of the model on a batch."""
    block_runs: int
    """Runs of a block on a batch, every edited run being made from its start."""
    block_runs_left: int
    """The same without the blocks that end before the first edit, which are not run again."""
    seconds: float | None
    """By the time of one run of the first batch; None without a probe."""
    bytes: int
    """Activations of one batch of donors and recipients that stay in memory."""

    def __str__(self) -> str:
        share = self.block_runs_left / self.block_runs if self.block_runs else 0.0
        time = "" if self.seconds is None else f", about {_words(self.seconds)}"
        return (
            f"{self.n_carriers} carriers x {self.n_pairs} pairs: {self.runs} runs of a batch, "
            f"{self.block_runs_left} block runs of {self.block_runs} ({share:.0%}){time}; "
            f"{self.bytes / 1e6:.0f} MB of activations in memory"
        )


def _words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class ScanImages:
    """Images of the first pairs; uint8 [m h w 3], row i of each belonging to pair i."""

    donor: Tensor
    recipient: Tensor
    swapped: dict[str, Tensor]
    """Carrier -> recipients with the donor's carrier in place."""
    random: dict[str, Tensor]
    """Carrier -> recipients moved as far at random; carriers of sources have none."""


@dataclass(frozen=True)
class Scan:
    """Effects of all carriers over all pairs."""

    effects: dict[str, Effect]
    """Carrier -> what its swap did; corrected over the carriers of its role. Empty while parts are
    missing."""
    random: dict[str, Effect | None]
    """Carrier -> what a push of equal norm in random directions did; None for sources."""
    tau: dict[str, dict[str, float | None]]
    """Carrier -> attribute -> classical transfer ratio, for comparison only: an unrelated image has
    .5. None where a donor equals its recipient in the attribute."""
    images: ScanImages | None
    pairs: Pairs | None
    swapped: dict[str, dict[str, np.ndarray]]
    """Carrier -> attribute -> [n, d_k] embeddings of the swapped images, not centered."""
    n_parts: int
    missing: int
    """Parts that other processes have still to make; call again when they are done."""
    recomputed: tuple[str, ...]
    """Files of this folder that were damaged and made again."""
    in_full: int = 0
    """Batches of which this process used nothing again, because a module keeps a state."""

    @property
    def complete(self) -> bool:
        """Whether every part is there, and so the effects are."""
        return self.missing == 0

    def __repr__(self) -> str:
        if not self.complete:
            return f"Scan: {self.missing} of {self.n_parts} parts are still to be made"
        return table_effects(list(self.effects.values()))
