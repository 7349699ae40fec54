"""SynthSAEBench: the published model of 16,384 features, and a smaller one for a CPU."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.sae.synthetic.tree import Firing, FiringDictionary, grow_trees, low_rank

# All from the published benchmark: arXiv 2602.14687, version 2 of its configuration.
SEED = 42
EXPONENT = 0.5
P_MAX = 0.4
BRANCHING, DEPTH = 4, 3
MEAN_FIRST, MEAN_LAST = 5.0, 4.0
SD_MEAN, SD_SD = 0.5, 0.5
SCALE = 0.1
BIAS_NORM = 0.5
ORTHOGONAL_STEPS, ORTHOGONAL_RATE = 100, 3e-4


def synth_sae_bench(
    n_atoms: int = 16_384,
    d: int = 768,
    *,
    p_min: float = 5e-4,
    roots: int = 128,
    rank: int = 25,
    batch_size: int = 1024,
    steps: int = 195_313,
    seed: int = 0,
) -> FiringDictionary:
    """Build the model of SynthSAEBench-16k, version 2.

    Firing rates p_i fall as i^-0.5 from .4 to `p_min`; trees with 4 children each and 3 levels
    below the roots; at most one sibling fires; rates are raised so that each feature fires about
    as often as p_i says; correlations of low rank; atoms made more orthogonal by Adam; strengths
    N(mean_i, sd_i^2) cut at 0, times that of the parent over its mean; no noise.

    Args:
        n_atoms: a; the default is the published model.
        d: width.
        p_min: rate of the rarest feature.
        roots: trees.
        rank: of the correlations.
        batch_size: rows per training batch.
        steps: batches per iteration; the default makes 200 million rows, as published.
        seed: of the rows; the model itself always has the published seed.

    Returns:
        The model. At the default size its atoms take minutes on a CPU. It refuses to train SAEs of
        the published seed 42, whose first directions would be the atoms.

    Source: "SynthSAEBench" (arXiv 2602.14687), version 2 of the model.
    """
    parent = grow_trees(n_atoms, roots, BRANCHING, DEPTH)
    base = zipf_rates(n_atoms, EXPONENT, P_MAX, p_min)
    rate = (base * compensation(base, parent)).clamp(max=1.0)
    generator = torch.Generator().manual_seed(SEED)
    atoms = F.normalize(torch.randn(n_atoms, d, generator=generator), dim=1)
    bias = F.normalize(torch.randn(d, generator=generator), dim=0) * BIAS_NORM
    deviation = torch.randn(n_atoms, generator=torch.Generator().manual_seed(SEED + 1))
    firing = Firing(
        rate=rate,
        parent=parent,
        factor=low_rank(n_atoms, rank, SCALE, torch.Generator().manual_seed(SEED + 4)),
        mean=torch.linspace(MEAN_FIRST, MEAN_LAST, n_atoms),
        sd=(SD_MEAN + SD_SD * deviation).abs(),
        exclusive=True,
        scaled=True,
    )
    found = FiringDictionary(
        orthogonalize(atoms), firing, offset=bias, batch_size=batch_size, steps=steps, seed=seed
    )
    found.atom_seed = SEED
    return found


def small_synth_sae_bench(
    steps: int = 390, batch_size: int = 1024, seed: int = 0
) -> FiringDictionary:
    """The same model with 1024 features in 96 dimensions, for a CPU.

    Args:
        steps: batches per iteration; the default makes 400,000 rows.
        batch_size: rows per training batch.
        seed: of the rows.
    """
    return synth_sae_bench(
        1024, 96, p_min=2e-3, roots=16, rank=8, batch_size=batch_size, steps=steps, seed=seed
    )


def zipf_rates(n_atoms: int, exponent: float, high: float, low: float) -> Float[Tensor, " a"]:
    """Rates that fall as i^-exponent, shifted and scaled to run from `high` to `low`."""
    shape = torch.arange(1, n_atoms + 1, dtype=torch.float32) ** -exponent
    return low + (high - low) * (shape - shape[-1]) / (shape[0] - shape[-1])


def compensation(rate: Float[Tensor, " a"], parent: Tensor) -> Float[Tensor, " a"]:
    """Factors that make up for silent parents and for siblings that exclude each other.

    c_j = (1 + sum of the siblings' rates / rate of the parent) / rate of the parent
    """
    child = parent >= 0
    above = rate[parent[child]]
    family = torch.zeros_like(rate).index_add_(0, parent[child], rate[child])
    factor = torch.ones_like(rate)
    others = (family[parent[child]] - rate[child]).clamp(min=0)
    factor[child] = (1 + others / above) / above
    return factor


def orthogonalize(
    atoms: Float[Tensor, "a d"], steps: int = ORTHOGONAL_STEPS, lr: float = ORTHOGONAL_RATE
) -> Float[Tensor, "a d"]:
    """Push unit rows apart by Adam, and give them norm 1 again.

    loss = sum over i != j of <a_i, a_j>^2 + a sum over i of (|a_i|^2 - 1)^2, whose gradient is
    4 (A A^T A - |a_i|^2 a_i) + 4 a (|a_i|^2 - 1) a_i: the d x d product A^T A stands in for the
    a x a one.

    Args:
        atoms: [a, d] unit rows.
        steps: of Adam.
        lr: its rate.
    """
    weight = atoms.clone()
    optimizer = torch.optim.Adam([weight], lr=lr)
    for _ in range(steps):
        square = weight.square().sum(dim=1, keepdim=True)
        pull = 4 * (weight @ (weight.T @ weight) - square * weight)
        weight.grad = pull + 4 * len(weight) * (square - 1) * weight
        optimizer.step()
    return F.normalize(weight, dim=1)
