"""Gated sparse autoencoder: one path decides which latents fire, another how strongly.

Source: Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders",
arXiv 2404.16014, section 3.
"""

import dataclasses
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE, Code, Context, Losses
from interp.sae.config import TrainConfig
from interp.sae.losses import auxk_loss, mean_square, normalize_rows_, project_gradient_, unit_rows
from interp.sae.options import own_options, split_options
from interp.sae.relu import Options, sparsity

# Weight of the penalty times sqrt(k). More than ReLU's: the gate's reconstruction, whose weight is
# 1, holds against it. Of 20 atoms in 16 dimensions, 2 active: .95 recovered (.6: .60, .3: .05).
SHARE = 1.1


class Gated(SAE):
    """Latents that fire where a gate opens, with a strength that the penalty does not shrink.

    gate   = W_enc (z - b_dec) + b_gate
    code   = [gate > 0] max(exp(r_mag) W_enc (z - b_dec) + b_mag, 0)            (equations 5 to 7)
    loss   = ||z - z_hat||^2 + l1 sum max(gate, 0) + ||z - z_hat(max(gate, 0))||^2   (equation 8)

    where the last term decodes with W_dec and b_dec held fixed: it teaches the gate alone. `W_enc`
    is the source's W_gate, named as in the files of SAELens and dictionary_learning. The decoder's
    rows have norm 1. The encoder starts as ReLU's, r_mag and all biases at 0. `TrainConfig.k` sets
    the default of l1 alone.

    Args:
        d_in: d, width of the activations.
        n_latents: m.
        seed: of the initial weights.
        aux_k: as in TopK; AuxK sees the gate's values.
        own: see `interp.sae.relu.Options`; the penalty is on the gate's values.

    Raises:
        SAEError: aux_k or an option is out of range.
    """

    variant: ClassVar[str] = "gated"
    Options: ClassVar[type] = Options
    held: ClassVar[tuple[str, ...]] = ("W_dec", "b_dec")

    def __init__(
        self, d_in: int, n_latents: int, *, seed: int = 0, aux_k: int = 0, **own: Any
    ) -> None:
        super().__init__(d_in, n_latents)
        if aux_k < 0:
            raise SAEError(f"aux_k = {aux_k} is negative")
        self.seed = seed
        self.aux_k = aux_k
        self.options: Options = own_options(type(self), own)
        directions = unit_rows(n_latents, d_in, seed)
        self.W_enc = nn.Parameter(directions * min(1.0, 2 * d_in / n_latents))
        self.b_gate = nn.Parameter(torch.zeros(n_latents))
        self.b_mag = nn.Parameter(torch.zeros(n_latents))
        self.r_mag = nn.Parameter(torch.zeros(n_latents))
        self.W_dec = nn.Parameter(directions.clone())
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @classmethod
    def build(cls, d_in: int, config: TrainConfig) -> "Gated":
        """A fresh SAE of width d_in from a training config."""
        common, own = split_options(cls, config.options)
        given = {**dataclasses.asdict(own), "l1": own.l1 or SHARE / config.k**0.5}
        return cls(d_in, config.n_latents, seed=config.seed, aux_k=common.aux_k, **given)

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Dense code of raw rows [n, d]: values [n, m]."""
        return self._encode(self.normalize(x))[0]

    def dictionary(self) -> Float[Tensor, "m d"]:
        """W_dec, rows of norm 1."""
        return self.W_dec

    def offset(self) -> Float[Tensor, " d"]:
        """b_dec."""
        return self.b_dec

    def loss_terms(self, x: Float[Tensor, "n d"], context: Context) -> Losses:
        """Reconstruction, penalty (sparsity of the gate, and its own reconstruction) and AuxK.

        Args:
            x: [n, d] raw rows.
            context: its `dead` latents and `progress`.
        """
        z = self.normalize(x)
        code, gate = self._encode(z)
        error = z - self.decode_normalized(code)
        by_gate = gate @ self.W_dec.detach() + self.b_dec.detach()
        penalty = sparsity(gate, self.options, context.progress) + mean_square(z - by_gate)
        weights = self.W_enc, self.b_gate, self.W_dec, self.b_dec
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
            "seed": self.seed,
            "aux_k": self.aux_k,
            **dataclasses.asdict(self.options),
        }

    def _encode(self, z: Tensor) -> tuple[Code, Tensor]:
        """The code, and the gate's values max(gate, 0) [n, m]."""
        shift = -(self.W_enc @ self.b_dec)
        inner = torch.addmm(shift, z, self.W_enc.T).to(z.dtype)
        gate = inner + self.b_gate
        strength = (inner * self.r_mag.exp() + self.b_mag).relu()
        values = torch.where(gate > 0, strength, 0.0)
        return Code(values, None, self.n_latents), gate.relu()
