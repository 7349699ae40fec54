"""Features that fire by chance, together (a Gaussian copula) and under one another (trees)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.sae.synthetic.base import (
    CHUNK,
    Mixture,
    Planted,
    atom_generator,
    power_rates,
    unit_atoms,
)

# Least variance of a feature that the shared factors may leave to itself.
LEAST_OWN = 0.01


@dataclass(frozen=True)
class Firing:
    """When each of a features fires and how strongly; of r shared factors, in trees.

    A feature whose parent is silent is silent. Where it is asked, feature j is on if
    g_j = f_j . e + sqrt(1 - |f_j|^2) h_j exceeds the threshold of rate_j, with e ~ N(0, I_r) of the
    row and h_j ~ N(0, 1): a Gaussian copula of correlations f_i . f_j. Of the children of one
    parent at most one stays, drawn from those that are on. Its strength is
    max(mean_j + sd_j g, 0), times strength / mean of its parent.
    """

    rate: Float[Tensor, " a"]
    """Probability of firing where the parent fires."""
    parent: Int[Tensor, " a"]
    """Smaller than the feature itself; -1 for roots and for features outside of the trees. The
    children of one parent are consecutive."""
    factor: Float[Tensor, "a r"]
    """Rows shorter than 1; r = 0: independent firing."""
    mean: Float[Tensor, " a"]
    sd: Float[Tensor, " a"]
    exclusive: bool
    """At most one child of a parent fires."""
    scaled: bool
    """A child's strength is multiplied by the parent's over its mean."""


class FiringDictionary(Planted):
    """Rows in which features fire by chance, see `Firing`.

    Only the children of features that fire are drawn, so that deep trees cost nothing.

    Args:
        atoms: [a, d] unit rows.
        firing: of the a features.
        noise: standard deviation of the Gaussian noise per coordinate.
        offset: [d] added to every row.
        batch_size: rows per training batch.
        steps: batches per iteration.
        seed: of the rows.
    """

    def __init__(
        self,
        atoms: Float[Tensor, "a d"],
        firing: Firing,
        *,
        noise: float = 0.0,
        offset: Float[Tensor, " d"] | None = None,
        batch_size: int = 1024,
        steps: int = 1500,
        seed: int = 0,
    ) -> None:
        if len(firing.rate) != len(atoms):
            raise InputError(f"{len(atoms)} atoms do not fit {len(firing.rate)} firing rates")
        if bool((firing.parent >= torch.arange(len(atoms))).any()):
            raise InputError("a feature's parent must come before the feature")
        super().__init__(
            atoms,
            noise=noise,
            offset=torch.zeros(atoms.shape[1]) if offset is None else offset,
            batch_size=batch_size,
            steps=steps,
            seed=seed,
        )
        self.firing = firing
        self._own = (1 - firing.factor.square().sum(dim=1)).sqrt()
        self._threshold = threshold_of(firing.rate)
        self._free = (firing.parent < 0).nonzero()[:, 0]
        # Children of feature j: the n_children[j] features from first[j] on.
        has_parent = firing.parent >= 0
        self._n_children = torch.bincount(firing.parent[has_parent], minlength=len(atoms))
        order = firing.parent.argsort(stable=True)
        before = int((~has_parent).sum()) + self._n_children.cumsum(0) - self._n_children
        self._first = order[before.clamp(max=len(atoms) - 1)]

    def mix(self, n: int, generator: torch.Generator) -> Mixture:
        """Draw the features of n rows, a thousand rows at a time."""
        starts = range(0, n, CHUNK)
        parts = [self._mix(min(CHUNK, n - start), generator) for start in starts]
        row = [row + start for (row, _, _), start in zip(parts, starts, strict=True)]
        return Mixture(
            torch.cat(row) if row else torch.zeros(0, dtype=torch.int64),
            torch.cat([atom for _, atom, _ in parts]) if row else torch.zeros(0, dtype=torch.int64),
            torch.cat([strength for _, _, strength in parts]) if row else torch.zeros(0),
            n,
            {},
        )

    def _mix(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        shared = torch.randn(n, self.firing.factor.shape[1], generator=generator)
        fired = self._roots(shared, generator)
        levels = []
        while len(fired[0]):
            levels.append(fired)
            fired = self._children(fired, shared, generator)
        if not levels:
            return fired
        row, atom, strength = (torch.cat(part) for part in zip(*levels, strict=True))
        order = row.argsort(stable=True)
        return row[order], atom[order], strength[order]

    def _roots(self, shared: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        free = self._free
        own = torch.randn(len(shared), len(free), generator=generator).mul_(self._own[free])
        own.addmm_(shared, self.firing.factor[free].T)
        row, place = (own > self._threshold[free]).nonzero(as_tuple=True)
        strength = self._strength(free[place], generator)
        on = strength > 0
        return row[on], free[place[on]], strength[on]

    def _children(
        self, parents: tuple[Tensor, Tensor, Tensor], shared: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        row, atom, strength = parents
        number = self._n_children[atom]
        family = torch.arange(len(atom)).repeat_interleave(number)
        place = torch.arange(len(family)) - (number.cumsum(0) - number)[family]
        child = self._first[atom[family]] + place
        own = torch.randn(len(child), generator=generator).mul_(self._own[child])
        own += (shared[row[family]] * self.firing.factor[child]).sum(dim=1)
        asked = own > self._threshold[child]
        family, child = family[asked], child[asked]
        made = self._strength(child, generator)
        if self.firing.scaled:
            made *= strength[family] / self.firing.mean[atom[family]]
        on = (made > 0).nonzero()[:, 0]
        if self.firing.exclusive:
            on = on[one_of_each(family[on], len(atom), generator)]
        return row[family[on]], child[on], made[on]

    def _strength(self, atom: Tensor, generator: torch.Generator) -> Tensor:
        deviation = torch.randn(len(atom), generator=generator)
        return self.firing.mean[atom] + self.firing.sd[atom] * deviation


def threshold_of(rate: Float[Tensor, " a"]) -> Float[Tensor, " a"]:
    """Thresholds that N(0, 1) exceeds with these probabilities: sqrt(2) erfinv(1 - 2 rate)."""
    return (2**0.5 * torch.erfinv(1 - 2 * rate.double())).float()


def one_of_each(family: Int[Tensor, " e"], n: int, generator: torch.Generator) -> Int[Tensor, " f"]:
    """Draw one entry of each family that has any; places of the entries, ascending."""
    lot = torch.rand(len(family), generator=generator)
    best = torch.zeros(n).scatter_reduce_(0, family, lot, "amax")
    # Of equal lots the first counts.
    winner = (lot == best[family]).nonzero()[:, 0]
    first = torch.ones_like(winner, dtype=torch.bool)
    first[1:] = family[winner[1:]] != family[winner[:-1]]
    return winner[first]


def low_rank(n_atoms: int, rank: int, scale: float, generator: torch.Generator) -> Tensor:
    """Factors [a, r] ~ N(0, scale^2), rows cut to a square length of 0.99."""
    factor = torch.randn(n_atoms, rank, generator=generator) * scale
    square = factor.square().sum(dim=1, keepdim=True)
    bound = 1 - LEAST_OWN
    return torch.where(square > bound, factor * (bound / square).sqrt(), factor)


def grow_trees(n_atoms: int, roots: int, branching: int, depth: int) -> Int[Tensor, " a"]:
    """Parents [a] of trees that are filled level by level; -1 for roots and for what remains.

    Args:
        n_atoms: a; levels that do not fit are cut.
        roots: trees; the first features.
        branching: children of every feature above the last level.
        depth: levels below the roots.

    Raises:
        InputError: there are fewer features than roots, or a number is out of range.
    """
    if not (0 <= roots <= n_atoms and branching >= 1 and depth >= 0):
        raise InputError(
            f"roots = {roots}, branching = {branching}, depth = {depth} do not fit {n_atoms} atoms"
        )
    parent = torch.full((n_atoms,), -1, dtype=torch.int64)
    start, stop = 0, roots
    for _ in range(depth):
        end = min(n_atoms, stop + (stop - start) * branching)
        parent[stop:end] = start + torch.arange(end - stop) // branching
        start, stop = stop, end
    return parent


def correlated_dictionary(
    n_atoms: int = 256,
    d: int = 64,
    active: float = 6.0,
    *,
    rank: int = 8,
    scale: float = 0.25,
    noise: float = 0.02,
    batch_size: int = 512,
    steps: int = 1000,
    seed: int = 0,
) -> FiringDictionary:
    """Plant features that fire together: a Gaussian copula of low rank, no trees.

    Args:
        n_atoms: planted atoms.
        d: width.
        active: mean number of firing features per row; each fires equally often.
        rank: shared factors.
        scale: of a feature's loading on each factor: correlations of the copula have standard
            deviation scale^2 sqrt(rank), .18 by default.
        noise: standard deviation of the Gaussian noise per coordinate.
        batch_size: rows per training batch.
        steps: batches per iteration.
        seed: of atoms, factors and rows.

    Raises:
        InputError: sizes are out of range.
    """
    generator = atom_generator(seed)
    atoms = unit_atoms(n_atoms, d, generator)
    firing = Firing(
        rate=power_rates(n_atoms, active, 0.0),
        parent=torch.full((n_atoms,), -1, dtype=torch.int64),
        factor=low_rank(n_atoms, rank, scale, generator),
        mean=torch.ones(n_atoms),
        sd=torch.full((n_atoms,), 0.25),
        exclusive=False,
        scaled=False,
    )
    return FiringDictionary(
        atoms, firing, noise=noise, batch_size=batch_size, steps=steps, seed=seed
    )


def hierarchical_dictionary(
    roots: int = 32,
    branching: int = 3,
    d: int = 64,
    *,
    active: float = 3.0,
    child_rate: float = 0.25,
    depth: int = 2,
    noise: float = 0.02,
    batch_size: int = 512,
    steps: int = 1000,
    seed: int = 0,
) -> FiringDictionary:
    """Plant trees of features: children fire only with their parents, so that an SAE may absorb.

    Absorption: a latent for child + parent in place of the child's own, which costs one active
    latent less (Chanin et al. 2024, arXiv 2409.14507).

    Args:
        roots: trees.
        branching: children of every feature above the last level.
        d: width.
        active: mean number of firing roots per row.
        child_rate: probability that a child fires where its parent does, siblings independently.
        depth: levels below the roots.
        noise: standard deviation of the Gaussian noise per coordinate.
        batch_size: rows per training batch.
        steps: batches per iteration.
        seed: of atoms and rows.

    Raises:
        InputError: sizes are out of range.
    """
    if not 0 < child_rate < 1:
        raise InputError(f"child_rate = {child_rate} must be a share in (0, 1)")
    n_atoms = sum(roots * branching**level for level in range(depth + 1))
    rate = torch.full((n_atoms,), child_rate)
    rate[:roots] = power_rates(roots, active, 0.0)
    firing = Firing(
        rate=rate,
        parent=grow_trees(n_atoms, roots, branching, depth),
        factor=torch.zeros(n_atoms, 0),
        mean=torch.ones(n_atoms),
        sd=torch.full((n_atoms,), 0.25),
        exclusive=False,
        scaled=False,
    )
    atoms = unit_atoms(n_atoms, d, atom_generator(seed))
    return FiringDictionary(
        atoms, firing, noise=noise, batch_size=batch_size, steps=steps, seed=seed
    )
