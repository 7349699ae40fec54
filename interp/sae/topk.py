"""TopK sparse autoencoder with AuxK.

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv 2406.04093.
"""

from typing import Any, ClassVar

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

# Norm of the tied encoder rows at the start: sqrt(2 d / m) at d/m = 1/4, the Kaiming rows of the
# reference recipe (bartbussmann/BatchTopK sae.py), kept for every m: norms that shrink with m start
# with values near zero.
ENCODER_NORM = 0.7


class TopK(SAE):
    """Exactly k latents per row.

    p = W_enc (z - b_dec) + b_enc,   code = the k largest max(p, 0),   z_hat = code W_dec + b_dec

    The decoder's rows have norm 1; the encoder starts as the decoder times 0.7; biases start at 0.

    Args:
        d_in: d, width of the activations.
        n_latents: m.
        k: active latents per row, 1 <= k <= m.
        seed: of the initial weights.
        aux_k: dead latents that explain the residual of a row in AuxK; 0 means d_in / 2, the
            source's choice.

    Raises:
        SAEError: k or aux_k is out of range.
    """

    variant: ClassVar[str] = "topk"

    def __init__(self, d_in: int, n_latents: int, k: int, *, seed: int = 0, aux_k: int = 0) -> None:
        super().__init__(d_in, n_latents)
        if not 1 <= k <= n_latents:
            raise SAEError(f"k = {k} is not in 1..{n_latents} (n_latents)")
        if aux_k < 0:
            raise SAEError(f"aux_k = {aux_k} is negative")
        self.k = k
        self.seed = seed
        self.aux_k = aux_k
        directions = unit_rows(n_latents, d_in, seed)
        self.W_enc = nn.Parameter(directions * ENCODER_NORM)
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.W_dec = nn.Parameter(directions.clone())
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @classmethod
    def build(cls, d_in: int, config: TrainConfig) -> "TopK":
        """A fresh SAE of width d_in from a training config."""
        common, _ = split_options(cls, config.options)
        return cls(d_in, config.n_latents, config.k, seed=config.seed, aux_k=common.aux_k)

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Code of raw rows [n, d]: values [n, k] in descending order, ties by the lower latent."""
        return self._encode(self.normalize(x), self._bias())

    def dictionary(self) -> Float[Tensor, "m d"]:
        """W_dec, rows of norm 1."""
        return self.W_dec

    def offset(self) -> Float[Tensor, " d"]:
        """b_dec."""
        return self.b_dec

    def loss_terms(self, x: Float[Tensor, "n d"], context: Context) -> Losses:
        """Reconstruction and AuxK losses of raw rows, both as fractions of the data's variance.

        Args:
            x: [n, d] raw rows.
            context: its `dead` latents; nothing else matters here.

        Returns:
            The terms; `aux` is an exact 0 without gradient where no latent is dead.
        """
        z, bias = self.normalize(x), self._bias()
        code = self._encode(z, bias)
        error = z - self.decode_normalized(code)
        weights = self.W_enc, self.b_enc, self.W_dec, self.b_dec
        aux = auxk_loss(z, error, weights, context.dead, self.aux_width)
        return Losses(mean_square(error), z.new_zeros(()), aux, code)

    @property
    def aux_width(self) -> int:
        """Dead latents per row in AuxK."""
        return self.aux_k or max(1, self.d_in // 2)

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
            "seed": self.seed,
            "aux_k": self.aux_k,
        }

    def _bias(self) -> Tensor:
        # W_enc (z - b_dec) + b_enc with the shift moved into the bias: b_dec then gets its encoder
        # gradient from m numbers and no gradient of the [n, d] input is needed.
        return self.b_enc - self.W_enc @ self.b_dec

    def _encode(self, z: Tensor, bias: Tensor) -> Code:
        low, encoder, shift = lowered(z, self.W_enc, bias)
        with exact(z):
            values, indices = encode_topk(low, encoder, shift, self.k)
        return Code(values.to(z.dtype), indices, self.n_latents)
