"""Matryoshka sparse autoencoder: every prefix of the latents reconstructs by itself.

Source: Bussmann et al. 2025, "Learning multi-level features with Matryoshka sparse autoencoders",
arXiv 2503.17547; Nabeshima 2024, "Matryoshka sparse autoencoders" (LessWrong), for the idea of
nested prefixes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from interp_kernels import encode_topk, sparse_decode
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE, Code, Context, Losses
from interp.sae.batchtopk import check_budget, select_budget, update_threshold_
from interp.sae.config import TrainConfig
from interp.sae.losses import (
    auxk_loss,
    exact,
    lowered,
    mean_square,
    normalize_rows_,
    project_gradient_,
    unit_rows,
)
from interp.sae.options import split_options
from interp.sae.ragged import Entries, encode_above, encode_entries, pad
from interp.sae.topk import ENCODER_NORM

# Shares of the latents in each group: prefixes of 2048, 6144, 14336, 30720 and 65536 latents
# (Bussmann et al. 2025, section 4).
GROUPS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)


@dataclass(frozen=True)
class Options:
    """Options of Matryoshka."""

    groups: tuple[float, ...] = GROUPS
    """Size of each group of latents, coarsest first: shares that add up to 1, or numbers of latents
    that add up to n_latents. Prefix i is the first i groups (Bussmann et al. 2025, section 4)."""
    selection: Literal["batchtopk", "topk"] = "batchtopk"
    """How k latents per row are chosen: shared by the batch (the source's choice), or k in each."""


def group_sizes(groups: Sequence[float], n_latents: int) -> tuple[int, ...]:
    """Numbers of latents of each group, from shares or numbers.

    Args:
        groups: shares of n_latents that add up to 1, or whole numbers that add up to n_latents.
        n_latents: m.

    Returns:
        The sizes, each at least 1, with the sum m; boundaries of shares are rounded.

    Raises:
        SAEError: they do not add up, or a group is empty.
    """
    total = sum(groups)
    if not groups or any(not size > 0 for size in groups):
        raise SAEError(f"groups = {tuple(groups)} must be positive sizes")
    whole = all(float(size).is_integer() for size in groups)
    if whole and total == n_latents:
        return tuple(int(size) for size in groups)
    if abs(total - 1) > 1e-6:
        raise SAEError(
            f"groups = {tuple(groups)} add up to {total:g}: neither shares that make 1 nor sizes "
            f"that make {n_latents} (n_latents)"
        )
    edges = [round(sum(groups[:i]) * n_latents) for i in range(len(groups) + 1)]
    sizes = tuple(stop - start for start, stop in pairwise(edges))
    if min(sizes) < 1:
        raise SAEError(
            f"groups = {tuple(groups)} leave a group of {n_latents} latents empty: {sizes}; use "
            "fewer or larger groups"
        )
    return sizes


def prefix_errors(
    target: Float[Tensor, "n d"],
    code: Code,
    dictionary: Float[Tensor, "m d"],
    sizes: Sequence[int],
) -> list[Float[Tensor, "n d"]]:
    """What each prefix of the latents leaves of the target.

    e_0 = target,   e_i = e_{i - 1} - sum over latents j of group i of code[:, j] W_dec[j]

    Every active latent is decoded once, in its group, so that all prefixes together cost what the
    whole dictionary costs.

    Args:
        target: [n, d], without the offset.
        code: with slots.
        dictionary: W_dec.
        sizes: latents in each group, in order.

    Returns:
        One error [n, d] per prefix; the last is that of the whole dictionary.
    """
    assert code.indices is not None
    active, latents, values = code.values > 0, code.indices, code.values.flatten()
    errors, error, start = [], target, 0
    for size in sizes:
        inside = active & (latents >= start) & (latents < start + size)
        rows, slots = inside.nonzero(as_tuple=True)
        own = Entries(
            rows,
            latents[rows, slots] - start,
            # Its backward adds; that of values[rows, slots] sorts first.
            values.index_select(0, rows * latents.shape[1] + slots),
        )
        part, indices = pad(own, len(target))
        with exact(target):
            error = error - sparse_decode(part, indices, dictionary[start : start + size])
        errors.append(error)
        start += size
    return errors


class Matryoshka(SAE):
    """k latents per row on average, of which every prefix of groups reconstructs by itself.

    p = W_enc (z - b_dec) + b_enc,   code = as in BatchTopK (or TopK),
    z_hat_i = b_dec + the first i groups of latents of code W_dec
    loss = mean over prefixes i of ||z - z_hat_i||^2

    Latents of the first groups take part in all reconstructions: they become general, the last
    ones special, and a general latent is not absorbed by special ones. The reported reconstruction
    is the whole dictionary's; the penalty is the mean of all prefixes minus it.

    Args:
        d_in: d, width of the activations.
        n_latents: m.
        k: active latents per row in the whole dictionary, 1 <= k <= m.
        groups: latents in each group, see `group_sizes`.
        selection: "batchtopk" or "topk".
        seed: of the initial weights, which are TopK's.
        aux_k: dead latents that explain the residual of a row in AuxK; 0 means d_in / 2.

    Raises:
        SAEError: k, aux_k, groups or selection do not fit.
    """

    variant: ClassVar[str] = "matryoshka"
    Options: ClassVar[type] = Options
    threshold: Tensor

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        k: int,
        *,
        groups: Sequence[float] = GROUPS,
        selection: str = "batchtopk",
        seed: int = 0,
        aux_k: int = 0,
    ) -> None:
        super().__init__(d_in, n_latents)
        check_budget(n_latents, k, aux_k)
        if selection not in ("batchtopk", "topk"):
            raise SAEError(f"selection = {selection!r} is neither batchtopk nor topk")
        self.k = k
        self.groups = group_sizes(groups, n_latents)
        self.selection = selection
        self.seed = seed
        self.aux_k = aux_k
        directions = unit_rows(n_latents, d_in, seed)
        self.W_enc = nn.Parameter(directions * ENCODER_NORM)
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.W_dec = nn.Parameter(directions.clone())
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        # As in BatchTopK; stays 0 where every row has its own k.
        self.register_buffer("threshold", torch.zeros(()))
        self._smallest: Tensor | None = None

    @classmethod
    def build(cls, d_in: int, config: TrainConfig) -> "Matryoshka":
        """A fresh SAE of width d_in from a training config."""
        common, own = split_options(cls, config.options)
        return cls(
            d_in, config.n_latents, config.k, groups=own.groups, selection=own.selection,
            seed=config.seed, aux_k=common.aux_k,
        )  # fmt: skip

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Code of raw rows [n, d]: latents above the threshold, or the k largest of each row."""
        z = self.normalize(x)
        if self.selection == "topk":
            return self._encode_topk(z)
        return encode_above(z, self.W_enc, self._bias(), self.threshold)

    def dictionary(self) -> Float[Tensor, "m d"]:
        """W_dec, rows of norm 1, the most general group first."""
        return self.W_dec

    def offset(self) -> Float[Tensor, " d"]:
        """b_dec."""
        return self.b_dec

    def decode_prefix(self, code: Code, n_groups: int) -> Float[Tensor, "n d"]:
        """Reconstruction in raw units by the latents of the first groups alone.

        Args:
            code: of this SAE.
            n_groups: 1 .. number of groups.

        Raises:
            SAEError: there are not so many groups.
        """
        if not 1 <= n_groups <= len(self.groups):
            raise SAEError(f"n_groups = {n_groups} is not in 1..{len(self.groups)}")
        stop = sum(self.groups[:n_groups])
        if code.indices is None:
            kept = torch.arange(self.n_latents, device=code.values.device) < stop
        else:
            kept = code.indices < stop
        return self.decode(code._replace(values=torch.where(kept, code.values, 0)))

    def loss_terms(self, x: Float[Tensor, "n d"], context: Context) -> Losses:
        """Losses of raw rows: whole reconstruction, excess of the prefixes, AuxK on the whole.

        Args:
            x: [n, d] raw rows.
            context: its `dead` latents.

        Returns:
            The terms, all as fractions of the data's variance; reconstruction + penalty is the mean
            over the prefixes.
        """
        z = self.normalize(x)
        code = self._encode_topk(z) if self.selection == "topk" else self._select(z)
        errors = prefix_errors(z - self.b_dec, code, self.W_dec, self.groups)
        terms = torch.stack([mean_square(error) for error in errors])
        weights = self.W_enc, self.b_enc, self.W_dec, self.b_dec
        aux = auxk_loss(z, errors[-1], weights, context.dead, self.aux_width)
        return Losses(terms[-1], terms.mean() - terms[-1], aux, code)

    @property
    def aux_width(self) -> int:
        """Dead latents per row in AuxK."""
        return self.aux_k or max(1, self.d_in // 2)

    def before_step(self) -> None:
        """Remove the gradient along the decoder's rows."""
        project_gradient_(self.W_dec)

    def after_step(self) -> None:
        """Give the decoder's rows norm 1 again, and take the step's threshold into the mean."""
        normalize_rows_(self.W_dec)
        if self._smallest is not None:
            update_threshold_(self.threshold, self._smallest)
            self._smallest = None

    def spec(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "d_in": self.d_in,
            "n_latents": self.n_latents,
            "k": self.k,
            "groups": list(self.groups),
            "selection": self.selection,
            "seed": self.seed,
            "aux_k": self.aux_k,
        }

    def _bias(self) -> Tensor:
        # The shift by b_dec in the bias, see TopK.
        return self.b_enc - self.W_enc @ self.b_dec

    def _encode_topk(self, z: Tensor) -> Code:
        with exact(z):
            rows, weight, bias = lowered(z, self.W_enc, self._bias())
            values, indices = encode_topk(rows, weight, bias, self.k)
        return Code(values.to(z.dtype), indices, self.n_latents)

    def _select(self, z: Tensor) -> Code:
        bias = self._bias()
        with torch.no_grad():
            pre = F.linear(z, self.W_enc, bias).to(z.dtype)
            found = select_budget(pre, self.k)
            values, indices = pad(found.entries, len(z))
        self._smallest = found.threshold
        values = encode_entries(z, self.W_enc, bias, values, indices)
        return Code(values, indices, self.n_latents)
