"""The codes that an evaluation sets beside an SAE, on one sample of rows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SAEError
from interp.sae.base import SAE
from interp.sae.baselines import Baseline, Rival, judge, pca_rival, random_rival
from interp.sae.labels import LabelAUC, label_auc

_CHUNK = 4096


@dataclass(frozen=True)
class Sample:
    """Rows of one store on which codes are compared."""

    judged: Float[Tensor, "n d"]
    """float64."""
    labeled: Float[Tensor, "r d"]
    """Rows for the labels."""
    image: np.ndarray
    """[r] number of the image of each of them, 0..g - 1."""
    category: np.ndarray
    """[g] names, "" where an image has none."""
    cluster: np.ndarray
    """[g] names."""
    seed: int


def compare_baselines(
    sae: SAE, sample: Sample, fitting: Float[Tensor, "f d"], fitted_on: str
) -> tuple[Baseline, ...]:
    """The SAE, k-sparse PCA and a random dictionary with as many coefficients per row.

    Args:
        sae: judged as a code like the others.
        sample: rows.
        fitting: [f, d] float64 rows for PCA and the mean.
        fitted_on: their name, for the record.
    """
    own = sae_rival("sae", sae, sample.judged)
    rivals = (own, *plain_rivals(sae, fitting, fitted_on, own.k, sample.seed))
    return tuple(compare(rival, sample) for rival in rivals)


def plain_rivals(
    sae: SAE, fitting: Float[Tensor, "f d"], fitted_on: str, k: int, seed: int
) -> tuple[Rival, Rival]:
    """k-sparse PCA, and a random dictionary with as many directions as the SAE has latents."""
    mean = fitting.double().mean(dim=0)
    return (
        pca_rival(fitting, k, fitted_on),
        random_rival(mean, sae.n_latents, k, seed),
    )


def sae_rival(name: str, sae: SAE, rows: Float[Tensor, "n d"]) -> Rival:
    """An SAE as a code; its k is the rounded mean number of active latents on the rows."""

    def code(x: Tensor) -> Tensor:
        with torch.no_grad():
            return sae.encode(x.float()).dense()

    def reconstruct(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([sae.forward(part.float()) for part in x.split(_CHUNK)])

    parts = rows.split(_CHUNK)
    active = sum(int((code(part) > 0).sum()) for part in parts)
    return Rival(name, max(1, round(active / len(rows))), "training rows", code, reconstruct)


def compare(rival: Rival, sample: Sample) -> Baseline:
    """FVU and labels of one code."""
    return judge(rival, sample.judged, labels_of(rival, sample))


def labels_of(rival: Rival, sample: Sample) -> LabelAUC | None:
    """How well the code's coefficients tell the sample's categories apart."""
    if len({name for name in sample.category.tolist() if name}) < 2:
        return None
    g, image = len(sample.category), torch.from_numpy(sample.image).long()
    sums = None
    for rows, place in zip(sample.labeled.split(_CHUNK), image.split(_CHUNK), strict=True):
        part = rival.code(rows).float()
        sums = part.new_zeros(g, part.shape[1]) if sums is None else sums
        sums.index_add_(0, place, part)
    if sums is None:
        return None
    count = torch.bincount(image, minlength=g).clamp(min=1)
    return label_auc(sums / count[:, None], sample.category, sample.cluster, sample.seed)


def as_sae(given: SAE | str | Path) -> SAE:
    """An SAE, or the one of a run directory.

    Raises:
        SAEError: the directory holds none.
    """
    if isinstance(given, SAE):
        return given
    folder = Path(given)
    return SAE.load(folder / "sae" if (folder / "sae").is_dir() else folder)


def check_second(sae: SAE, second: SAE) -> None:
    """Refuse the same SAE twice, and dictionaries that do not compare.

    Raises:
        SAEError: with the fix.
    """
    if sae.digest == second.digest:
        raise SAEError(
            f"second is the same SAE ({sae.digest}): train one with another TrainConfig.seed"
        )
    if sae.dictionary().shape[1] != second.dictionary().shape[1]:
        raise SAEError(
            f"the second SAE has directions of width {second.dictionary().shape[1]}, the first "
            f"of {sae.dictionary().shape[1]}"
        )
