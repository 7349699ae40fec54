"""How well an SAE explains rows that it has never seen, beside honest baselines."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import SAEError
from interp.sae.base import SAE
from interp.sae.baselines import Baseline
from interp.sae.beside import (
    Sample,
    as_sae,
    check_second,
    compare,
    compare_baselines,
    sae_rival,
)
from interp.sae.match import check_match
from interp.sae.metrics import matched
from interp.sae.split import seen_generations
from interp.store import ActivationStore, open_store
from interp.store.coords import row_ids

_CHUNK = 8192
# Baselines judge this many rows and fit on twice as many: FVU to about 1 %.
_SAMPLE = 2048
# Rows whose means over each image are compared with the labels.
_LABELED = 16384


@dataclass(frozen=True)
class CallQuality:
    """Quality at one denoiser call or noise level; the only one for models without calls."""

    call: int
    t: float | None
    log_snr: float | None
    n_rows: int
    fvu: float
    """Against the variance within this call."""
    l0: float


@dataclass(frozen=True)
class Evaluation:
    """Quality of an SAE on rows of one point."""

    point: str
    n_rows: int
    n_generations: int
    fvu: float
    """sum ||x - x_hat||^2 / sum ||x - mean||^2, float64."""
    l0: float
    """Mean number of positive latents per row."""
    dead: float
    """Share of latents that fired on none of the rows."""
    severity: float
    """||mean|| / ||std|| of the raw rows; large ones kill uncentered latents (arXiv 2605.31518)."""
    per_call: tuple[CallQuality, ...]
    baselines: tuple[Baseline, ...]
    """FVU of other codes with the same k, and of the SAE itself, on one sample of the rows."""
    controls: tuple[Baseline, ...]
    """An SAE of the untrained twin, on the twin's rows, and one of a second seed, if given."""
    matched: float | None
    """Share of latents that a second seed has found too, see `interp.sae.metrics.matched`."""
    sae: str
    """Digest."""
    store: str
    """Hash."""
    trained_rows: bool | None
    """Whether rows of trained images were let in (`allow_train`); None: the SAE does not know its
    training rows, so that these may be among them."""

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return dataclasses.asdict(self)


