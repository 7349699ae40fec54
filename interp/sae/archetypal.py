"""Relaxed archetypal dictionary: latents that stay near the convex hull of the data.

Source: Fel et al. 2025, "Archetypal SAE: Adaptive and stable dictionary learning for concept
extraction in large vision models", arXiv 2502.12892, section 4 and equation 4.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from interp_kernels import encode_topk, sparse_decode
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE, Code, Context, Losses
from interp.sae.config import TrainConfig
from interp.sae.losses import auxk_loss, exact, lowered, mean_square, unit_rows
from interp.sae.options import split_options
from interp.sae.topk import ENCODER_NORM

# Rows per center from which k-means learns: fewer leave a center the mean of a handful.
ROWS_PER_CENTER = 8
# Rounds of Lloyd's algorithm; the centers are candidates, not results.
ROUNDS = 10
# Michelot's projection ends by itself, in 5 to 10 rounds on all weights tried.
MAX_ROUNDS = 50


@dataclass(frozen=True)
class Options:
    """Options of the archetypal dictionary."""

    points: int = 0
    """Candidate points of the data; 0: 2 m, so that two can be mixed for each latent."""
    candidates: Literal["rows", "kmeans"] = "rows"
    """What they are: rows of the data, or k-means centers of eight times as many (the source takes
    centers, of a whole data set)."""
    delta: float = 1.0
    """Largest length of a row of Lambda; the data's root mean square length is 1 (1.0 is the
    default of the authors' library, overcomplete)."""

    def __post_init__(self) -> None:
        if self.points < 0 or self.delta < 0:
            raise SAEError(f"points = {self.points} and delta = {self.delta} must be at least 0")


