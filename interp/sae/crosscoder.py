"""Crosscoder: one code for several sites, which are layers, denoiser calls or models.

Source: Lindsey et al. 2024, "Sparse crosscoders for cross-layer features and model diffing",
Transformer Circuits; TopK crosscoders: Minder et al. 2025, arXiv 2504.02922.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from interp_kernels import encode_topk
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE, Code, Context, Losses
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
from interp.sae.relu import SHARE
from interp.sae.topk import ENCODER_NORM


@dataclass(frozen=True)
class Options:
    """Options of the crosscoder."""

    widths: tuple[int, ...] = ()
    """Width of each site, in the order of the columns; (): one site. A joined source sets it."""
    sparsity: Literal["topk", "l1"] = "topk"
    """topk: k latents per row, no coefficient to tune. l1: the source's penalty."""
    l1: float = 0.0
    """Weight of the penalty, only for l1. In a training config 0 means 0.3 / sqrt(k s) for s sites:
    ReLU's weight, over the sum of norms sqrt(s) of a latent that all sites share alike."""
    l1_warmup: float = 0.05
    """Share of the run over which the weight rises from 0; the source ramps it too."""

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.widths):
            raise SAEError(f"widths = {self.widths} must be positive")
        if self.l1 < 0 or not 0 <= self.l1_warmup < 1:
            raise SAEError(f"l1 = {self.l1} and l1_warmup = {self.l1_warmup} are out of range")


class Crosscoder(SAE):
    """One code from all sites to all sites.

    p = sum_s W_enc^s z^s + b_enc,   z_hat^s = code W_dec^s + b_dec^s,   w_j = sum_s ||W_dec,j^s||

    topk: code_j = max(p_j, 0) for the k latents with the largest max(p_j, 0) w_j.
    l1: code = max(p, 0), penalty = (1/n) sum_r sum_j code_rj w_j.

    A row is the sites' rows side by side, each site normalized by itself; the loss is the mean of
    the sites' fractions of variance unexplained. Multiplying a latent's code and dividing its
    decoder by one number changes nothing in either, so that the decoder's rows over all sites
    together have norm 1 without loss.

    Args:
        d_in: sum of the widths.
        n_latents: m.
        k: active latents per row for topk.
        widths: of the sites; () means one site.
        sparsity: "topk" or "l1".
        l1: weight of the penalty.
        l1_warmup: share of the run over which it rises.
        seed: of the initial weights.
        aux_k: dead latents per row in AuxK; 0 means d_in / 2.

    Raises:
        SAEError: a number is out of range, or the widths do not add up.
    """

    variant: ClassVar[str] = "crosscoder"
    Options: ClassVar[type] = Options
    joins: ClassVar[str] = "sites"

    def __init__(
        self, d_in: int, n_latents: int, k: int, *, widths: Sequence[int] = (),
        sparsity: str = "topk", l1: float = 0.0, l1_warmup: float = 0.05, seed: int = 0,
        aux_k: int = 0,
    ) -> None:  # fmt: skip
        if sparsity not in ("topk", "l1"):
            raise SAEError(f"sparsity = {sparsity!r} is none of topk, l1")
        own = Options(tuple(widths), sparsity, l1, l1_warmup)  # type: ignore[arg-type]
        super().__init__(d_in, n_latents, widths=own.widths or (d_in,))
        if not 1 <= k <= n_latents:
            raise SAEError(f"k = {k} is not in 1..{n_latents} (n_latents)")
        if aux_k < 0:
            raise SAEError(f"aux_k = {aux_k} is negative")
        self.k, self.seed, self.aux_k, self.own = k, seed, aux_k, own
        directions = unit_rows(n_latents, d_in, seed)
        self.W_enc = nn.Parameter(directions * ENCODER_NORM)
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.W_dec = nn.Parameter(directions.clone())
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @classmethod
    def build(cls, d_in: int, config: TrainConfig) -> "Crosscoder":
        """A fresh crosscoder of summed width d_in from a training config."""
        common, own = split_options(cls, config.options)
        l1 = own.l1 or SHARE / (config.k * max(1, len(own.widths))) ** 0.5
        return cls(
            d_in, config.n_latents, config.k, widths=own.widths, sparsity=own.sparsity, l1=l1,
            l1_warmup=own.l1_warmup, seed=config.seed, aux_k=common.aux_k,
        )  # fmt: skip

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Code of raw rows [n, d], the sites side by side; dense for l1."""
        return self._encode(self.normalize(x))

    def dictionary(self) -> Float[Tensor, "m d"]:
        """W_dec, rows of norm 1 over all sites together."""
        return self.W_dec

    def offset(self) -> Float[Tensor, " d"]:
        """b_dec."""
        return self.b_dec

    def site_norms(self) -> Float[Tensor, "m s"]:
        """Norm of each latent's decoder at each site."""
        parts = self.W_dec.split(self.widths, dim=1)
        return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts], dim=1)

    def relative_norms(self) -> Float[Tensor, "m s"]:
        """Share of each site in a latent's decoder norms; rows sum to 1, equal shares are 1 / s.

        A latent whose share is near 1 belongs to one site, one with equal shares to all (Lindsey et
        al. 2024, "Model diffing").
        """
        norms = self.site_norms()
        return norms / norms.sum(dim=1, keepdim=True)

    def loss_terms(self, x: Float[Tensor, "n d"], context: Context) -> Losses:
        """Reconstruction, penalty and AuxK losses, all as fractions of the sites' mean variance.

        Args:
            x: [n, d] raw rows.
            context: its dead latents, and its progress for the warm-up of l1.
        """
        z = self.normalize(x)
        code = self._encode(z)
        error = z - self.decode_normalized(code)
        penalty = z.new_zeros(())
        if self.own.sparsity == "l1":
            rise = min(1.0, context.progress / self.own.l1_warmup) if self.own.l1_warmup else 1.0
            weighted = code.values @ self.site_norms().sum(dim=1)
            penalty = rise * self.own.l1 * weighted.mean()
        weights = self.W_enc, self.b_enc, self.W_dec, self.b_dec
        width = self.aux_k or max(1, self.d_in // 2)
        aux = auxk_loss(z, error, weights, context.dead, width)
        return Losses(mean_square(error), penalty, aux, code)

    def before_step(self) -> None:
        """Remove the gradient along the decoder's rows."""
        project_gradient_(self.W_dec)

    def after_step(self) -> None:
        """Give the decoder's rows norm 1 again."""
        normalize_rows_(self.W_dec)

    def spec(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "d_in": self.d_in,
            "n_latents": self.n_latents,
            "k": self.k,
            "widths": list(self.widths),
            "sparsity": self.own.sparsity,
            "l1": self.own.l1,
            "l1_warmup": self.own.l1_warmup,
            "seed": self.seed,
            "aux_k": self.aux_k,
        }

    def _encode(self, z: Tensor) -> Code:
        # The shift by b_dec in the bias, as in TopK.
        bias = self.b_enc - self.W_enc @ self.b_dec
        if self.own.sparsity == "l1":
            return Code((z @ self.W_enc.T + bias).to(z.dtype).relu(), None, self.n_latents)
        # Selected by value times norms; the weight leaves the values again and needs no gradient.
        norms = self.site_norms().sum(dim=1).detach()
        with exact(z):
            rows, weight, bias = lowered(z, self.W_enc * norms[:, None], bias * norms)
            values, indices = encode_topk(rows, weight, bias, self.k)
        return Code(values.to(z.dtype) / norms[indices.long()], indices, self.n_latents)
