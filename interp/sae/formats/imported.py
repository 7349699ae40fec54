"""A sparse autoencoder of another library whose function none of our variants has."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from interp_kernels import encode_topk
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE, Code, Losses
from interp.sae.ragged import encode_above

if TYPE_CHECKING:
    from interp.sae.base import Context
    from interp.sae.config import TrainConfig

ACTIVATIONS = ("relu", "topk", "groupmax", "jumprelu", "gated", "pursuit")
# Activations that count: latents, groups or steps.
COUNTED = ("topk", "groupmax", "pursuit")
ROWS = ("none", "layer", "length")
# openai/sparse_autoencoder model.py, LN; the same in SAELens and SAeUron.
LAYER_EPS = 1e-5


class Imported(SAE):
    """One encoder layer, one of six activations, one decoder layer; not for training.

    u = normalized row,   p = W_enc (u - b_in) + b_enc,   u_hat = code W_dec + b_dec

    ========  ==================================================================
    relu      max(p, 0)
    topk      the k largest max(p, 0)
    groupmax  the largest max(p, 0) of each of k groups of neighboring latents
    jumprelu  max(p, 0) where p > threshold, else 0
    gated     max(exp(r_mag) W_enc (u - b_in) + b_mag, 0) where p > 0, else 0
    pursuit   k steps: r = u - b_in at first; the latent of the largest max(W_enc r, 0) gets that
              added to its value, and r loses the value times its row of W_dec; a row stops when
              |r| < tolerance, and, if it settles, after a step that chose no new latent
    ========  ==================================================================

    Rows are normalized each by itself, which no affine map of the data can do: by `layer`,
    u = (x - m) / (s + 1e-5) with mean m and unbiased standard deviation s of the row's d numbers
    and x_hat = s u_hat + m (openai/sparse_autoencoder, Gao et al. 2024), or by `length`,
    u = sqrt(d) x / |x| and back (SAELens' constant_norm_rescale). m and s travel in `Code.frame`.

    With `d_out` it is a transcoder: rows of W_dec and b_dec live at another point, and `forward`
    adds `W_skip` x, a linear map of the input.

    It has a weight for everything that a file can say, so that reading and writing move numbers
    and never change them. Where one of the trained variants computes the same, `load_sae` gives
    that one instead.

    Args:
        d_in: d, width of the activations.
        n_latents: m.
        activation: one of the six.
        k: latents per row of topk, groups of groupmax, steps of pursuit; else 0.
        rows: none, layer or length.
        strict: topk without its max(., 0): rows whose k largest p include a negative one are
            refused, since a code here holds none (saev keeps them).
        tolerance: of pursuit.
        settles: of pursuit.
        d_out: width of a transcoder's target; 0 for autoencoders.
        skip: whether a transcoder has `W_skip` [d_out, d].

    Raises:
        SAEError: an unknown word, k out of range, groups of unequal size, or a transcoder on rows
            that are normalized each by itself.
    """

    variant: ClassVar[str] = "imported"

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        activation: str = "relu",
        *,
        k: int = 0,
        rows: str = "none",
        strict: bool = False,
        tolerance: float = 0.0,
        settles: bool = False,
        d_out: int = 0,
        skip: bool = False,
    ) -> None:
        super().__init__(d_in, n_latents, d_out or None)
        if activation not in ACTIVATIONS or rows not in ROWS:
            raise SAEError(
                f"activation {activation!r} must be one of {', '.join(ACTIVATIONS)}, "
                f"rows {rows!r} one of {', '.join(ROWS)}"
            )
        _check_k(activation, k, n_latents)
        _check_target(d_out, rows, skip)
        self.activation, self.k, self.rows, self.strict = activation, k, rows, strict
        self.tolerance, self.settles, self.given, self.skip = tolerance, settles, d_out, skip
        self.framed = rows != "none"
        # Of a BatchTopK or Matryoshka SAE, for `specialize`: latents per row, sizes of the groups.
        self.budget = 0
        self.groups: tuple[int, ...] = ()
        self.W_enc = nn.Parameter(torch.zeros(n_latents, d_in))
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.W_dec = nn.Parameter(torch.zeros(n_latents, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        if skip:
            self.W_skip = nn.Parameter(torch.zeros(self.d_out, d_in))
        self.b_in = nn.Parameter(torch.zeros(d_in))
        for name in EXTRA.get(activation, ()):
            self.register_parameter(name, nn.Parameter(torch.zeros(n_latents)))

    @classmethod
    def build(cls, d_in: int, config: "TrainConfig") -> "Imported":
        """Refused: an imported SAE comes from a file.

        Raises:
            SAEError: always.
        """
        raise SAEError("variant 'imported' is read from other libraries' files, not trained")

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Code of raw rows [n, d], dense for relu, gated and pursuit."""
        u, frame = self._framed(self.normalize(x))
        u = u - self.b_in
        if self.activation == "topk" and not self.strict:
            values, indices = encode_topk(u, self.W_enc, self.b_enc, self.k)
            return Code(values, indices, self.n_latents, frame)
        if self.activation == "pursuit":
            return Code(self._pursue(u), None, self.n_latents, frame)
        if self.activation == "gated":
            return Code(self._gated(u), None, self.n_latents, frame)
        if self.activation == "jumprelu":
            # p > t and p > 0; a threshold below 0 stops nothing that the ReLU lets through.
            theta = self.get_parameter("threshold").clamp_min(0)
            return encode_above(u, self.W_enc, self.b_enc, theta)._replace(frame=frame)
        p = u @ self.W_enc.T + self.b_enc
        if self.activation == "topk":
            return Code(*self._strict(p), self.n_latents, frame)
        if self.activation == "groupmax":
            values, place = p.relu().unflatten(1, (self.k, -1)).max(dim=2)
            first = torch.arange(0, self.n_latents, self.n_latents // self.k, device=p.device)
            return Code(values, place + first, self.n_latents, frame)
        return Code(p.relu(), None, self.n_latents, frame)

    def dictionary(self) -> Float[Tensor, "m d"]:
        """W_dec, rows of any norm."""
        return self.W_dec

    def offset(self) -> Float[Tensor, " d"]:
        """b_dec."""
        return self.b_dec

    def loss_terms(self, x: Float[Tensor, "n d"], context: "Context") -> Losses:
        """Refused: training it on would need the loss and schedule of its own library.

        Raises:
            SAEError: always.
        """
        raise SAEError("an imported SAE is not trained on: train it where it comes from")

    def before_step(self) -> None:
        """Nothing: it is not trained."""

    def after_step(self) -> None:
        """Nothing: it is not trained."""

    def spec(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "d_in": self.d_in,
            "n_latents": self.n_latents,
            "activation": self.activation,
            "k": self.k,
            "rows": self.rows,
            "strict": self.strict,
            "tolerance": self.tolerance,
            "settles": self.settles,
            "d_out": self.given,
            "skip": self.skip,
        }

    def _pursue(self, residual: Tensor) -> Tensor:
        values = residual.new_zeros(len(residual), self.n_latents)
        active = torch.ones(len(residual), dtype=torch.bool, device=residual.device)
        for _ in range(self.k):
            found, latent = (residual @ self.W_enc.T + self.b_enc).max(dim=1)
            if self.strict and bool(((found < 0) & active).any()):
                raise SAEError(
                    "a step of the pursuit has a negative value, which a code here does not hold: "
                    "load with inexact=True (--inexact) to take 0 for it"
                )
            found = torch.where(active, found.relu(), 0.0)
            new = values.gather(1, latent[:, None])[:, 0] == 0
            values = values.scatter_add(1, latent[:, None], found[:, None])
            residual = residual - found[:, None] * self.W_dec[latent]
            if self.settles:
                active = active & new & (found > 0)
            if self.tolerance > 0:
                active = active & (residual.norm(dim=1) >= self.tolerance)
            if not bool(active.any()):
                break
        return values

    def _gated(self, u: Tensor) -> Tensor:
        shared = u @ self.W_enc.T
        scale, shift = self.get_parameter("r_mag").exp(), self.get_parameter("b_mag")
        return torch.where(shared + self.b_enc > 0, (shared * scale + shift).relu(), 0.0)

    def _strict(self, p: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = p.topk(self.k, dim=1)
        if bool((values < 0).any()):
            count = int((values < 0).any(dim=1).sum())
            raise SAEError(
                f"{count} of {len(p)} rows have fewer than k = {self.k} positive latents; saev "
                "keeps the negative ones, a code here holds none: load with inexact=True "
                "(--inexact) to take 0 for them"
            )
        return values, indices

    def _framed(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.rows == "none":
            return z, None
        if self.rows == "length":
            scale = z.norm(dim=1, keepdim=True) / self.d_in**0.5
            # A row of zeros has no direction; it stays 0 and comes back as 0.
            return z / scale.where(scale > 0, 1.0), torch.cat([torch.zeros_like(scale), scale], 1)
        mean = z.mean(dim=1, keepdim=True)
        z = z - mean
        scale = z.std(dim=1, keepdim=True)
        return z / (scale + LAYER_EPS), torch.cat([mean, scale], 1)


def _check_target(d_out: int, rows: str, skip: bool) -> None:
    if d_out < 0 or (d_out and rows != "none") or (skip and not d_out):
        raise SAEError(
            f"d_out = {d_out} with rows {rows!r} and skip = {skip}: a transcoder has d_out >= 1 "
            "and plain rows, and a skip belongs to a transcoder"
        )


def _check_k(activation: str, k: int, n_latents: int) -> None:
    # A pursuit may choose a latent twice.
    most = 2**31 - 1 if activation == "pursuit" else n_latents
    if activation in COUNTED and not 1 <= k <= most:
        raise SAEError(f"k = {k} is not in 1..{most} (n_latents)")
    if activation not in COUNTED and k:
        raise SAEError(f"k = {k}, but {activation} counts nothing: give 0")
    if activation == "groupmax" and n_latents % k:
        raise SAEError(f"{n_latents} latents do not split into k = {k} groups of equal size")


# Weights beyond the common five, by activation.
EXTRA = {"jumprelu": ("threshold",), "gated": ("r_mag", "b_mag")}
