"""Matching pursuit: a code found in k greedy steps on the residual, with one tied dictionary.

Source: Costa et al. 2025, "From Flat to Hierarchical: Extracting Sparse Representations with
Matching Pursuit", arXiv 2506.03093, section 3; the algorithm is that of Mallat and Zhang 1993.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE, Code, Context, Losses
from interp.sae.config import TrainConfig
from interp.sae.losses import mean_square, normalize_rows_, project_gradient_, unit_rows
from interp.sae.options import split_options

# Above this the table of inner products of all atoms, 256 MB in fp32, is not made: each step
# multiplies the residual by the dictionary instead.
MAX_GRAM = 8192


class Pursuit(SAE):
    """At most k latents per row, chosen one after the other where the residual points.

    r_0 = z - b_dec;  in step t = 1..k:  j = argmax <W_j, r_{t-1}>,  v_t = max(<W_j, r_{t-1}>, 0),
    r_t = r_{t-1} - v_t W_j;   z_hat = b_dec + sum_t v_t W_{j_t}

    The dictionary's rows have norm 1 and are the encoder too. A latent chosen twice has one value,
    the sum. Gradients go through the k steps unrolled, at the latents that were chosen. Where
    latents are dead, they alone pursue what the code leaves over (`dead_pursuit_loss`).

    Args:
        d_in: d, width of the activations.
        n_latents: m.
        k: steps, 1 <= k <= m.
        seed: of the initial directions.
        aux_k: steps of the dead latents on the residual; 0 means k.

    Raises:
        SAEError: k or aux_k is out of range.
    """

    variant: ClassVar[str] = "pursuit"
    encoders: ClassVar[tuple[str, ...]] = ()
    # Differences between atoms are too small for 16 bits: other latents would be chosen.
    lacks: ClassVar[tuple[str, ...]] = ("precision",)

    def __init__(self, d_in: int, n_latents: int, k: int, *, seed: int = 0, aux_k: int = 0) -> None:
        super().__init__(d_in, n_latents)
        check_steps(n_latents, k, aux_k)
        self.k, self.seed, self.aux_k = k, seed, aux_k
        self.W_dec = nn.Parameter(unit_rows(n_latents, d_in, seed))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @classmethod
    def build(cls, d_in: int, config: TrainConfig) -> "Pursuit":
        """A fresh SAE of width d_in from a training config."""
        common, _ = split_options(cls, config.options)
        return cls(d_in, config.n_latents, config.k, seed=config.seed, aux_k=common.aux_k)

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Code of raw rows [n, d]: values [n, k] in the order of the steps."""
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
        residual = z - self.b_dec
        chosen = choose_greedily(residual, self.W_dec, self.k)
        values, _ = project_in_order(residual, self.W_dec, chosen)
        return Code(merge_repeated(values, chosen), chosen, self.n_latents)


def check_steps(n_latents: int, k: int, aux_k: int) -> None:
    """Refuse numbers of greedy steps that no code can have.

    Raises:
        SAEError: k is not in 1..m, or aux_k is negative.
    """
    if not 1 <= k <= n_latents:
        raise SAEError(f"k = {k} is not in 1..{n_latents} (n_latents)")
    if aux_k < 0:
        raise SAEError(f"aux_k = {aux_k} is negative")


@torch.no_grad()
def choose_greedily(
    residual: Float[Tensor, "n d"], atoms: Float[Tensor, "m d"], k: int
) -> Int[Tensor, "n k"]:
    """Latents of k steps of matching pursuit, ties by the lower latent.

    With G = W W^T one step costs a row of G instead of a product with the dictionary:
    <W, r_t> = <W, r_{t-1}> - v_t G_j. Beyond `MAX_GRAM` atoms, and where there are fewer steps in
    the whole batch than atoms, the products are taken anew.

    Args:
        residual: [n, d] rows to explain.
        atoms: [m, d] dictionary W.
        k: steps.
    """
    n, m = len(residual), len(atoms)
    gram = atoms @ atoms.T if m <= min(MAX_GRAM, n * k) else None
    score = residual @ atoms.T
    chosen = []
    for step in range(k):
        value, latent = score.max(dim=1)
        chosen.append(latent)
        if step + 1 == k:
            break
        value = value.relu_()[:, None]
        if gram is not None:
            score.addcmul_(gram[latent], value, value=-1)
        else:
            residual = residual - value * atoms[latent]
            score = residual @ atoms.T
    return torch.stack(chosen, dim=1)


def project_in_order(
    residual: Float[Tensor, "n d"], atoms: Float[Tensor, "m d"], chosen: Int[Tensor, "n k"]
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n d"]]:
    """Positive projections of the residual on given atoms, each subtracted before the next.

    Args:
        residual: [n, d].
        atoms: [m, d].
        chosen: [n, k] atoms, in order.

    Returns:
        Values [n, k] and the last residual [n, d]; differentiable in residual and atoms.
    """
    # embedding, not indexing: its gradient on a CPU is several times as fast.
    picked = F.embedding(chosen, atoms)
    values = []
    for atom in picked.unbind(dim=1):
        value = (atom * residual).sum(dim=1).relu()
        residual = residual - value[:, None] * atom
        values.append(value)
    return torch.stack(values, dim=1), residual


def merge_repeated(
    values: Float[Tensor, "n k"], indices: Int[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Add the values of a latent that a row names twice into its first slot; the other is 0."""
    first = (indices[:, :, None] == indices[:, None, :]).int().argmax(dim=2)
    return torch.zeros_like(values).scatter_add(1, first, values)


def dead_pursuit_loss(
    error: Float[Tensor, "n d"], atoms: Float[Tensor, "m d"], dead: Bool[Tensor, " m"], steps: int
) -> Float[Tensor, ""]:
    """Let the dead atoms alone pursue the residual: AuxK for codes without an encoder.

    loss = (1/n) sum_r ||e_r - e_hat_r||^2, e_hat of `steps` greedy steps over the dead atoms, with
    the residual e held fixed

    Args:
        error: [n, d] residual; detached here.
        atoms: [m, d] dictionary; gradients reach its dead rows and nothing else.
        dead: [m] bool.
        steps: greedy steps, cut to the number of dead atoms.

    Returns:
        The scalar loss; an exact 0 without gradient where no atom is dead.
    """
    latents = dead.nonzero().flatten()
    if not len(latents):
        return error.new_zeros(())
    rows, residual = F.embedding(latents, atoms), error.detach()
    chosen = choose_greedily(residual, rows, min(steps, len(latents)))
    return mean_square(project_in_order(residual, rows, chosen)[1])
