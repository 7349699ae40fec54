"""What every planted dictionary is: atoms, rows that mix a few of them, and who fired where."""

import abc
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import InputError

# Rows that are drawn at once: what is dense while drawing stays below 100 MB at 16,384 atoms.
CHUNK = 1024


class Mixture(NamedTuple):
    """Which atoms fire in which rows, and how strongly: e entries, by row."""

    row: Int[Tensor, " e"]
    """Ascending."""
    atom: Int[Tensor, " e"]
    strength: Float[Tensor, " e"]
    """Positive; a pair of row and atom occurs once."""
    n_rows: int
    coords: dict[str, Tensor]
    """Column name -> [n] int64, such as image, y, x, timestep; empty where rows have no place."""


class Truth(NamedTuple):
    """Rows with what made them."""

    x: Float[Tensor, "n d"]
    fired: Bool[Tensor, "n a"]
    """Whether an atom is in a row."""
    coords: dict[str, Tensor]
    """As in Mixture."""


class Planted(abc.ABC):
    """Rows that mix a few of a unit atoms, with everything drawn from private generators.

    x = sum over the firing atoms j of s_j a_j + noise + offset

    Iterating gives training batches, the same ones each time. A subclass says which atoms fire.

    Args:
        atoms: [a, d] unit rows.
        noise: standard deviation of the Gaussian noise, of every coordinate or of each [d].
        offset: [d] added to every row.
        batch_size: rows per training batch.
        steps: batches per iteration.
        seed: of the rows; batches and `held_out` rows never coincide.

    Raises:
        InputError: sizes or noise are out of range.
    """

    atom_seed: int | None = None
    """Seed from which an SAE would draw these very atoms as its first directions; training with it
    is refused. None: there is no such seed."""

    def __init__(
        self,
        atoms: Float[Tensor, "a d"],
        *,
        noise: float | Float[Tensor, " d"],
        offset: Float[Tensor, " d"],
        batch_size: int,
        steps: int,
        seed: int,
    ) -> None:
        if batch_size < 1 or steps < 0:
            raise InputError(f"batch_size = {batch_size} or steps = {steps} is out of range")
        spread = torch.as_tensor(noise)
        if not bool(((spread >= 0) & spread.isfinite()).all()):
            raise InputError(f"noise = {noise} must be a number of at least 0")
        self.atoms, self.offset = atoms, offset
        self.noise, self.batch_size, self.steps, self.seed = noise, batch_size, steps, seed

    @abc.abstractmethod
    def mix(self, n: int, generator: torch.Generator) -> Mixture:
        """Draw the atoms of n rows."""

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Float[Tensor, "b d"]]:
        generator = torch.Generator().manual_seed(2 * self.seed + 1_000_001)
        for _ in range(self.steps):
            yield self.draw(self.batch_size, generator)

    def held_out(self, n: int = 16384) -> Float[Tensor, "n d"]:
        """Rows [n, d] that no training batch holds."""
        return self._compose(*self._held_out_mixture(n))

    def truth(self, n: int = 16384) -> Truth:
        """The rows of `held_out` with the atoms that fired: n x a bytes."""
        mixture, generator = self._held_out_mixture(n)
        fired = torch.zeros(n, len(self.atoms), dtype=torch.bool)
        fired[mixture.row, mixture.atom] = True
        return Truth(self._compose(mixture, generator), fired, mixture.coords)

    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw n rows from a generator."""
        return self._compose(self.mix(n, generator), generator)

    def _held_out_mixture(self, n: int) -> tuple[Mixture, torch.Generator]:
        generator = torch.Generator().manual_seed(2 * self.seed + 2_000_002)
        return self.mix(n, generator), generator

    def _compose(self, mixture: Mixture, generator: torch.Generator) -> Tensor:
        first = torch.searchsorted(mixture.row, torch.arange(mixture.n_rows))
        mixed = F.embedding_bag(
            mixture.atom, self.atoms, first, mode="sum", per_sample_weights=mixture.strength
        )
        noise = torch.randn(mixed.shape, generator=generator)
        return mixed.add_(noise.mul_(self.noise)).add_(self.offset)


def unit_atoms(n_atoms: int, d: int, generator: torch.Generator) -> Float[Tensor, "a d"]:
    """Draw directions uniformly from the unit sphere.

    Raises:
        InputError: n_atoms or d is not positive.
    """
    if n_atoms < 1 or d < 1:
        raise InputError(f"n_atoms = {n_atoms} and d = {d} must be positive")
    return F.normalize(torch.randn(n_atoms, d, generator=generator), dim=1)


def atom_generator(seed: int) -> torch.Generator:
    """A generator for atoms.

    Not of `seed` itself: an SAE's first directions, drawn from its seed, would be the atoms.
    """
    return torch.Generator().manual_seed(2 * seed + 3_000_003)


def strengths(n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Draw n strengths from U(0.5, 1.5)."""
    return 0.5 + torch.rand(n, generator=generator)


def power_rates(n_atoms: int, active: float, exponent: float) -> Float[Tensor, " a"]:
    """Rates proportional to i^-exponent, i = 1..n_atoms, that sum to `active`, each at most 1.

    Rates above 1 are cut, and the others raised, until the sum is right.

    Raises:
        InputError: active is not in (0, n_atoms], or the exponent is negative.
    """
    if not 0 < active <= n_atoms:
        raise InputError(f"active = {active} is not in 1..{n_atoms} (n_atoms)")
    if not 0 <= exponent < float("inf"):
        raise InputError(f"exponent = {exponent} must be a number of at least 0")
    shape = torch.arange(1, n_atoms + 1, dtype=torch.float64) ** -exponent
    full = 0
    while True:
        rates = shape * (active - full) / shape[full:].sum()
        above = int((rates[full:] > 1).sum())
        if not above:
            rates[:full] = 1
            return rates.float()
        full += above
