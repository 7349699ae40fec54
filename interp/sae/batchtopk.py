"""BatchTopK sparse autoencoder: the budget of k latents per row is shared by a group of rows.

Source: Bussmann et al. 2024, "BatchTopK sparse autoencoders", arXiv 2412.06410.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from interp_kernels import batch_topk, select_topk
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE, Code, Context, Losses
from interp.sae.config import TrainConfig
from interp.sae.losses import auxk_loss, mean_square, normalize_rows_, project_gradient_, unit_rows
from interp.sae.options import split_options
from interp.sae.ragged import Entries, encode_above, encode_entries, entries_of, pad, positive
from interp.sae.topk import ENCODER_NORM

# Share of the newest batch in the running mean of the threshold: about 20 batches. The smallest of
# 8000 selected values varies by about 1 % from batch to batch, and weights move while it is taken.
THRESHOLD_RATE = 0.05
# Candidates per row, in budgets, of the first try of a selection by groups.
CANDIDATES = 4


class Selection(NamedTuple):
    """What a batch's budget buys."""

    entries: Entries
    """The selected entries with a positive value, without gradient."""
    threshold: Tensor
    """[] mean over rows of the smallest positive value selected in the row's group; 0: none."""


def select_budget(
    pre: Float[Tensor, "n m"], k: int, groups: Int[Tensor, " n"] | None = None
) -> Selection:
    """Select in each group of rows the k |group| largest entries; those above 0 count.

    Args:
        pre: [n, m] pre-activations; no gradient passes.
        k: mean number of active latents per row.
        groups: [n] int64 group of each row, any numbers; None: all rows are one group.

    Returns:
        The selection. Equal entries go to the lower row, then the lower latent.
    """
    pre = pre.detach()
    if groups is None:
        found, smallest = batch_topk(pre, k * len(pre))
        entries = positive(entries_of(found))
        values = entries.values
        least = values.amin() if len(values) else smallest.new_zeros(())
        return Selection(entries, least)
    numbers, owner, sizes = groups.unique(return_inverse=True, return_counts=True)
    width = min(CANDIDATES * k, pre.shape[1])
    found, cut = _select_groups(pre, k, owner, sizes, width)
    while cut and width < pre.shape[1]:
        width = min(4 * width, pre.shape[1])
        found, cut = _select_groups(pre, k, owner, sizes, width)
    entries = positive(found)
    least = torch.full((len(numbers),), torch.inf, dtype=pre.dtype, device=pre.device)
    least.scatter_reduce_(0, owner[entries.rows], entries.values, "amin")
    found_some = least.isfinite()
    weight = torch.where(found_some, sizes, 0).to(pre.dtype)
    mean = (least.masked_fill(~found_some, 0) * weight).sum() / weight.sum().clamp(min=1)
    return Selection(entries, mean)


def _select_groups(
    pre: Tensor, k: int, owner: Tensor, sizes: Tensor, width: int
) -> tuple[Entries, bool]:
    """The k |g| largest of each group among the `width` largest of each row.

    Also whether some row's candidates were all taken, so that it may have lost others.
    """
    n = len(pre)
    values, latents = select_topk(pre, width)
    flat, owners = values.flatten(), owner.repeat_interleave(width)
    # By value, then by group: two stable sorts, in which rows and latents keep their order.
    order = flat.sort(descending=True, stable=True).indices
    order = order[owners[order].sort(stable=True).indices]
    first = (sizes.cumsum(0) - sizes) * width
    rank = torch.arange(n * width, device=pre.device) - first[owners[order]]
    taken = torch.zeros(n * width, dtype=torch.bool, device=pre.device)
    taken[order] = rank < k * sizes[owners[order]]
    cut = bool(taken.view(n, width)[:, -1].any())
    rows, slots = taken.view(n, width).nonzero(as_tuple=True)
    chosen = latents[rows, slots]
    order = (rows * pre.shape[1] + chosen).argsort()
    return Entries(rows[order], chosen[order], values[rows, slots][order]), cut


@dataclass(frozen=True)
class Options:
    """Options of BatchTopK."""

    budget: Literal["batch", "image", "timestep"] = "batch"
    """Rows that share a budget of k per row: the whole batch (the source), the rows of an image
    (generation), or those of a denoiser call. Images and calls are known for stores only."""


