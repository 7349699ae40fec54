"""Orthogonal matching pursuit with non-negative values: after each step all values are fitted anew.

Source: Pati, Rezaiifar and Krishnaprasad 1993 for the pursuit; Lawson and Hanson 1974 ("Solving
least squares problems", chapter 23) for non-negative least squares, of which k outer steps are the
non-negative pursuit (Nguyen et al. 2019, "Non-negative orthogonal greedy algorithms", IEEE TSP 67).
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.sae.base import SAE, Code, Context, Losses
from interp.sae.config import TrainConfig
from interp.sae.losses import mean_square, normalize_rows_, project_gradient_, unit_rows
from interp.sae.options import split_options
from interp.sae.pursuit import check_steps, dead_pursuit_loss

# Share of a row's length below which an inner product with its residual is rounding: an atom that
# repeats a chosen one has such a product, and would make the system singular.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}


class OMP(SAE):
    """At most k latents per row; their values are the best non-negative ones for these latents.

    S_0 = {};  in step t = 1..k:  j = argmax <W_j, r_{t-1}>,  S_t = S_{t-1} + {j},
    v = argmin_{v >= 0} ||z - b_dec - sum_{i in S_t} v_i W_i||,  S_t = {i: v_i > 0},
    r_t = z - b_dec - sum_i v_i W_i

    The dictionary's rows have norm 1 and are the encoder too. The gradient is that of the last
    least squares, v = (W_S W_S^T)^-1 W_S (z - b_dec), with the chosen latents S held fixed: exact
    almost everywhere, since S is constant around almost every row.

    Args:
        d_in: d, width of the activations.
        n_latents: m.
        k: steps, 1 <= k <= m.
        seed: of the initial directions.
        aux_k: steps of the dead latents on the residual (`dead_pursuit_loss`); 0 means k.

    Raises:
        SAEError: k or aux_k is out of range.
    """

    variant: ClassVar[str] = "omp"
    encoders: ClassVar[tuple[str, ...]] = ()
    # Differences between atoms are too small for 16 bits, and so are least squares.
    lacks: ClassVar[tuple[str, ...]] = ("precision",)

    def __init__(self, d_in: int, n_latents: int, k: int, *, seed: int = 0, aux_k: int = 0) -> None:
        super().__init__(d_in, n_latents)
        check_steps(n_latents, k, aux_k)
        self.k, self.seed, self.aux_k = k, seed, aux_k
        self.W_dec = nn.Parameter(unit_rows(n_latents, d_in, seed))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @classmethod
    def build(cls, d_in: int, config: TrainConfig) -> "OMP":
        """A fresh SAE of width d_in from a training config."""
        common, _ = split_options(cls, config.options)
        return cls(d_in, config.n_latents, config.k, seed=config.seed, aux_k=common.aux_k)

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Code of raw rows [n, d]: values [n, k] in the order of the steps, 0 where one left."""
        return self._encode(self.normalize(x))

    def dictionary(self) -> Float[Tensor, "m d"]:
        """W_dec, rows of norm 1."""
        return self.W_dec

    def offset(self) -> Float[Tensor, " d"]:
        """b_dec."""
        return self.b_dec

    def loss_terms(self, x: Float[Tensor, "n d"], context: Context) -> Losses:
        """Reconstruction loss, and that of the dead latents on the residual.

        Args:
            x: [n, d] raw rows.
            context: its dead latents.
        """
        z = self.normalize(x)
        code = self._encode(z)
        error = z - self.decode_normalized(code)
        aux = dead_pursuit_loss(error, self.W_dec, context.dead, self.aux_k or self.k)
        return Losses(mean_square(error), z.new_zeros(()), aux, code)

    def before_step(self) -> None:
        """Remove the gradient along the dictionary's rows."""
        project_gradient_(self.W_dec)

    def after_step(self) -> None:
        """Give the dictionary's rows norm 1 again."""
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

    def _encode(self, z: Tensor) -> Code:
        target = z - self.b_dec
        chosen, active = choose_orthogonally(target, self.W_dec, self.k)
        values = refit(target, self.W_dec, chosen, active)
        return Code(values, chosen, self.n_latents)


