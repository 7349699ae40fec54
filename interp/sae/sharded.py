"""TopK with its latents split over ranks: the same code, losses and gradients as in one process.

Rank b of L holds the latents [lo_b, hi_b). For a batch of n rows, with z and b_dec on every rank:

    own values   = the k largest max(W_b z' + b_b, 0) of the rank's own latents, z' = z - b_dec
    code         = the k largest of the L k gathered values, ties by the lower latent
    z_hat        = b_dec + sum over ranks of (code restricted to the rank) W_dec_b

One all-gather of n k values and one all-reduce of n d numbers per step, against 2 m d numbers of
data parallelism. Nothing is dropped: each of the k largest values is among its rank's k largest.
Gradients of a rank's latents need no communication; b_dec's encoder part is one sum of d numbers.
Source: the scheme of Gao et al. 2024 (arXiv 2406.04093), appendix D.1, with exact ties.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from interp_kernels import encode_topk, select_topk, sparse_decode
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from interp.sae.base import Code, Losses
from interp.sae.losses import normalize_rows_, project_gradient_
from interp.sae.sharded_mesh import SPLIT, Mesh, span_of, spread
from interp.sae.topk import TopK


class Dead(NamedTuple):
    """Which latents are dead in a step."""

    own: Tensor
    """[p] bool, the rank's own latents."""
    counts: list[int]
    """Their number on each rank of this row, or more than it."""
    some: Tensor
    """[] bool, whether any rank of this row has one."""


class Chosen(NamedTuple):
    """The dead latents of a rank."""

    latents: Tensor
    """[e] int64, distinct, the dead ones first."""
    absent: Tensor
    """[e] bool, those that are not dead."""
    total: int
    """Of all ranks of this row, or more."""
    some: Tensor
    """[] bool, whether any latent of the row is dead."""


