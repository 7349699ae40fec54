"""What a scan of features found: the record."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from interp.interventions.ablation import AttributeChange
from interp.sae.atomic import write_atomic


class Correlation(NamedTuple):
    """Spearman's rank correlation with its 95 % bootstrap interval over features."""

    value: float
    low: float
    high: float


class Reported(NamedTuple):
    """One handle that won on the ranking seeds, on the reporting seeds."""

    label: str
    """"feature 12", "isotropic direction 3"."""
    feature: int | None
    """None for a random direction."""
    ranked: float
    """Its score on the ranking seeds: too large by having been chosen for it."""
    score: float
    """The same on the reporting seeds."""
    attributes: dict[str, AttributeChange]
    """On the reporting seeds."""


@dataclass(frozen=True, eq=False)
class FeatureScan:
    """Causal effects of F features that fire, and of R random directions of each kind.

    An effect is the root mean squared change of an attribute, in units of the distance between two
    seeds' images; a score is that of the target, or without one the root mean square over
    attributes.
    """

    model: str
    point: str
    sae: str
    """Digest."""
    mode: str
    strength: float
    unit: float
    unit_words: str
    target: str
    features: Int[np.ndarray, " f"]
    """Numbers of the features that were scanned."""
    activation: Float[np.ndarray, " f"]
    """Mean activation over all rows of the ranking seeds, zeros included."""
    density: Float[np.ndarray, " f"]
    """Share of rows on which it fires."""
    effects: dict[str, Float[np.ndarray, " f"]]
    """Attribute -> effects on the ranking seeds."""
    scores: Float[np.ndarray, " f"]
    random: dict[str, Float[np.ndarray, " r"]]
    """Kind -> scores of random directions on the ranking seeds; their maximum is the control."""
    correlation: Correlation | None
    """Of score and activation over features; None for fewer than 10 or without any spread."""
    reported: tuple[Reported, ...]
    """The features of the highest scores, best first, on the reporting seeds."""
    random_reported: dict[str, Reported]
    """Kind -> the random direction of the highest score, likewise."""
    n_latents: int
    n_firing: int
    """Latents that fire on the ranking seeds."""
    n_rank: int
    n_report: int
    seed: int

    @property
    def random_suffices(self) -> bool:
        """Whether as many directions were drawn as features scanned; else their maximum is low."""
        return all(len(scores) >= len(self.features) for scores in self.random.values())

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return _plain({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def save(self, path: str | Path) -> Path:
        """Write the scan to a JSON file, and return its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n").encode())
        return path


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
