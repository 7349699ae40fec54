"""Activations with a known answer: sparse mixtures of planted atoms, and their recovery."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError

__all__ = ["PlantedDictionary", "Recovery", "recovery"]


class Recovery(NamedTuple):
    """How well learned directions cover planted ones."""

    recovered: float
    """Share of atoms with |cosine| above .9 to some learned direction."""
    mmcs: float
    """Mean over atoms of the largest |cosine|."""


class PlantedDictionary:
    """Rows that mix a few of `n_atoms` random unit atoms.

    x = sum over the drawn atoms j of u_j a_j + noise,  u ~ U(0.5, 1.5),  a_j on the unit sphere

    Every row draws `active` atoms with replacement; repeated draws count once. The defaults are the
    benchmark config `small`. Iterating gives training batches, the same ones each time.

    Args:
        n_atoms: planted atoms.
        d: width.
        active: draws per row.
        noise: standard deviation of the Gaussian noise per coordinate.
        mean_norm: norm of a constant vector added to every row (outlier severity).
        batch_size: rows per training batch.
        steps: batches per iteration.
        seed: of atoms and rows; batches and `held_out` rows never coincide, nor do the atoms and
            the initial weights of an SAE of the same seed.
    """

    def __init__(
        self,
        n_atoms: int = 512,
        d: int = 128,
        active: int = 8,
        *,
        noise: float = 0.02,
        mean_norm: float = 0.0,
        batch_size: int = 1024,
        steps: int = 1500,
        seed: int = 0,
    ) -> None:
        if not 1 <= active <= n_atoms:
            raise InputError(f"active = {active} is not in 1..{n_atoms} (n_atoms)")
        self.active, self.noise, self.batch_size, self.steps, self.seed = (
            active,
            noise,
            batch_size,
            steps,
            seed,
        )
        # Not `seed` itself: an SAE's first directions, drawn from its seed, would be the atoms.
        generator = torch.Generator().manual_seed(2 * seed + 3_000_003)
        self.atoms: Float[Tensor, "a d"] = F.normalize(
            torch.randn(n_atoms, d, generator=generator), dim=1
        )
        direction = F.normalize(torch.randn(d, generator=generator), dim=0)
        self.offset = mean_norm * direction

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Float[Tensor, "b d"]]:
        generator = torch.Generator().manual_seed(2 * self.seed + 1_000_001)
        for _ in range(self.steps):
            yield self.draw(self.batch_size, generator)

    def held_out(self, n: int = 16384) -> Float[Tensor, "n d"]:
        """Rows [n, d] that no training batch holds."""
        return self.draw(n, torch.Generator().manual_seed(2 * self.seed + 2_000_002))

    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw n rows from a generator."""
        n_atoms, d = self.atoms.shape
        chosen = torch.randint(n_atoms, (n, self.active), generator=generator)
        strength = 0.5 + torch.rand(n, self.active, generator=generator)
        mixture = torch.zeros(n, n_atoms).scatter_(1, chosen, strength)
        return (
            mixture @ self.atoms + self.noise * torch.randn(n, d, generator=generator) + self.offset
        )


def recovery(learned: Float[Tensor, "m d"], atoms: Float[Tensor, "a d"]) -> Recovery:
    """Compare learned directions with planted atoms by their largest absolute cosine.

    Args:
        learned: [m, d] rows of any norm.
        atoms: [a, d] unit rows.
    """
    cosine = (atoms.double() @ F.normalize(learned.double(), dim=1).T).abs().amax(dim=1)
    return Recovery(float((cosine > 0.9).double().mean()), float(cosine.mean()))