class BatchTopK(SAE):
    """k latents per row on average: the largest of a group of rows, however they are distributed.

    p = W_enc (z - b_dec) + b_enc,   z_hat = code W_dec + b_dec

    training: code = the k |g| largest entries of max(p, 0) over the rows of each group g
    encode:   code = p where p > threshold, row by row, with the running mean of the smallest value
              selected, which is saved with the weights

    The groups are the batch, or the rows of one image or one denoiser call *in the batch* (in the
    micro-batch, with `accumulate`). Batches are drawn from 65536 shuffled rows, so an image of r
    rows has about r batch_size / 65536 of them in a batch where the store is large; with one row
    its budget is TopK's. Batches of whole images are not offered: one map of 64 x 64 positions
    fills four, its rows are alike, and a step would follow the gradient of a single image.

    Args:
        d_in: d, width of the activations.
        n_latents: m.
        k: mean number of active latents per row, 1 <= k <= m.
        budget: which rows share it, see `Options`.
        seed: of the initial weights, which are TopK's.
        aux_k: dead latents that explain the residual of a row in AuxK; 0 means d_in / 2.

    Raises:
        SAEError: k, aux_k or budget is out of range.
    """

    variant: ClassVar[str] = "batchtopk"
    Options: ClassVar[type] = Options
    threshold: Tensor

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        k: int,
        *,
        budget: str = "batch",
        seed: int = 0,
        aux_k: int = 0,
    ) -> None:
        super().__init__(d_in, n_latents)
        check_budget(n_latents, k, aux_k)
        if budget not in ("batch", "image", "timestep"):
            raise SAEError(f"budget = {budget!r} is none of batch, image, timestep")
        self.k = k
        self.budget = budget
        self.seed = seed
        self.aux_k = aux_k
        directions = unit_rows(n_latents, d_in, seed)
        self.W_enc = nn.Parameter(directions * ENCODER_NORM)
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.W_dec = nn.Parameter(directions.clone())
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        # 0: no step was taken yet; a smallest positive value is above 0.
        self.register_buffer("threshold", torch.zeros(()))
        self._smallest: Tensor | None = None

    @classmethod
    def build(cls, d_in: int, config: TrainConfig) -> "BatchTopK":
        """A fresh SAE of width d_in from a training config."""
        common, own = split_options(cls, config.options)
        return cls(
            d_in, config.n_latents, config.k, budget=own.budget, seed=config.seed,
            aux_k=common.aux_k,
        )  # fmt: skip

    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Code of raw rows [n, d]: latents above the threshold, as many as a row has."""
        return encode_above(self.normalize(x), self.W_enc, self._bias(), self.threshold)

    def select(self, x: Float[Tensor, "n d"], groups: Int[Tensor, " n"] | None = None) -> Code:
        """Code of raw rows as in training: a budget of k per row, shared by the rows of a group.

        Args:
            x: [n, d] raw rows.
            groups: [n] int64, such as the image of each row; None: all rows share one budget.

        Returns:
            The code, padded to the longest row.
        """
        return self._select(self.normalize(x), groups)[0]

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
            context: its `dead` latents and, for budgets per image or timestep, its `groups`.

        Returns:
            The terms; the code is the batch's selection.

        Raises:
            SAEError: the budget needs groups and the context has none.
        """
        z = self.normalize(x)
        code, self._smallest = self._select(z, self._groups(context))
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
        """Give the decoder's rows norm 1 again, and take the step's threshold into the mean."""
        normalize_rows_(self.W_dec)
        if self._smallest is not None:
            update_threshold_(self.threshold, self._smallest)
            self._smallest = None

    def spec(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "d_in": self.d_in,
            "n_latents": self.n_latents,
            "k": self.k,
            "budget": self.budget,
            "seed": self.seed,
            "aux_k": self.aux_k,
        }

    def _bias(self) -> Tensor:
        # The shift by b_dec in the bias, see TopK.
        return self.b_enc - self.W_enc @ self.b_dec

    def _select(self, z: Tensor, groups: Tensor | None) -> tuple[Code, Tensor]:
        bias = self._bias()
        with torch.no_grad():
            pre = F.linear(z, self.W_enc, bias).to(z.dtype)
            found = select_budget(pre, self.k, groups)
            values, indices = pad(found.entries, len(z))
        values = encode_entries(z, self.W_enc, bias, values, indices)
        return Code(values, indices, self.n_latents), found.threshold

    def _groups(self, context: Context) -> Tensor | None:
        if self.budget == "batch":
            return None
        if context.groups is None:
            raise SAEError(
                f"budget = {self.budget!r} needs the {self.budget} of each row: train from a "
                "store, yield Batch(x, None, groups), or use budget = 'batch'"
            )
        return context.groups


def check_budget(n_latents: int, k: int, aux_k: int) -> None:
    """Refuse numbers that no selection can have.

    Raises:
        SAEError: k is not in 1..n_latents, or aux_k is negative.
    """
    if not 1 <= k <= n_latents:
        raise SAEError(f"k = {k} is not in 1..{n_latents} (n_latents)")
    if aux_k < 0:
        raise SAEError(f"aux_k = {aux_k} is negative")


@torch.no_grad()
def update_threshold_(threshold: Tensor, smallest: Tensor) -> None:
    """Take a batch's smallest selected value into the running mean, in place.

    theta <- smallest at the first step, then theta + rate (smallest - theta); a batch without a
    positive value (smallest 0) changes nothing.
    """
    rate = torch.where(threshold > 0, THRESHOLD_RATE, 1.0)
    threshold += torch.where(smallest > 0, rate * (smallest - threshold), 0.0)
