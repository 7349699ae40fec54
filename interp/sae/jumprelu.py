"""JumpReLU sparse autoencoder: a learned threshold per latent, and a penalty on the number active.

Source: Rajamanoharan et al. 2024, "Jumping ahead: improving reconstruction fidelity with JumpReLU
sparse autoencoders", arXiv 2407.14435.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE, Code, Context, Losses
from interp.sae.config import TrainConfig
from interp.sae.losses import auxk_loss, mean_square, normalize_rows_, project_gradient_, unit_rows
from interp.sae.options import split_options
from interp.sae.ragged import encode_above
from interp.sae.topk import ENCODER_NORM


@dataclass(frozen=True)
class Options:
    """Options of JumpReLU."""

    penalty: Literal["target", "step", "tanh"] = "target"
    """What is added to the reconstruction: "target" c (L0 / target_l0 - 1)^2 of the batch's mean L0
    (the source's appendix, on the mean as in dictionary_learning: one number to set), "step" c L0
    (the source, section 3), "tanh" c sum tanh(tanh_scale value) (Anthropic, January 2025)."""
    coefficient: float = 1.0
    """c, weight of the penalty; the reconstruction is a fraction of the variance."""
    target_l0: float = 0.0
    """Active latents per row that "target" aims at; 0 means k."""
    bandwidth: float = 0.1
    """Width of the rectangle kernel, in normalized units, in which rows have length 1: about the
    thresholds that are learned. The source has 0.001 for runs 100 times as long; in 1000 steps of
    the benchmark config `small`, 0.1 finds 98 % of the atoms, 0.02 96 %."""
    tanh_scale: float = 4.0
    """Of "tanh" (Anthropic, January 2025); values are in normalized units."""
    ramp: float = 0.1
    """Share of the run over which c rises from 0."""
    pre_act: float = 0.0
    """Weight of the pre-activation loss of dead latents; 0: none. 3e-6 in its source (Anthropic,
    January 2025)."""


class _Jump(torch.autograd.Function):
    """Values and mean L0 of a batch, with the source's pseudo-derivatives by the thresholds."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        active = pre > theta
        ctx.save_for_backward(pre, theta)
        ctx.bandwidth = bandwidth
        return torch.where(active, pre, 0), active.sum() / pre.new_tensor(max(1, len(pre)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_l0: Tensor) -> Any:  # pyright: ignore
        pre, theta = ctx.saved_tensors
        near = ((pre - theta).abs() < ctx.bandwidth / 2).to(pre.dtype)
        steps = grad_l0 * near.sum(dim=0) / max(1, len(pre))
        grad_theta = (theta * (grad * near).sum(dim=0) + steps) / -ctx.bandwidth
        return torch.where(pre > theta, grad, 0), grad_theta, None


def jump(
    pre: Float[Tensor, "n m"], theta: Float[Tensor, " m"], bandwidth: float
) -> tuple[Float[Tensor, "n m"], Float[Tensor, ""]]:
    """JumpReLU and the mean number of active latents, with straight-through gradients.

    value = p H(p - theta),   L0 = (1/n) sum H(p - theta),   H the unit step
    d value / d theta := -(theta / eps) K((p - theta) / eps),   d value / dp = H(p - theta)
    d H / d theta := -(1 / eps) K((p - theta) / eps),   d H / dp := 0
    K(u) = 1 where |u| < 1/2, else 0;   := marks a pseudo-derivative, zero almost everywhere

    Args:
        pre: [n, m] pre-activations p.
        theta: [m] thresholds, positive.
        bandwidth: eps.

    Returns:
        values [n, m] and L0 [].

    Source: Rajamanoharan et al. 2024 (arXiv 2407.14435), sections 3 and 4.
    """
    return _Jump.apply(pre, theta, bandwidth)  # type: ignore[return-value]


class JumpReLU(SAE):
    """Latents whose pre-activation exceeds a threshold of their own, as many as a row has.

    p = W_enc (z - b_dec) + b_enc,   code = p where p > theta,   theta = exp(log_threshold)
    z_hat = code W_dec + b_dec,   loss = ||z - z_hat||^2 + penalty (see `Options`)

    The thresholds learn by straight-through gradients (`jump`), the other weights by true ones.
    They start where isotropic rows would have the target's number of active latents; encoder and
    decoder start as TopK's.

    Args:
        d_in: d, width of the activations.
        n_latents: m.
        target_l0: active latents per row aimed at, in (0, m].
        penalty, coefficient, bandwidth, tanh_scale, ramp, pre_act: see `Options`.
        seed: of the initial weights.
        aux_k: dead latents that explain the residual of a row in AuxK; 0 means d_in / 2.

    Raises:
        SAEError: a number is out of range.
    """

    variant: ClassVar[str] = "jumprelu"
    Options: ClassVar[type] = Options
    straight_through: ClassVar[bool] = True

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        target_l0: float,
        *,
        penalty: str = "target",
        coefficient: float = Options.coefficient,
        bandwidth: float = Options.bandwidth,
        tanh_scale: float = Options.tanh_scale,
        ramp: float = Options.ramp,
        pre_act: float = Options.pre_act,
        seed: int = 0,
        aux_k: int = 0,
    ) -> None:
        super().__init__(d_in, n_latents)
        if not 0 < target_l0 <= n_latents:
            raise SAEError(f"target_l0 = {target_l0} is not in (0, {n_latents}] (n_latents)")
        if penalty not in ("target", "step", "tanh"):
            raise SAEError(f"penalty = {penalty!r} is none of target, step, tanh")
        for name, value in (("bandwidth", bandwidth), ("tanh_scale", tanh_scale)):
            if not value > 0:
                raise SAEError(f"{name} = {value} must be positive")
        for name, value in (("coefficient", coefficient), ("pre_act", pre_act), ("aux_k", aux_k)):
            if value < 0:
                raise SAEError(f"{name} = {value} is negative")
        if not 0 <= ramp <= 1:
            raise SAEError(f"ramp = {ramp} must be a share in [0, 1]")
        self.target_l0, self.penalty, self.coefficient = target_l0, penalty, coefficient
        self.bandwidth, self.tanh_scale, self.ramp = bandwidth, tanh_scale, ramp
        self.pre_act, self.seed, self.aux_k = pre_act, seed, aux_k
        directions = unit_rows(n_latents, d_in, seed)
        start = initial_threshold(d_in, n_latents, target_l0)
        self.W_enc = nn.Parameter(directions * ENCODER_NORM)
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.log_threshold = nn.Parameter(torch.full((n_latents,), start).log())
        self.W_dec = nn.Parameter(directions.clone())
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @classmethod
    def build(cls, d_in: int, config: TrainConfig) -> "JumpReLU":
        """A fresh SAE of width d_in from a training config."""
        common, own = split_options(cls, config.options)
        if own.pre_act and common.dead != "auxk":
            raise SAEError(
                f"option pre_act = {own.pre_act} acts on the latents that dead = 'auxk' finds, not "
                f"with dead = {common.dead!r}; with aux_coefficient = 0 it stands alone"
            )
        return cls(
            d_in, config.n_latents, own.target_l0 or float(config.k), penalty=own.penalty,
            coefficient=own.coefficient, bandwidth=own.bandwidth, tanh_scale=own.tanh_scale,
            ramp=own.ramp, pre_act=own.pre_act, seed=config.seed, aux_k=common.aux_k,
        )  # fmt: skip

    @property
    def theta(self) -> Float[Tensor, " m"]:
        """Thresholds, in normalized units."""
        return self.log_threshold.exp()

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Code of raw rows [n, d]: pre-activations above their thresholds."""
        return encode_above(self.normalize(x), self.W_enc, self._bias(), self.theta)

    def dictionary(self) -> Float[Tensor, "m d"]:
        """W_dec, rows of norm 1."""
        return self.W_dec

    def offset(self) -> Float[Tensor, " d"]:
        """b_dec."""
        return self.b_dec

    def loss_terms(self, x: Float[Tensor, "n d"], context: Context) -> Losses:
        """Reconstruction, penalty and AuxK of raw rows.

        Args:
            x: [n, d] raw rows.
            context: its `dead` latents, and `progress` for the ramp of the penalty.

        Returns:
            The terms; reconstruction and `aux` as fractions of the data's variance.
        """
        z = self.normalize(x)
        pre, theta = F.linear(z, self.W_enc, self._bias()).to(z.dtype), self.theta
        values, l0 = jump(pre, theta, self.bandwidth)
        code = Code(values, None, self.n_latents)
        error = z - self.decode_normalized(code)
        weights = self.W_enc, self.b_enc, self.W_dec, self.b_dec
        aux = auxk_loss(z, error, weights, context.dead, self.aux_width)
        ramp = min(1.0, context.progress / self.ramp) if self.ramp else 1.0
        penalty = ramp * self.coefficient * self._penalty(values, l0)
        if self.pre_act:
            below = (theta - pre).relu() * context.dead
            penalty = penalty + self.pre_act * below.sum(dim=1).mean()
        return Losses(mean_square(error), penalty, aux, code)

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
        names = (
            "d_in", "n_latents", "target_l0", "penalty", "coefficient", "bandwidth", "tanh_scale",
            "ramp", "pre_act", "seed", "aux_k",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def _bias(self) -> Tensor:
        # The shift by b_dec in the bias, see TopK.
        return self.b_enc - self.W_enc @ self.b_dec

    def _penalty(self, values: Tensor, l0: Tensor) -> Tensor:
        if self.penalty == "target":
            return (l0 / self.target_l0 - 1).square()
        if self.penalty == "step":
            return l0
        return torch.tanh(self.tanh_scale * values).sum(dim=1).mean()


def initial_threshold(d_in: int, n_latents: int, target_l0: float) -> float:
    """Threshold that `target_l0` of m tied latents exceed on isotropic Gaussian rows of length 1.

    Their pre-activations are normal with deviation ENCODER_NORM / sqrt(d); at a target of half the
    latents or more it is the source's start, 0.001 (section 5).
    """
    share = min(target_l0 / n_latents, 0.5)
    return max(0.001, ENCODER_NORM / d_in**0.5 * NormalDist().inv_cdf(1 - share))