def evaluate(
    sae: SAE,
    store: ActivationStore,
    point: str,
    *,
    rows: np.ndarray | None = None,
    allow_train: bool = False,
    baselines: bool = True,
    twin: tuple[SAE | str | Path, ActivationStore | str | Path] | None = None,
    second: SAE | str | Path | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure an SAE on rows whose images and clusters produced none of its training rows.

    What it has to beat stands beside it: codes that need no training, an SAE of the model before
    its training, and an SAE that differs in its seed alone.

    Args:
        sae: trained on this point.
        store: any store of the same model; its rows are read once, in order.
        point: name of the hook point.
        rows: bool mask or row ids to judge; default: every row that `allow_train` permits.
        allow_train: let rows of trained images in; the record says so. Needed for an SAE that does
            not know its training rows (trained on an iterable, or nowhere by `train`).
        baselines: also compute k-sparse PCA and a random dictionary, see `interp.sae.baselines`.
        twin: an SAE, or its run directory, that was trained on the same point of the untrained
            model, and a store of that model; it is judged on the store's rows.
        second: an SAE of another seed, or its run directory.
        seed: of the baselines' samples and dictionary, and of the labels' halves.

    Returns:
        The record.

    Raises:
        SAEError: the SAE does not belong to the point or model, rows of trained images were asked
            for, or the SAE does not know its training rows; the last two unless `allow_train`.
            The twin's store is of a trained or another model; the second SAE is the first.
        PointError: the store has no such point.
    """
    store.entries(point)
    check_match(sae, store.points[point], store.model)
    other = _second(sae, second, store, point)
    mask, generation = _judged_rows(sae, store, point, rows, allow_train)
    call = store.coords(point, columns=["call", "t", "log_snr"])
    sums = _scan(sae, store, point, mask, call["call"])
    return Evaluation(
        point=point,
        n_rows=int(mask.sum()),
        n_generations=len(np.unique(generation[mask])),
        fvu=sums.fvu(),
        l0=float(sums.l0.sum() / sums.count.sum()),
        dead=float((~sums.fired).double().mean()),
        severity=sums.severity(),
        per_call=sums.table(call, mask),
        baselines=_baselines(sae, store, point, mask, seed) if baselines else (),
        controls=_controls(twin, other, store, point, mask, allow_train=allow_train, seed=seed),
        matched=None if other is None else matched(sae.dictionary(), other.dictionary()),
        sae=sae.digest,
        store=store.hash,
        trained_rows=allow_train if len(sae.trained_units) else None,
    )


def _judged_rows(
    sae: SAE, store: ActivationStore, point: str, rows: np.ndarray | None, allow_train: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mask [n] of the rows to judge, and the generation [n] of every row."""
    if not len(sae.trained_units) and not allow_train:
        raise SAEError(
            "the SAE has no record of its training images (trained_units is empty): it was trained "
            "on an iterable or made by hand, and these rows may be its own; pass allow_train=True "
            "(--allow-train) to judge it all the same, or train it from a store"
        )
    generation = store.coords(point, columns=["generation"])["generation"]
    table = store.generations
    seen = seen_generations(table, sae.trained_units)
    trained = seen[np.searchsorted(table["generation"], generation)]
    mask = np.ones(len(generation), dtype=bool)
    if rows is not None:
        mask = np.zeros(len(generation), dtype=bool)
        mask[row_ids(rows, len(generation), point)] = True
    if rows is None and not allow_train:
        mask &= ~trained
    overlap = int((mask & trained).sum())
    if overlap and not allow_train:
        raise SAEError(
            f"{overlap} of {int(mask.sum())} rows come from images or clusters that the SAE was "
            "trained on; leave them out of rows=, or judge them too by allow_train=True "
            "(--allow-train)"
        )
    if rows is not None and not mask.any():
        raise SAEError(f"rows= selects none of the {len(mask)} rows of {point}")
    if not mask.any():
        raise SAEError(
            f"no row to judge: the images of all {len(mask)} rows were trained on; capture others, "
            "train with held_out > 0, or pass allow_train=True (--allow-train)"
        )
    return mask, generation


def _scan(
    sae: SAE, store: ActivationStore, point: str, mask: np.ndarray, call: np.ndarray
) -> "_Sums":
    sums = _Sums(sae, int(call.max()) + 1)
    with torch.no_grad():
        for ids, x in store.chunks(point, _CHUNK):
            kept = mask[ids]
            if kept.any():
                sums.add(x[torch.from_numpy(kept)], call[ids[kept]])
    return sums


class _Sums:
    """Float64 sums per call, about the SAE's own mean so that large means cost no digits."""

    def __init__(self, sae: SAE, n_calls: int) -> None:
        self.sae = sae
        self.shift = sae.mean.double()
        self.count = torch.zeros(n_calls, dtype=torch.float64)
        self.l0, self.error, self.square = (torch.zeros_like(self.count) for _ in range(3))
        self.total = torch.zeros(n_calls, sae.d_in, dtype=torch.float64)
        self.moment = torch.zeros(sae.d_in, dtype=torch.float64)
        self.fired = torch.zeros(sae.n_latents, dtype=torch.bool)

    def add(self, x: Tensor, call: np.ndarray) -> None:
        deviation = x.double() - self.shift
        if not bool(torch.isfinite(deviation.sum())):
            raise SAEError(
                f"{self.sae._where()} the rows hold NaN or infinity: run the store's verify"
            )
        code = self.sae.encode(x)
        # A skip reads the row, not the code.
        made = self.sae.decode(code) if self.sae.W_skip is None else self.sae(x)
        error = (x.double() - made.double()).square().sum(dim=1)
        index = torch.from_numpy(call).long()
        self.count.index_add_(0, index, torch.ones_like(error))
        self.l0.index_add_(0, index, (code.values > 0).sum(dim=1).double())
        self.error.index_add_(0, index, error)
        self.square.index_add_(0, index, deviation.square().sum(dim=1))
        self.total.index_add_(0, index, deviation)
        self.moment += deviation.square().sum(dim=0)
        self.fired |= code.fired()

    def fvu(self) -> float:
        n = self.count.sum()
        return _ratio(
            self.error.sum(), self.square.sum() - self.total.sum(dim=0).square().sum() / n
        )

    def severity(self) -> float:
        n = self.count.sum()
        mean = self.total.sum(dim=0) / n
        variance = (self.moment / n - mean.square()).sum()
        return _ratio((mean + self.shift).norm(), variance.sqrt())

    def table(self, call: dict[str, np.ndarray], mask: np.ndarray) -> tuple[CallQuality, ...]:
        rows = []
        for number in self.count.nonzero().flatten().tolist():
            first = int(np.flatnonzero(mask & (call["call"] == number))[0])
            n = self.count[number]
            spread = self.square[number] - self.total[number].square().sum() / n
            rows.append(
                CallQuality(
                    call=number,
                    t=_number(call["t"][first]),
                    log_snr=_number(call["log_snr"][first]),
                    n_rows=int(n),
                    fvu=_ratio(self.error[number], spread),
                    l0=float(self.l0[number] / n),
                )
            )
        return tuple(rows)


def _ratio(top: Tensor, bottom: Tensor) -> float:
    """top / bottom; NaN where the denominator is 0 (constant rows)."""
    return float(top / bottom) if float(bottom) > 0 else float("nan")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _baselines(
    sae: SAE, store: ActivationStore, point: str, mask: np.ndarray, seed: int
) -> tuple[Baseline, ...]:
    fitting, fitted_on = fitting_rows(store, point, mask, seed)
    return compare_baselines(sae, _sampled(store, point, mask, seed), fitting, fitted_on)


def fitting_rows(
    store: ActivationStore, point: str, mask: np.ndarray, seed: int
) -> tuple[Tensor, str]:
    """Float64 rows for a baseline to be fitted on, and their name: others than the mask's."""
    other = ~mask
    # Without other rows PCA may look at what it is judged on: that only flatters the baseline.
    outside = int(other.sum()) >= 2 * store.points[point].width
    ids = _sample(other if outside else mask, 2 * _SAMPLE, seed + 1)
    return store.rows(point, ids).double(), "other rows" if outside else "the judged rows"


def _sampled(store: ActivationStore, point: str, mask: np.ndarray, seed: int) -> Sample:
    """The rows of a mask on which codes are compared."""
    table = store.generations
    ids = _sample(mask, _LABELED, seed + 2)
    generation = store.coords(point, ids, columns=["generation"])["generation"]
    images, image = np.unique(generation, return_inverse=True)
    place = np.searchsorted(table["generation"], images)
    names = {
        name: np.array([str(value) for value in table[name]], dtype=object)[place]
        for name in ("category", "cluster", "image_id")
    }
    cluster = np.where(names["cluster"] == "", names["image_id"], names["cluster"])
    return Sample(
        judged=store.rows(point, _sample(mask, _SAMPLE, seed)).double(),
        labeled=store.rows(point, ids),
        image=image,
        category=names["category"],
        cluster=cluster.astype(str),
        seed=seed,
    )


def _of_twin(
    twin: tuple[SAE | str | Path, ActivationStore | str | Path],
    store: ActivationStore,
    point: str,
    allow_train: bool,
    seed: int,
) -> Baseline:
    """The SAE of the untrained twin on the twin's rows."""
    sae = as_sae(twin[0])
    rows = twin[1] if isinstance(twin[1], ActivationStore) else open_store(twin[1])
    trained, untrained = store.model, rows.model
    if not untrained.get("untrained"):
        raise SAEError(
            f"the twin's store {rows.hash[:12]} is of {untrained.get('spec')} with its trained "
            "weights: capture the untrained model (untrained=True, --untrained)"
        )
    if trained.get("spec") != untrained.get("spec"):
        raise SAEError(
            f"the twin is of {untrained.get('spec')}, the SAE of {trained.get('spec')}: no twin"
        )
    rows.entries(point)
    check_match(sae, rows.points[point], untrained)
    mask, _ = _judged_rows(sae, rows, point, None, allow_train)
    sample = _sampled(rows, point, mask, seed)
    return compare(sae_rival("SAE of the untrained twin", sae, sample.judged), sample)


def _controls(
    twin: tuple[SAE | str | Path, ActivationStore | str | Path] | None,
    second: SAE | None,
    store: ActivationStore,
    point: str,
    mask: np.ndarray,
    *,
    allow_train: bool,
    seed: int,
) -> tuple[Baseline, ...]:
    found = () if twin is None else (_of_twin(twin, store, point, allow_train, seed),)
    if second is None:
        return found
    return (*found, _of_second(second, store, point, mask, allow_train, seed))


def _second(
    sae: SAE, second: SAE | str | Path | None, store: ActivationStore, point: str
) -> SAE | None:
    """The second SAE, checked."""
    if second is None:
        return None
    other = as_sae(second)
    check_match(other, store.points[point], store.model)
    check_second(sae, other)
    return other


def _of_second(
    sae: SAE,
    store: ActivationStore,
    point: str,
    mask: np.ndarray,
    allow_train: bool,
    seed: int,
) -> Baseline:
    """The SAE of another seed, on those of the rows that it has not seen either."""
    if not allow_train:
        generation = store.coords(point, columns=["generation"])["generation"]
        seen = seen_generations(store.generations, sae.trained_units)
        mask = mask & ~seen[np.searchsorted(store.generations["generation"], generation)]
    if not mask.any():
        return Baseline("SAE of a second seed", None, 0, "all of these rows")
    sample = _sampled(store, point, mask, seed)
    return compare(sae_rival("SAE of a second seed", sae, sample.judged), sample)


def _sample(mask: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Row ids of up to `limit` rows of the mask, ascending."""
    ids = np.flatnonzero(mask)
    if len(ids) <= limit:
        return ids
    return np.sort(np.random.default_rng(seed).choice(ids, limit, replace=False))
