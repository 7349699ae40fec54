"""How well transcoders and crosscoders explain rows of several sites that they have never seen."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import SAEError
from interp.sae.base import SAE
from interp.sae.crosscoder import Crosscoder
from interp.sae.joined import Joined, Site, join
from interp.sae.split import seen_generations
from interp.store import ActivationStore
from interp.store.coords import row_ids

# A latent belongs to one site where this share of its decoder norms is there (Lindsey et al. 2024
# see two groups at the ends and one in the middle).
PRIVATE = 0.9


@dataclass(frozen=True)
class SiteQuality:
    """One site's reconstruction."""

    name: str
    fvu: float
    """sum ||y - y_hat||^2 / sum ||y - mean||^2, float64."""
    private: float | None
    """Share of the living latents with at least 0.9 of their decoder norms here; crosscoders."""


@dataclass(frozen=True)
class JoinedEvaluation:
    """Quality on joined rows."""

    variant: str
    sites: tuple[SiteQuality, ...]
    """Of a transcoder its target, of a crosscoder all."""
    n_rows: int
    n_generations: int
    l0: float
    """Mean number of positive latents per row."""
    dead: float
    """Share of latents that fired on none of the rows."""
    linear: float | None
    """FVU of the best linear map from input to target, fitted on the rows that are not judged;
    transcoders, and only where there are twice as many such rows as the input is wide."""
    sae: str
    """Digest."""
    trained_rows: bool | None
    """As in `interp.sae.Evaluation`."""

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return dataclasses.asdict(self)


def rejoin(sae: SAE, store: ActivationStore, *, partial: bool = False) -> Joined:
    """Join the points of one store that a transcoder or crosscoder was trained on.

    Args:
        sae: with its sites in its provenance.
        store: has all of its points.
        partial: as in `join`.

    Raises:
        SAEError: the SAE has no sites. PointError: the store lacks one of its points.
    """
    sites = sae.provenance.get("sites")
    if not sites:
        raise SAEError("the SAE does not know its sites: join them by hand")
    return join(
        [Site(store, site["point"]["name"], site["call"]) for site in sites], partial=partial
    )


def evaluate_joined(
    sae: SAE, joined: Joined, *, rows: np.ndarray | None = None, allow_train: bool = False
) -> JoinedEvaluation:
    """Measure a transcoder or crosscoder on joined rows of images that it was not trained on.

    Args:
        sae: of the sites' widths.
        joined: sites in the order of its training.
        rows: mask or ids of joined rows to judge; None: those that `allow_train` permits.
        allow_train: let rows of trained images in.

    Raises:
        SAEError: the widths differ, rows of trained images were asked for, or none is left.
    """
    wanted = sae.widths if not sae.separate else (sae.d_in, sae.d_out)
    if sae.joins not in ("target", "sites") or joined.widths != wanted:
        raise SAEError(f"sites of widths {joined.widths} do not fit a {sae.variant} of {wanted}")
    mask = judged_rows(sae, joined, rows, allow_train)
    targets = joined.sites[1:] if sae.separate else joined.sites
    sums = _Sums(sae, [store.points[point].width for store, point, _ in targets])
    linear = _Linear(sae) if sae.separate else None
    with torch.no_grad():
        for ids, x in joined.chunks():
            kept = torch.from_numpy(mask[ids])
            sums.add(x[kept])
            if linear is not None:
                linear.add(x, kept)
    private = _private(sae, sums.fired)
    qualities = zip(targets, sums.fvu(), private, strict=True)
    return JoinedEvaluation(
        variant=sae.variant,
        sites=tuple(SiteQuality(site.name, fvu, share) for site, fvu, share in qualities),
        n_rows=int(mask.sum()),
        n_generations=len(np.unique(joined.generation()[mask])),
        l0=sums.l0 / max(1, int(mask.sum())),
        dead=float((~sums.fired).double().mean()),
        linear=None if linear is None else linear.fvu(),
        sae=sae.digest,
        trained_rows=allow_train if len(sae.trained_units) else None,
    )


