"""The settings of one training run."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.errors import SAEError

# Least and largest value. Latents are counted in int32, seeds in int64; 2^24 rows of width 1 are
# already 64 MB per step, and Adam moves a weight by lr per step.
RANGES: dict[str, tuple[float, float]] = {
    "n_latents": (1, 2**31 - 1),
    "k": (1, 2**31 - 1),
    "batch_size": (1, 2**24),
    "steps": (1, 2**40),
    "lr": (0, 1e3),
    "aux_coefficient": (0, 1e6),
    "dead_window": (0, 2**40),
    "seed": (0, 2**63 - 1),
    "checkpoint_every": (0, 2**40),
    "log_every": (1, 2**40),
}


def _check_type(name: str, value: Any, kind: Any) -> None:
    """Whole numbers, finite numbers, words: what a config file can hold, and no bool among them."""
    if kind is int and type(value) is not int:
        raise SAEError(f"{name} = {value!r} must be a whole number (an int)")
    if kind is float and (type(value) is bool or not isinstance(value, int | float)):
        raise SAEError(f"{name} = {value!r} must be a number")
    if kind is float and not abs(value) < float("inf"):
        raise SAEError(f"{name} = {value} must be a finite number")
    if kind is str and not isinstance(value, str):
        raise SAEError(f"{name} = {value!r} must be a word (a str)")


def _plain(options: Any) -> dict[str, Any]:
    """A copy of the options as they come back from a config file: JSON values, lists for tuples."""
    if not isinstance(options, dict) or any(not isinstance(name, str) for name in options):
        raise SAEError(f"options = {options!r} must be a dict of names and values")
    try:
        return json.loads(json.dumps(options, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise SAEError(f"options = {options!r} must hold JSON values: {error}") from error


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """Settings of an earlier version in today's fields: `aux_k` was a field of its own."""
    if "aux_k" not in values or "options" in values:
        return values
    rest = {name: value for name, value in values.items() if name != "aux_k"}
    return {**rest, "options": {"aux_k": values["aux_k"]} if values["aux_k"] else {}}


@dataclass(frozen=True)
class TrainConfig:
    """How to train a sparse autoencoder; defaults recover planted dictionaries in 1500 steps."""

    variant: str = "topk"
    """archetypal, batchtopk, crosscoder, gated, jumprelu, matryoshka, omp, pursuit, relu, topk or
    transcoder (`interp.sae.VARIANTS`)."""
    n_latents: int = 1024
    """m, number of latents."""
    k: int = 16
    """Active latents per row."""
    batch_size: int = 1024
    """Rows per step."""
    steps: int = 1500
    """Optimizer steps."""
    lr: float = 0.0
    """Adam's peak learning rate; 0 means 2e-3 sqrt(512 / n_latents)."""
    warmup: float = 0.03
    """Share of the steps over which the rate rises from 0: a custom; planted atoms do without."""
    decay: float = 0.2
    """Share of the steps over which the rate falls to 0: 4 % less FVU than a constant rate."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK (Gao et al. 2024, appendix A.2)."""
    dead_window: int = 0
    """Steps without firing after which a latent counts as dead; 0 means steps / 300, at least 5."""
    held_out: float = 0.1
    """Share of the clusters kept from training, where the store has no split of its own."""
    seed: int = 0
    """Seed of initial weights, order of rows and split."""
    checkpoint_every: int = 500
    """Steps between checkpoints; 0 writes none."""
    log_every: int = 50
    """Steps between log lines."""
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    """Further options by name, JSON values: the common ones (`interp.sae.options.Common`) and the
    variant's own (its `Options`)."""

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            _check_type(entry.name, getattr(self, entry.name), entry.type)
        object.__setattr__(self, "options", _plain(self.options))
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value < low:
                raise SAEError(f"{name} = {value} must be at least {low}")
            if value > high:
                raise SAEError(f"{name} = {value} must be at most {high}")
        if self.k > self.n_latents:
            raise SAEError(f"k = {self.k} is not in 1..{self.n_latents} (n_latents)")
        for name in ("warmup", "decay", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise SAEError(f"{name} = {getattr(self, name)} must be a share in [0, 1)")

    @property
    def peak_lr(self) -> float:
        """The peak learning rate; falls with sqrt(m) as in dictionary_learning's TopK trainer."""
        return self.lr or 2e-3 * (512 / self.n_latents) ** 0.5

    @property
    def window(self) -> int:
        """Steps without firing after which a latent is dead.

        It scales with the run: 5 or 50 of 1500 steps recover 99 % of planted atoms, "never" 90 %.
        """
        return self.dead_window or max(5, self.steps // 300)

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0..steps - 1: linear rise, plateau, linear fall."""
        rise = min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.peak_lr * rise * fall

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Build from `as_dict`'s values, of this version or an earlier one.

        Raises:
            SAEError: unknown keys, or values out of range.
        """
        values = upgrade(values)
        unknown = sorted(set(values) - {entry.name for entry in dataclasses.fields(cls)})
        if unknown:
            raise SAEError(f"TrainConfig has no field {unknown}")
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> "TrainConfig":
        """Read the config of a run directory, or of its `config.json`.

        Raises:
            SAEError: missing, not JSON, or not a config.
        """
        path = Path(path)
        file = path / "config.json" if path.is_dir() else path
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SAEError(f"cannot read a training config from {file}: {error}") from error
        if not isinstance(values, dict):
            raise SAEError(f"{file} is not a training config")
        inner = values.get("config", values)
        return cls.from_dict(inner)
