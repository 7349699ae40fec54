"""Which sites each latent of a crosscoder belongs to: by its weights, and on held-out rows.

The decoder's norm at a site says what training left there. A latent can lose one site's norm
though that site's rows still follow it, and then looks exclusive (Minder et al. 2025, arXiv
2504.02922). So each latent's decoder is fitted once more to rows that the crosscoder has
not seen, the other latents as they are: with f its code and e the error,

    v_j^s = w_j^s + cov(f_j, e^s) / var(f_j)

whose norm is estimated from two halves of the images, ||v||^2 = <v_1, v_2>, so that noise does not
add to it. Their scaling fits one number per site for one direction in one space; sites of different
models have no common direction, and a vector takes its place.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.errors import SAEError
from interp.sae.base import SAE
from interp.sae.crosscoder import Crosscoder
from interp.sae.evaluate_joined import PRIVATE, judged_rows
from interp.sae.joined import Joined
from interp.sae.split import unit_hash

# Of two sites, .4 to .6 of the norm in each (Minder et al. 2025, arXiv 2504.02922); of s, .8 / s.
BOTH = 0.8
# Kinds of latents beside the number of the site that one is exclusive to.
SHARED, BETWEEN, SILENT = -1, -2, -3
_CHUNK = 4096


@dataclass(frozen=True)
class Shares:
    """Share of each site in the decoder norms of m latents over s sites; rows sum to 1."""

    sites: tuple[str, ...]
    norms: np.ndarray
    """[m, s] by the weights."""
    refitted: np.ndarray | None
    """[m, s] of the decoder fitted to held-out rows; NaN for latents that do not fire on both
    halves or whose norm is below its noise; None without rows."""
    fired: np.ndarray
    """[m] held-out rows on which the latent fires; 0 without rows."""
    n_rows: int
    twin: "Shares | None"
    """Of the crosscoder of the untrained twins: shared latents that wiring alone gives."""

    def kinds(self, by: str = "norms") -> np.ndarray:
        """What each latent is: [m] the number of the site that it is exclusive to, -1 shared by
        all sites, -2 in between, -3 silent on the held-out rows (or without a fit).

        Exclusive: at least 0.9 of the norms at one site. Shared: at least 0.8 / s at every site.
        by: "norms" or "refitted".
        Raises SAEError for another name, or "refitted" without rows.
        """
        shares = {"norms": self.norms, "refitted": self.refitted}.get(by)
        if shares is None:
            raise SAEError(f"shares by {by!r}: norms, or refitted where rows were given")
        out = np.full(len(shares), BETWEEN)
        out[(shares >= BOTH / len(self.sites)).all(axis=1)] = SHARED
        most = np.nan_to_num(shares).max(axis=1)
        out[most >= PRIVATE] = np.nan_to_num(shares).argmax(axis=1)[most >= PRIVATE]
        silent = np.isnan(shares).any(axis=1)
        if self.n_rows:
            silent |= self.fired == 0
        out[silent] = SILENT
        return out

    def summary(self) -> dict[str, Any]:
        """Counts of latents per kind, by weights and on held-out rows, and the twin's."""
        found: dict[str, Any] = {
            "sites": list(self.sites),
            "n_rows": self.n_rows,
            "norms": self._count("norms"),
        }
        if self.refitted is not None:
            found["refitted"] = self._count("refitted")
            own, refit = self.kinds(), self.kinds("refitted")
            exclusive = own >= 0
            found["exclusive_confirmed"] = (
                float((refit == own)[exclusive].mean()) if exclusive.any() else None
            )
        found["twin"] = None if self.twin is None else self.twin.summary()
        return found

    def _count(self, by: str) -> dict[str, Any]:
        kinds = self.kinds(by)
        named = {"shared": SHARED, "between": BETWEEN, "silent": SILENT}
        counts: dict[str, Any] = {name: int((kinds == kind).sum()) for name, kind in named.items()}
        return counts | {"exclusive": [int((kinds == i).sum()) for i in range(len(self.sites))]}


