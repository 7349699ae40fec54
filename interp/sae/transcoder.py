"""Transcoder: from the activations of one hook point to those of another, through a sparse code.

Source: Dunefsky et al. 2024, "Transcoders find interpretable LLM feature circuits", arXiv
2406.11944; the skip connection: Paulo et al. 2025, "Transcoders beat sparse autoencoders for
interpretability", arXiv 2501.18823, section 3.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from interp_kernels import encode_topk
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE, Code, Context, Losses
from interp.sae.config import TrainConfig
from interp.sae.losses import (
    exact,
    lowered,
    mean_square,
    normalize_rows_,
    project_gradient_,
    unit_rows,
)
from interp.sae.options import split_options
from interp.sae.topk import ENCODER_NORM


@dataclass(frozen=True)
class Options:
    """Options of the transcoder."""

    d_out: int = 0
    """Width of the target; 0: that of the input. A joined source sets it."""
    skip: bool = False
    """Add a linear map of the input, from 0 on: what is linear then takes no latents (Paulo et al.
    2025, section 3)."""

    def __post_init__(self) -> None:
        if self.d_out < 0:
            raise SAEError(f"d_out = {self.d_out} must be at least 0")


class Transcoder(SAE):
    """Exactly k latents of the input reconstruct the target.

    z = (x - mean) / scale,   p = W_enc z + b_enc,   code = the k largest max(p, 0),
    y_hat = target_mean + target_scale * (code W_dec + b_dec + W_skip z)

    Input and target are normalized each by its own mean and scale. The decoder's rows have norm 1.
    Without a target it is an autoencoder whose input is not shifted by b_dec.

    Args:
        d_in: d, width of the input.
        n_latents: m.
        k: active latents per row, 1 <= k <= m.
        d_out: width of the target; 0 means d_in, with the encoder along the decoder at first.
        skip: with `W_skip` [d_out, d], 0 at first.
        seed: of the initial weights.
        aux_k: dead latents per row in AuxK; 0 means d_out / 2.

    Raises:
        SAEError: a number is out of range.
    """

    variant: ClassVar[str] = "transcoder"
    Options: ClassVar[type] = Options
    joins: ClassVar[str] = "target"
    # Encoder and decoder live in two spaces, and so do the input's center and b_dec.
    encoders: ClassVar[tuple[str, ...]] = ()
    lacks: ClassVar[tuple[str, ...]] = ("center",)

    def __init__(
        self, d_in: int, n_latents: int, k: int, *, d_out: int = 0, skip: bool = False,
        seed: int = 0, aux_k: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(d_in, n_latents, Options(d_out, skip).d_out or d_in)
        if not 1 <= k <= n_latents:
            raise SAEError(f"k = {k} is not in 1..{n_latents} (n_latents)")
        if aux_k < 0:
            raise SAEError(f"aux_k = {aux_k} is negative")
        self.k, self.seed, self.aux_k, self.skip, self.given = k, seed, aux_k, skip, d_out
        directions = unit_rows(n_latents, self.d_out, seed)
        # Of another seed where the spaces differ: equal widths do not mean equal axes.
        inward = unit_rows(n_latents, d_in, seed + 2**62) if d_out else directions
        self.W_enc = nn.Parameter(inward * ENCODER_NORM)
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.W_dec = nn.Parameter(directions.clone())
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        if skip:
            self.W_skip = nn.Parameter(torch.zeros(self.d_out, d_in))

    @classmethod
    def build(cls, d_in: int, config: TrainConfig) -> "Transcoder":
        """A fresh transcoder of width d_in from a training config."""
        common, own = split_options(cls, config.options)
        return cls(
            d_in, config.n_latents, config.k, d_out=own.d_out, skip=own.skip, seed=config.seed,
            aux_k=common.aux_k,
        )  # fmt: skip

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Code of raw input rows: values [n, k] in descending order, ties by the lower latent."""
        return self._encode(self.normalize(x))

    def dictionary(self) -> Float[Tensor, "m e"]:
        """W_dec, rows of norm 1 in the target's space."""
        return self.W_dec

    def offset(self) -> Float[Tensor, " e"]:
        """b_dec."""
        return self.b_dec

    def loss_terms(self, x: Float[Tensor, "n d"], context: Context) -> Losses:
        """Reconstruction and AuxK losses as fractions of the target's variance.

        Args:
            x: [n, d] raw input rows.
            context: its target [n, d_out], or none for the input itself, and its dead latents.
        """
        z = self.normalize(x)
        code = self._encode(z)
        wanted = self.normalize_target(x if context.target is None else context.target)
        error = wanted - self.decode_normalized(code)
        if self.W_skip is not None:
            error = error - z @ self.W_skip.T
        aux = z.new_zeros(())
        if bool(context.dead.any()):
            width = self.aux_k or max(1, self.d_out // 2)
            weights = self.W_enc, self.b_enc, self.W_dec
            aux = aux_transcoder_loss(z, error, *weights, context.dead, width)
        return Losses(mean_square(error), z.new_zeros(()), aux, code)

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
            "d_out": self.given,
            "skip": self.skip,
            "seed": self.seed,
            "aux_k": self.aux_k,
        }

    def _encode(self, z: Tensor) -> Code:
        with exact(z):
            rows, weight, bias = lowered(z, self.W_enc, self.b_enc)
            values, indices = encode_topk(rows, weight, bias, self.k)
        return Code(values.to(z.dtype), indices, self.n_latents)


def aux_transcoder_loss(
    normalized: Float[Tensor, "n d"],
    residual: Float[Tensor, "n e"],
    encoder: Float[Tensor, "m d"],
    bias: Float[Tensor, " m"],
    decoder: Float[Tensor, "m e"],
    dead: Bool[Tensor, " m"],
    aux_k: int,
) -> Float[Tensor, ""]:
    """`interp.sae.losses.auxk_loss` where encoder and decoder have different widths.

    Args:
        normalized: [n, d] input in normalized units.
        residual: [n, e] what the code leaves of the target; detached here.
        encoder: [m, d]. bias: [m]. decoder: [m, e].
        dead: [m] bool, at least one.
        aux_k: dead latents per row, cut to their number.

    Returns:
        The loss; gradients reach the dead rows of encoder, bias and decoder and nothing else.
    """
    latents = dead.nonzero().flatten()
    pre = normalized.detach() @ encoder[latents].T + bias[latents]
    values, places = pre.topk(min(aux_k, len(latents)), dim=1)
    code = torch.zeros_like(pre).scatter(1, places, values.relu())
    return mean_square(residual.detach() - code @ decoder[latents])