class ShardedTopK(nn.Module):
    """One rank's part of a TopK SAE.

    Args:
        whole: the SAE of one process, the same on every rank; its rows are copied.
        mesh: this process's place.

    Raises:
        SAEError: fewer latents than ranks, see `span_of`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, whole: TopK, mesh: Mesh) -> None:
        super().__init__()
        self.d_in, self.n_latents, self.k = whole.d_in, whole.n_latents, whole.k
        self.aux_k = whole.aux_k or max(1, whole.d_in // 2)
        self.span = span_of(whole.n_latents, mesh.layout.latents, mesh.latent_rank)
        self.mesh = mesh
        part = slice(*self.span)
        # In the order of TopK's parameters: an optimizer's state is a list.
        self.W_enc = nn.Parameter(whole.W_enc.detach()[part].to(mesh.device, copy=True))
        self.b_enc = nn.Parameter(whole.b_enc.detach()[part].to(mesh.device, copy=True))
        self.W_dec = nn.Parameter(whole.W_dec.detach()[part].to(mesh.device, copy=True))
        self.b_dec = nn.Parameter(whole.b_dec.detach().to(mesh.device, copy=True))
        self.register_buffer("mean", whole.mean.to(mesh.device, copy=True))
        self.register_buffer("scale", whole.scale.to(mesh.device, copy=True))

    def loss_terms(self, x: Float[Tensor, "n d"], rows: int, dead: Dead) -> Losses:
        """This rank's part of the losses: summed over the data dimension, those of one process.

        Args:
            x: [n, d] raw rows, the same on every rank of this row of latents.
            rows: rows of the whole batch, over which the losses are means.
            dead: the dead latents.

        Returns:
            The terms, and the code on the rank's own latents, counted from `span.low`.
        """
        z = self.normalize(x)
        code = self.encode(z)
        error = z - self.decode(code)
        aux = z.new_zeros(())
        if sum(dead.counts):
            chosen = self.choose(dead)
            weight = self.W_enc.index_select(0, chosen.latents)
            dictionary = self.W_dec.index_select(0, chosen.latents)
            bias = self.b_enc.index_select(0, chosen.latents) - weight @ self.b_dec.detach()
            aux = self.aux(z, error.detach(), chosen, weight, dictionary, bias) / rows
        return Losses(error.square().sum() / rows, z.new_zeros(()), aux, code)

    def normalize(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Rows in normalized units."""
        return (x.to(self.mean.dtype) - self.mean) / self.scale

    def encode(self, z: Float[Tensor, "n d"]) -> Code:
        """The code of normalized rows on the own latents, counted from `span.low`."""
        offset = _SumBackward.apply(self.b_dec, self.mesh)
        bias = self.b_enc - self.W_enc @ offset
        values, indices = encode_topk(z, self.W_enc, bias, min(self.k, len(self.b_enc)))
        kept = keep_largest(values.detach(), self.k, self.mesh)
        if kept.device.type == "cpu" and len(kept):
            # What is kept stands first. On a GPU the width would cost a wait for the device.
            width = max(1, int(kept.sum(dim=1).max()))
            values, indices, kept = values[:, :width], indices[:, :width], kept[:, :width]
        return Code(values * kept, indices.contiguous(), len(self.b_enc))

    def decode(self, code: Code) -> Float[Tensor, "n d"]:
        """Reconstruction z_hat from the codes of all ranks."""
        assert code.indices is not None
        own = sparse_decode(code.values, code.indices, self.W_dec)
        return _SumForward.apply(own, self.mesh) + self.b_dec

    def choose(self, dead: Dead) -> Chosen:
        """The own dead latents in ascending order, with as many others as the bound allows for."""
        own = dead.counts[self.mesh.latent_rank]
        latents = (~dead.own).to(torch.uint8).argsort(stable=True)[:own]
        return Chosen(latents, ~dead.own[latents], sum(dead.counts), dead.some)

    def aux(
        self,
        z: Float[Tensor, "n d"],
        residual: Float[Tensor, "n d"],
        chosen: Chosen,
        weight: Float[Tensor, "e d"],
        dictionary: Float[Tensor, "e d"],
        bias: Float[Tensor, " e"],
    ) -> Float[Tensor, ""]:
        """AuxK's loss, summed over the rows; see `interp.sae.losses.auxk_loss`.

        Every rank of the row of latents has to ask, also one without dead latents.

        Args:
            z: [n, d] normalized rows.
            residual: [n, d], held fixed.
            chosen: the own dead latents.
            weight: [e, d] their encoder rows.
            dictionary: [e, d] their decoder rows.
            bias: [e] of z, with b_dec's share.
        """
        pre = F.linear(z, weight, bias).masked_fill(chosen.absent, -torch.inf)
        if chosen.total <= self.aux_k:
            own = pre.relu() @ dictionary
        else:
            values, indices = _select(pre, min(self.aux_k, len(bias)))
            kept = keep_largest(values.detach(), self.aux_k, self.mesh)
            own = sparse_decode(values * kept, indices, dictionary) if len(bias) else z * 0
        # Without any dead latent there is no loss, whatever the bound.
        return (residual - _SumForward.apply(own, self.mesh)).square().sum() * chosen.some

    def finish_gradients(self) -> None:
        """Sum the gradients over the data dimension, and keep the decoder's rows tangential."""
        for parameter in self.parameters():
            assert parameter.grad is not None
            self.mesh.sum_(parameter.grad, "data")
        project_gradient_(self.W_dec)

    def after_step(self) -> None:
        """Give the decoder's own rows norm 1 again."""
        normalize_rows_(self.W_dec)

    def fired(self, code: Code) -> Bool[Tensor, " p"]:
        """[p] bool: own latents with a positive value in some row of the whole batch."""
        assert code.indices is not None
        counts = torch.zeros(len(self.b_enc), dtype=torch.int32, device=code.values.device)
        hits = (code.values > 0).flatten().to(torch.int32)
        counts.scatter_add_(0, code.indices.flatten().long(), hits)
        return self.mesh.max_(counts, "data") > 0

    def whole_state(self) -> dict[str, Tensor]:
        """The state of the SAE of all latents, on the CPU; every rank has to ask for it."""
        return {
            name: spread(value, self.mesh, self.n_latents).full_tensor().cpu()
            if name in SPLIT
            else value.cpu()
            for name, value in self.state_dict().items()
        }