@torch.no_grad()
def choose_orthogonally(
    target: Float[Tensor, "n d"], atoms: Float[Tensor, "m d"], k: int
) -> tuple[Int[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """Latents of k steps of non-negative orthogonal matching pursuit.

    Args:
        target: [n, d] rows to explain.
        atoms: [m, d] dictionary, rows of norm about 1.
        k: steps.

    Returns:
        The latents [n, k] in the order of the steps, and which of them have a positive value in the
        end; a latent may come twice, but is active once.
    """
    n, d = target.shape
    least = ROUNDING[target.dtype] * target.norm(dim=1)
    chosen = torch.zeros(n, k, dtype=torch.int64, device=target.device)
    active = torch.zeros(n, k, dtype=torch.bool, device=target.device)
    values, product = target.new_zeros(n, k), target.new_zeros(n, k)
    picked, gram = target.new_zeros(n, k, d), target.new_zeros(n, k, k)
    for t in range(k):
        residual = target - torch.einsum("nt,ntd->nd", values, picked)
        score = residual @ atoms.T
        # An active latent has no more to give: its product with the residual is rounding.
        row, slot = active.nonzero(as_tuple=True)
        score[row, chosen[row, slot]] = -torch.inf
        gain, chosen[:, t] = score.max(dim=1)
        active[:, t] = gain > least
        picked[:, t] = atoms[chosen[:, t]]
        gram[:, t] = gram[:, :, t] = torch.einsum("ntd,nd->nt", picked, picked[:, t])
        product[:, t] = (picked[:, t] * target).sum(dim=1)
        fit_positive_(values, active, gram, product)
    return chosen, active


def fit_positive_(
    values: Float[Tensor, "n k"],
    active: Bool[Tensor, "n k"],
    gram: Float[Tensor, "n k k"],
    product: Float[Tensor, "n k"],
) -> None:
    """Fit the active values by least squares; those that would turn negative leave at 0.

    One outer step of Lawson and Hanson: toward the fit as far as no value turns negative, then
    anew without the latents that have reached 0, until the fit itself is positive.

    Args:
        values: [n, k] non-negative values; changed in place.
        active: [n, k] which latents may be positive; changed in place.
        gram: [n, k, k] inner products of the atoms.
        product: [n, k] inner products of the atoms with the row.
    """
    rows = torch.arange(len(values), device=values.device)
    while len(rows):
        old, free = values[rows], active[rows]
        found = _solve(gram[rows], product[rows], free)
        negative = free & (found <= 0)
        reach = torch.where(old > 0, old / (old - found), 0.0)
        reach = torch.where(negative, reach, torch.inf)
        step = reach.amin(dim=1, keepdim=True).clamp_(max=1.0)
        free &= ~(negative & (reach <= step))
        values[rows] = torch.where(free, old + step * (found - old), 0.0)
        active[rows] = free
        rows = rows[negative.any(dim=1)]


def refit(
    target: Float[Tensor, "n d"],
    atoms: Float[Tensor, "m d"],
    chosen: Int[Tensor, "n k"],
    active: Bool[Tensor, "n k"],
) -> Float[Tensor, "n k"]:
    """Least-squares values of the active latents, differentiable in target and atoms.

    Args:
        target: [n, d] rows.
        atoms: [m, d] dictionary.
        chosen: [n, k] latents.
        active: [n, k] which of them count; the values of the others are 0.
    """
    picked = F.embedding(chosen, atoms)
    gram = picked @ picked.transpose(1, 2)
    product = torch.einsum("ntd,nd->nt", picked, target)
    # Positive up to rounding: the pursuit has ended at a positive fit.
    return _solve(gram, product, active).relu()


def _solve(gram: Tensor, product: Tensor, active: Tensor) -> Tensor:
    """Solutions [n, k] of the systems of the active latents, 0 elsewhere."""
    system = torch.where(active[:, :, None] & active[:, None, :], gram, 0.0)
    system = system + torch.diag_embed((~active).to(gram))
    right = torch.where(active, product, 0.0)
    return torch.linalg.solve_ex(system, right[:, :, None]).result.squeeze(2)