def judged_rows(sae: SAE, joined: Joined, rows: np.ndarray | None, allow_train: bool) -> np.ndarray:
    """Mask [n] of the joined rows to judge, as in `evaluate_joined`."""
    if not len(sae.trained_units) and not allow_train:
        raise SAEError(
            "the SAE has no record of its training images: pass allow_train=True to judge it"
        )
    trained = np.zeros(joined.n_rows, dtype=bool)
    for site, ids in zip(joined.sites, joined.ids, strict=True):
        # An image may belong to other clusters in another store.
        table = site.store.generations
        generation = site.store.coords(site.point, ids, ["generation"])["generation"]
        place = np.searchsorted(table["generation"], generation)
        trained |= seen_generations(table, sae.trained_units)[place]
    mask = np.ones(joined.n_rows, dtype=bool)
    if rows is not None:
        mask = np.zeros(joined.n_rows, dtype=bool)
        mask[row_ids(rows, joined.n_rows, "joined")] = True
    elif not allow_train:
        mask &= ~trained
    if not allow_train and (mask & trained).any():
        raise SAEError(
            f"{int((mask & trained).sum())} of {int(mask.sum())} rows come from images that the "
            "SAE was trained on; leave them out of rows=, or pass allow_train=True"
        )
    if not mask.any():
        raise SAEError(
            f"no row to judge: the images of all {len(mask)} joined rows were trained on; capture "
            "others, or pass allow_train=True"
        )
    return mask


class _Sums:
    """Float64 sums about the SAE's own mean, so that large means cost no digits."""

    def __init__(self, sae: SAE, widths: list[int]) -> None:
        self.sae, self.widths = sae, widths
        self.shift = (sae.target_mean if sae.separate else sae.mean).double()
        self.n, self.l0 = 0, 0.0
        self.error, self.square, self.total = (
            torch.zeros(sum(widths), dtype=torch.float64) for _ in range(3)
        )
        self.fired = torch.zeros(sae.n_latents, dtype=torch.bool)

    def add(self, x: Tensor) -> None:
        if not len(x):
            return
        inputs, y = (x[:, : self.sae.d_in], x[:, self.sae.d_in :]) if self.sae.separate else (x, x)
        code = self.sae.encode(inputs)
        made = self.sae(inputs)
        deviation = y.double() - self.shift
        self.error += (y.double() - made.double()).square().sum(dim=0)
        self.square += deviation.square().sum(dim=0)
        self.total += deviation.sum(dim=0)
        self.n += len(x)
        self.l0 += float((code.values > 0).sum())
        self.fired |= code.fired()

    def fvu(self) -> list[float]:
        spread = self.square - self.total.square() / self.n
        parts = zip(self.error.split(self.widths), spread.split(self.widths), strict=True)
        return [float(e.sum() / s.sum()) if float(s.sum()) > 0 else float("nan") for e, s in parts]


class _Linear:
    """Least squares from input to target, on rows that are not judged, judged on the others."""

    def __init__(self, sae: SAE) -> None:
        self.d = sae.d_in
        self.shift = torch.cat([sae.mean, sae.target_mean]).double()
        width = self.d + 1 + sae.d_out
        self.fitting, self.judged = (
            torch.zeros(width, width, dtype=torch.float64) for _ in range(2)
        )
        self.n = 0

    def add(self, x: Tensor, kept: Tensor) -> None:
        z = x.double() - self.shift
        z = torch.cat([z[:, : self.d], z.new_ones(len(z), 1), z[:, self.d :]], dim=1)
        self.judged += z[kept].T @ z[kept]
        self.fitting += z[~kept].T @ z[~kept]
        self.n += int((~kept).sum())

    def fvu(self) -> float | None:
        """From moments alone: ||Y - X B||^2 = Y'Y - 2 B'X'Y + B'X'X B."""
        if self.n < 2 * self.d:
            return None
        p = self.d + 1
        found = torch.linalg.lstsq(self.fitting[:p, :p], self.fitting[:p, p:], driver="gelsd")
        b, (xx, xy, yy) = found.solution, _blocks(self.judged, p)
        error = yy.trace() - 2 * (b * xy).sum() + (b * (xx @ b)).sum()
        n, total = self.judged[p - 1, p - 1], self.judged[p - 1, p:]
        return float(error / (yy.trace() - total.square().sum() / n))


def _blocks(moments: Tensor, p: int) -> tuple[Tensor, Tensor, Tensor]:
    return moments[:p, :p], moments[:p, p:], moments[p:, p:]


def _private(sae: SAE, fired: Tensor) -> list[float | None]:
    if not isinstance(sae, Crosscoder):
        return [None]
    shares = sae.relative_norms().detach()[fired]
    return [float(share) for share in (shares >= PRIVATE).double().mean(dim=0)]