class Archetypal(SAE):
    """TopK code over a dictionary of mixed data points.

    D = W C + Lambda,  W >= 0,  sum_c W_jc = 1,  ||Lambda_j|| <= delta;
    p = W_enc (z - b_dec) + b_enc,   code = the k largest max(p, 0),   z_hat = code D + b_dec

    C [c, d] are fixed points of the data, in normalized units. W starts with one point per latent,
    Lambda at 0, the encoder along the dictionary. After every step W is projected onto the simplex
    (the nearest row-stochastic matrix) and Lambda into its ball. Rows of D have any norm: the
    encoder's values set the scale, for which the source's library has one factor more.

    Args:
        d_in: d, width of the activations.
        n_latents: m.
        k: active latents per row, 1 <= k <= m.
        points: c, candidate points; 0 means 2 m.
        candidates: "rows" or "kmeans", what `take_sample` makes of the sample.
        delta: bound of Lambda's rows.
        seed: of the candidates.
        aux_k: dead latents per row in AuxK; 0 means d_in / 2.

    Raises:
        SAEError: a number is out of range.
    """

    variant: ClassVar[str] = "archetypal"
    Options: ClassVar[type] = Options
    unit_dictionary: ClassVar[bool] = False
    # The dictionary's rows are no parameters that could be set anew.
    encoders: ClassVar[tuple[str, ...]] = ()
    C: Tensor

    def __init__(
        self, d_in: int, n_latents: int, k: int, *, points: int = 0, candidates: str = "rows",
        delta: float = 1.0, seed: int = 0, aux_k: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(d_in, n_latents)
        if not 1 <= k <= n_latents:
            raise SAEError(f"k = {k} is not in 1..{n_latents} (n_latents)")
        if aux_k < 0:
            raise SAEError(f"aux_k = {aux_k} is negative")
        if candidates not in ("rows", "kmeans"):
            raise SAEError(f"candidates = {candidates!r} is none of rows, kmeans")
        chosen = Options(points, candidates, delta)  # type: ignore[arg-type]
        self.k, self.seed, self.aux_k = k, seed, aux_k
        self.delta, self.candidates = chosen.delta, candidates
        self.points = points or 2 * n_latents
        self.n_sample = self.points * (ROWS_PER_CENTER if candidates == "kmeans" else 1)
        # Until `take_sample`, directions without data.
        self.register_buffer("C", unit_rows(self.points, d_in, seed))
        start = torch.zeros(n_latents, self.points)
        latents = torch.arange(n_latents)
        start[latents, latents % self.points] = 1.0
        self.W = nn.Parameter(start)
        self.Lambda = nn.Parameter(torch.zeros(n_latents, d_in))
        self.W_enc = nn.Parameter(torch.zeros(n_latents, d_in))
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self._start_encoder()

    @classmethod
    def build(cls, d_in: int, config: TrainConfig) -> "Archetypal":
        """A fresh SAE of width d_in from a training config; `take_sample` gives it its points."""
        common, own = split_options(cls, config.options)
        return cls(
            d_in, config.n_latents, config.k, points=own.points, candidates=own.candidates,
            delta=own.delta, seed=config.seed, aux_k=common.aux_k,
        )  # fmt: skip

    @torch.no_grad()
    def take_sample(self, rows: Float[Tensor, "s d"]) -> None:
        """Set the candidate points from raw rows, and the encoder along the first dictionary.

        Args:
            rows: [s, d], `n_sample` or fewer; fewer rows than points are taken several times.
        """
        z = self.normalize(rows)
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(z), generator=generator)
        picked = z[order[torch.arange(self.points) % len(z)].to(z.device)]
        if self.candidates == "kmeans":
            picked = kmeans_centers(z, picked)
        self.C.copy_(picked)
        self._start_encoder()

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Code of raw rows [n, d]: values [n, k] in descending order, ties by the lower latent."""
        return self._encode(self.normalize(x), self._bias())

    def dictionary(self) -> Float[Tensor, "m d"]:
        """W C + Lambda."""
        return self.W @ self.C + self.Lambda

    def offset(self) -> Float[Tensor, " d"]:
        """b_dec."""
        return self.b_dec

    def loss_terms(self, x: Float[Tensor, "n d"], context: Context) -> Losses:
        """Reconstruction and AuxK losses of raw rows, both as fractions of the data's variance.

        Args:
            x: [n, d] raw rows.
            context: its dead latents.
        """
        z, bias, dictionary = self.normalize(x), self._bias(), self.dictionary()
        code = self._encode(z, bias)
        assert code.indices is not None
        with exact(z):
            decoded = sparse_decode(code.values, code.indices, dictionary.to(z.dtype))
        error = z - decoded - self.b_dec
        weights = self.W_enc, self.b_enc, dictionary.to(z.dtype), self.b_dec
        width = self.aux_k or max(1, self.d_in // 2)
        aux = auxk_loss(z, error, weights, context.dead, width)
        return Losses(mean_square(error), z.new_zeros(()), aux, code)

    def before_step(self) -> None:
        """Nothing: the constraints are not on directions."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Project W onto the simplex, row by row, and Lambda into its ball."""
        self.W.copy_(project_simplex(self.W))
        norm = torch.linalg.vector_norm(self.Lambda, dim=1, keepdim=True)
        self.Lambda *= torch.where(norm > self.delta, self.delta / norm, 1.0)

    def spec(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "d_in": self.d_in,
            "n_latents": self.n_latents,
            "k": self.k,
            "points": self.points,
            "candidates": self.candidates,
            "delta": self.delta,
            "seed": self.seed,
            "aux_k": self.aux_k,
        }

    @torch.no_grad()
    def _start_encoder(self) -> None:
        self.W_enc.copy_(ENCODER_NORM * F.normalize(self.dictionary(), dim=1))

    def _bias(self) -> Tensor:
        return self.b_enc - self.W_enc @ self.b_dec

    def _encode(self, z: Tensor, bias: Tensor) -> Code:
        with exact(z):
            rows, weight, bias = lowered(z, self.W_enc, bias)
            values, indices = encode_topk(rows, weight, bias, self.k)
        return Code(values.to(z.dtype), indices, self.n_latents)


def project_simplex(weights: Float[Tensor, "m c"]) -> Float[Tensor, "m c"]:
    """The nearest row-stochastic matrix: rows non-negative with sum 1.

    w <- max(w - tau, 0), tau the mean excess over 1 of the entries above it, found by dropping
    those below until none is.

    Source: Michelot 1986, "A finite algorithm for finding the projection of a point onto the
    canonical simplex of R^n", JOTA 50.

    Args:
        weights: [m, c].
    """
    kept = torch.ones_like(weights, dtype=torch.bool)
    for _ in range(MAX_ROUNDS):
        tau = ((weights * kept).sum(dim=1, keepdim=True) - 1) / kept.sum(dim=1, keepdim=True)
        above = kept & (weights > tau)
        if bool((above == kept).all()):
            break
        kept = above
    return (weights - tau).relu_()


def kmeans_centers(rows: Float[Tensor, "s d"], start: Float[Tensor, "c d"]) -> Float[Tensor, "c d"]:
    """Centers after some rounds of Lloyd's algorithm; an empty one stays where it was.

    Args:
        rows: [s, d].
        start: [c, d] first centers.
    """
    centers = start.clone()
    for _ in range(ROUNDS):
        # ||r - c||^2 up to the row's own length.
        distance = torch.addmm(centers.square().sum(dim=1), rows, centers.T, alpha=-2)
        nearest = distance.argmin(dim=1)
        count = torch.bincount(nearest, minlength=len(centers))[:, None]
        total = torch.zeros_like(centers).index_add_(0, nearest, rows)
        centers = torch.where(count > 0, total / count.clamp(min=1), centers)
    return centers