def _select(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if k == 0:
        return pre, torch.zeros_like(pre, dtype=torch.int64)
    indices = select_topk(pre.detach(), k)[1]
    return pre.gather(1, indices).relu(), indices


def keep_largest(values: Float[Tensor, "n s"], k: int, mesh: Mesh) -> Bool[Tensor, "n s"]:
    """Which of a rank's own values are among the k largest of all ranks' in their row.

    Exact: at the k-th largest value t, everything above t stays, and of what equals t the first in
    the order of ranks and slots, until k are kept.

    Args:
        values: [n, s] >= 0, descending, ties by the lower latent; s <= k may differ by rank.
        k: values to keep per row.
        mesh: this process's place.
    """
    slots = values.shape[1]
    own = F.pad(values, (0, k - slots))
    candidates = mesh.gather(own, "latents").permute(1, 0, 2).flatten(1)
    threshold = candidates.topk(k, dim=1).values[:, -1:]
    above, equal = candidates > threshold, candidates == threshold
    free = k - above.sum(dim=1, keepdim=True)
    kept = above | (equal & (equal.cumsum(dim=1) <= free))
    first = mesh.latent_rank * k
    return kept[:, first : first + slots]


def keep_largest_reference(
    candidates: Float[Tensor, "n c"], k: int
) -> tuple[Bool[Tensor, "n c"], Int[Tensor, "n k"]]:
    """Readable twin of `keep_largest` on gathered values [n, c]: a stable sort of each row."""
    chosen = candidates.sort(dim=1, descending=True, stable=True).indices[:, :k]
    kept = torch.zeros_like(candidates, dtype=torch.bool).scatter_(1, chosen, True)
    return kept, chosen


class _SumForward(torch.autograd.Function):
    """Sum over the latents' ranks; each rank's part then has the sum's gradient."""

    @staticmethod
    def forward(ctx, part: Tensor, mesh: Mesh):  # type: ignore[override]
        return mesh.sum_(part.clone(), "latents")

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        return grad, None


class _SumBackward(torch.autograd.Function):
    """The same value on every rank; its gradient is the sum of what the ranks contribute."""

    @staticmethod
    def forward(ctx, value: Tensor, mesh: Mesh):  # type: ignore[override]
        ctx.mesh = mesh
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        return ctx.mesh.sum_(grad.clone(), "latents"), None


class DeadLatents:
    """The latents that AuxK revives, with their numbers known on the host without a wait for a GPU.

    On a GPU the numbers for a step are those before the step before it, with the window shortened
    by one: an upper bound, copied while the device went on.

    Args:
        mesh: this process's place.
        window: steps without firing after which a latent is dead.
        silent: [p] steps since each own latent fired.
    """

    def __init__(self, mesh: Mesh, window: int, silent: Int[Tensor, " p"]) -> None:
        self._mesh, self._window = mesh, window
        self._lag = int(mesh.device.type == "cuda")
        self._queue: list[tuple[Tensor, torch.cuda.Event | None]] = []
        for _ in range(1 + self._lag):
            self.push(silent)

    def push(self, silent: Int[Tensor, " p"]) -> None:
        """Take the counters after a step."""
        self._own = silent >= self._window
        bound = silent >= self._window - self._lag
        numbers = self._mesh.gather(torch.stack((self._own.sum(), bound.sum())), "latents")
        self._some = numbers[:, 0].any()
        if not self._lag:
            self._queue.append((numbers[:, 1], None))
            return
        host = torch.empty(len(numbers), dtype=numbers.dtype, pin_memory=True)
        host.copy_(numbers[:, 1], non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._queue.append((host, event))

    def pop(self) -> Dead:
        """What is dead in the next step; at most the step before the last has to be over."""
        counts, event = self._queue.pop(0)
        if event is not None:
            event.synchronize()
        return Dead(self._own, counts.tolist(), self._some)