def crosscoder_shares(
    sae: SAE,
    joined: Joined | None = None,
    *,
    twin: tuple[SAE, Joined] | None = None,
    rows: np.ndarray | None = None,
    allow_train: bool = False,
) -> Shares:
    """Which sites each latent of a crosscoder belongs to.

    Args:
        sae: a crosscoder.
        joined: its sites, in the order of its training; None: by the weights alone.
        twin: a crosscoder of the untrained twins' sites, and their rows: the reference level.
        rows: mask or ids of joined rows to judge; None: those that `allow_train` permits.
        allow_train: let rows of trained images in.

    Returns:
        The shares per latent and site.

    Raises:
        SAEError: no crosscoder, sites of other widths, rows of trained images, or none left; fewer
            than two images.
    """
    if not isinstance(sae, Crosscoder):
        raise SAEError(f"a {sae.variant} has no sites to share: train a crosscoder")
    beside = None if twin is None else crosscoder_shares(*twin, allow_train=allow_train)
    norms = sae.relative_norms().detach().double().numpy()
    if joined is None:
        names = _names(sae)
        return Shares(names, norms, None, np.zeros(len(norms), dtype=np.int64), 0, beside)
    if joined.widths != sae.widths:
        raise SAEError(f"sites of widths {joined.widths} do not fit a crosscoder of {sae.widths}")
    mask = judged_rows(sae, joined, rows, allow_train)
    sums = _scan(sae, joined, mask)
    names = tuple(site.name for site in joined.sites)
    if len(set(names)) < len(names):
        names = tuple(f"{i}: {name}" for i, name in enumerate(names))
    fired = sums.count.sum(0).numpy().astype(np.int64)
    return Shares(names, norms, _refit(sae, sums), fired, int(mask.sum()), beside)


def _names(sae: SAE) -> tuple[str, ...]:
    known = sae.provenance.get("sites") or ()
    return tuple(
        known[i]["point"]["name"] if i < len(known) else f"site {i}" for i in range(len(sae.widths))
    )


class _Sums(NamedTuple):
    """Per half of the images: rows, rows on which a latent fires, sums of f, f^2, e and f e."""

    n: Tensor
    """[2]."""
    count: Tensor
    """[2, m]."""
    code: Tensor
    """[2, m]."""
    square: Tensor
    """[2, m]."""
    error: Tensor
    """[2, d]."""
    product: Tensor
    """[2, m, d]."""


def _scan(sae: Crosscoder, joined: Joined, mask: np.ndarray) -> _Sums:
    half, m = _half_of(joined, mask), sae.n_latents
    shapes = ((2,), (2, m), (2, m), (2, m), (2, sae.d_in), (2, m, sae.d_in))
    sums = _Sums(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))
    for ids, x in joined.chunks(_CHUNK):
        for k in (0, 1):
            kept = mask[ids] & (half[ids] == k)
            _add(sae, sums, k, x[torch.from_numpy(kept)])
    return sums


@torch.no_grad()
def _add(sae: Crosscoder, sums: _Sums, k: int, x: Tensor) -> None:
    if not len(x):
        return
    code = sae.encode(x)
    error = (sae.normalize(x) - sae.decode_normalized(code)).double()
    row, slot = (code.values > 0).nonzero(as_tuple=True)
    value = code.values[row, slot].double()
    latent = slot if code.indices is None else code.indices[row, slot].long()
    sums.n[k] += len(x)
    sums.error[k] += error.sum(0)
    for name, values in (("count", value.sign()), ("code", value), ("square", value.square())):
        getattr(sums, name)[k].index_add_(0, latent, values)
    places, shape = torch.stack([latent, row]), (sae.n_latents, len(x))
    codes = torch.sparse_coo_tensor(places, value, shape, check_invariants=False)
    sums.product[k] += torch.sparse.mm(codes, error)


def _half_of(joined: Joined, mask: np.ndarray) -> np.ndarray:
    """[n] half of each row: whole clusters, in the order of their hashes."""
    table = joined.sites[0].store.generations
    names = [
        str(cluster) or str(image)
        for cluster, image in zip(table["cluster"], table["image_id"], strict=True)
    ]
    place = np.searchsorted(table["generation"], joined.generation())
    used = sorted({names[i] for i in np.unique(place[mask])}, key=lambda n: unit_hash("half", n))
    if len(used) < 2:
        raise SAEError(f"{len(used)} cluster of images: two or more are fitted in halves")
    second = set(used[len(used) // 2 :])
    return np.array([int(name in second) for name in names])[place]


def _refit(sae: Crosscoder, sums: _Sums) -> np.ndarray:
    mean = sums.code / sums.n[:, None]
    spread = sums.square - mean * sums.code
    moved = sums.product - mean[..., None] * sums.error[:, None]
    fitted = sae.W_dec.detach().double() + moved / spread[..., None].clamp(min=1e-300)
    product = (fitted[0] * fitted[1]).split(sae.widths, dim=1)
    norms = torch.stack([part.sum(1) for part in product], dim=1).clamp(min=0).sqrt()
    total = norms.sum(dim=1, keepdim=True)
    known = (spread > 1e-9 * sums.square).all(0)[:, None] & (total > 0)
    return torch.where(known, norms / total, torch.nan).numpy()
