"""How active latents are, which of them are scanned, and how activity goes with effect."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from interp.errors import InputError, PointError
from interp.interventions.carriers import Carrier
from interp.interventions.clean import Source, iterate_source, make_images, select_rows
from interp.interventions.feature_record import Correlation
from interp.models import Model, Read, reading
from interp.sae import SAE
from interp.stats import bootstrap

# Rows encoded at once: 128 MB of codes of 16384 latents.
_CHUNK = 2048
# A rank correlation of fewer features says nothing.
_MIN_FEATURES = 10


class Activity(NamedTuple):
    """How active every latent is."""

    mean: Float[np.ndarray, " m"]
    """Mean activation over rows, zeros included."""
    density: Float[np.ndarray, " m"]
    """Share of rows on which it is positive."""


def measure_activity(
    model: Model, sae: SAE, place: Carrier, source: Source, batch_size: int = 32
) -> Activity:
    """Encode the rows of a place over clean runs.

    Raises PointError where no row is read at the place's calls.
    """
    coder = copy.deepcopy(sae).to(model.device)
    total, fired, count = np.zeros(sae.n_latents), np.zeros(sae.n_latents), 0

    def visit(read: Read) -> None:
        nonlocal count
        rows = select_rows(model, place, read)
        if rows is None:
            return
        for part in rows.reshape(-1, rows.shape[-1]).split(_CHUNK):
            with torch.no_grad():
                code = coder.encode(part.float().to(coder.mean.device)).dense()
            total[:] += code.double().sum(0).cpu().numpy()
            fired[:] += (code > 0).sum(0).cpu().numpy()
            count += len(part)

    with reading(model, place.points, callback=visit):
        for batch in iterate_source(model, source, batch_size):
            make_images(model, batch)
    if count == 0:
        raise PointError(f"no activation of {place.label} was read at the edited calls")
    return Activity(total / count, fired / count)


def choose_features(
    active: Activity, features: Sequence[int] | None, limit: int, seed: int
) -> Int[np.ndarray, " f"]:
    """Numbers of the features to scan, ascending: those that fire, or the given ones among them.

    Raises InputError where none fires, or a given one does not exist, does not fire or repeats.
    """
    firing = np.flatnonzero(active.density > 0)
    if features is not None:
        wanted = [int(f) for f in features]
        silent = sorted(set(wanted) - set(firing.tolist()))
        if silent or len(set(wanted)) != len(wanted):
            raise InputError(
                f"features {silent[:8] or wanted}: each once, from 0 to {len(active.density) - 1}, "
                "and active on the ranking seeds, or there is nothing of them to steer"
            )
        firing = np.array(sorted(wanted), dtype=int)
    if len(firing) == 0:
        raise InputError(f"none of the {len(active.density)} features fires on the ranking seeds")
    if not 0 < limit < len(firing):
        return firing
    rng = np.random.default_rng([seed, limit])
    return np.sort(rng.choice(firing, limit, replace=False))


def correlate(
    x: Float[np.ndarray, " f"], y: Float[np.ndarray, " f"], seed: int = 0
) -> Correlation | None:
    """Spearman's correlation over features with a bootstrap interval over them.

    None for fewer than 10 features, or where one side is constant.
    """
    if len(x) < _MIN_FEATURES or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None

    def statistic(rows: np.ndarray) -> float:
        one, other = _ranks(x[rows]), _ranks(y[rows])
        spread = one.std() * other.std()
        return float((one * other).mean() / spread) if spread > 0 else 0.0

    every = np.arange(len(x))
    interval = bootstrap(statistic, every.tolist(), measure="spearman", seed=seed)
    return Correlation(statistic(every), interval.low, interval.high)


def _ranks(x: Float[np.ndarray, " f"]) -> Float[np.ndarray, " f"]:
    """Centered ranks; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle = last - (counts - 1) / 2
    return middle[inverse] - (len(x) + 1) / 2
