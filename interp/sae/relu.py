"""ReLU sparse autoencoder with an L1 penalty, or with one whose exponent falls during the run.

Source: Bricken et al. 2023, "Towards Monosemanticity", appendix "Autoencoder training"; for the
exponent, Karvonen et al. 2024, "Measuring progress in dictionary learning for language model
interpretability with board game models", arXiv 2408.00113, section 3.2 (p-annealing).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE, Code, Context, Losses
from interp.sae.config import TrainConfig
from interp.sae.losses import auxk_loss, mean_square, normalize_rows_, project_gradient_, unit_rows
from interp.sae.options import own_options, split_options

# Weight of the penalty times sqrt(k). Of 20 atoms in 16 dimensions, 2 active, it recovers .95 (.1:
# .45, .6: 1.0, at twice the FVU); of config `small`, k = 8, .99.
SHARE = 0.3
# Added to values below the exponent, so that the slope at 0 is finite: a thirtieth of the value of
# one of 1000 equal latents of a row of length 1.
SOFTENING = 1e-3


@dataclass(frozen=True)
class Options:
    """The sparsity penalty: l1 times the mean over rows of sum_i f_i^p.

    Raises:
        SAEError: a value out of range.
    """

    l1: float = 0.0
    """Weight of the penalty, of rows of length 1 and a reconstruction that is the FVU. In a
    training config 0 means 0.3 / sqrt(k) for ReLU, 1 / sqrt(k) for Gated: k equal latents of a row
    have values 1 / sqrt(k), so that k then says about how many are active."""
    ramp: float = 0.1
    """Share of the run over which l1 rises from 0: less latents die before they have learned."""
    p_start: float = 1.0
    """The exponent p until `p_after`: 1, the L1 norm."""
    p_end: float = 1.0
    """p at the end of the run; 1 leaves it alone, 0.2 is the source's choice (section 3.2)."""
    p_after: float = 0.2
    """Share of the run after which p falls, in a straight line."""

    def __post_init__(self) -> None:
        if self.l1 < 0:
            raise SAEError(f"option l1 = {self.l1} must be at least 0")
        for name in ("ramp", "p_after"):
            if not 0 <= getattr(self, name) < 1:
                raise SAEError(f"option {name} = {getattr(self, name)} must be a share in [0, 1)")
        for name in ("p_start", "p_end"):
            if not 0 < getattr(self, name) <= 1:
                raise SAEError(f"option {name} = {getattr(self, name)} must be in (0, 1]")

    def exponent(self, progress: float) -> float:
        """P at a share of the run."""
        done = max(0.0, (progress - self.p_after) / (1 - self.p_after))
        return self.p_start + (self.p_end - self.p_start) * done

    def weight(self, progress: float) -> float:
        """The weight l1 at a share of the run."""
        return self.l1 * min(1.0, progress / self.ramp) if self.ramp else self.l1


def sparsity(values: Float[Tensor, "n m"], options: Options, progress: float) -> Float[Tensor, ""]:
    """The sparsity penalty of a batch.

    l1 (1/n) sum_r c_r sum_i ((f_ri + e)^p - e^p),   c_r = sum_i f_ri / sum_i ((f_ri + e)^p - e^p)

    with c_r held fixed and e = 1e-3, so that a row's penalty has the value of its L1 norm whatever
    p is, and p decides only which values it presses on: the small ones. The source rescales by sums
    over recent batches; by row, a step does not depend on how its batch is divided.

    Args:
        values: [n, m] >= 0, of unit dictionary rows.
        options: l1, and the exponent over the run.
        progress: share of the run that is done.
    """
    total, p = values.sum(dim=1), options.exponent(progress)
    if p < 1:
        powers = ((values + SOFTENING).pow(p) - SOFTENING**p).sum(dim=1)
        ratio = total / torch.where(powers > 0, powers, 1.0)
        total = ratio.detach() * powers
    return options.weight(progress) * total.mean()


class ReLU(SAE):
    """As many latents per row as the penalty leaves.

    code = max(W_enc (z - b_dec) + b_enc, 0),   z_hat = code W_dec + b_dec

    The decoder's rows have norm 1 (the source's constraint). The other way of keeping L1 honest,
    values times decoder norms (Anthropic, April 2024), is the same function of the same dictionary:
    what it leaves free is the scale of each value, which here is fixed, so that values of different
    latents and variants compare. The encoder starts along the decoder, at 2 d / m of its length at
    most 1: the code of half of the latents then reconstructs its row. `TrainConfig.k`
    sets the default of l1 alone.

    Args:
        d_in: d, width of the activations.
        n_latents: m.
        seed: of the initial weights.
        aux_k: as in TopK.
        own: see `Options`.

    Raises:
        SAEError: aux_k or an option is out of range.
    """

    variant: ClassVar[str] = "relu"
    Options: ClassVar[type] = Options

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
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.W_dec = nn.Parameter(directions.clone())
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @classmethod
    def build(cls, d_in: int, config: TrainConfig) -> "ReLU":
        """A fresh SAE of width d_in from a training config."""
        common, own = split_options(cls, config.options)
        given = {**dataclasses.asdict(own), "l1": own.l1 or SHARE / config.k**0.5}
        return cls(d_in, config.n_latents, seed=config.seed, aux_k=common.aux_k, **given)

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Dense code of raw rows [n, d]: values [n, m]."""
        return self._encode(self.normalize(x))

    def dictionary(self) -> Float[Tensor, "m d"]:
        """W_dec, rows of norm 1."""
        return self.W_dec

    def offset(self) -> Float[Tensor, " d"]:
        """b_dec."""
        return self.b_dec

    def loss_terms(self, x: Float[Tensor, "n d"], context: Context) -> Losses:
        """Reconstruction, sparsity and AuxK losses of raw rows.

        Args:
            x: [n, d] raw rows.
            context: its `dead` latents and `progress`.
        """
        z = self.normalize(x)
        code = self._encode(z)
        error = z - self.decode_normalized(code)
        weights = self.W_enc, self.b_enc, self.W_dec, self.b_dec
        width = self.aux_k or max(1, self.d_in // 2)
        aux = auxk_loss(z, error, weights, context.dead, width)
        penalty = sparsity(code.values, self.options, context.progress)
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

    def _encode(self, z: Tensor) -> Code:
        bias = self.b_enc - self.W_enc @ self.b_dec
        return Code(torch.addmm(bias, z, self.W_enc.T).relu().to(z.dtype), None, self.n_latents)
