"""Features that belong to some timesteps of a denoiser."""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.sae.synthetic.base import Mixture, Planted, atom_generator, strengths, unit_atoms


class TimedDictionary(Planted):
    """Rows have a timestep, and each feature fires around its own.

    rate_j(t) = b_t exp(-(t - c_j)^2 / (2 width^2)),  c_j uniform in [0, n_timesteps - 1]

    where b_t makes every timestep's rates sum to its own mean: from active / 2 at the first to
    3 active / 2 at the last. Timesteps are uniform, strengths U(0.5, 1.5). A row's coordinate is
    `timestep`.

    Args:
        n_atoms: planted atoms.
        d: width.
        active: mean number of firing features per row.
        n_timesteps: of the denoiser.
        width: of a feature's profile, in timesteps.
        noise: standard deviation of the Gaussian noise per coordinate.
        batch_size: rows per training batch.
        steps: batches per iteration.
        seed: of atoms, centers and rows.

    Attributes:
        profile: [a, n_timesteps] rates.

    Raises:
        InputError: sizes are out of range, or a timestep has too few features to fire.
    """

    def __init__(
        self,
        n_atoms: int = 256,
        d: int = 64,
        active: float = 6.0,
        *,
        n_timesteps: int = 16,
        width: float = 2.0,
        noise: float = 0.02,
        batch_size: int = 512,
        steps: int = 1000,
        seed: int = 0,
    ) -> None:
        if n_timesteps < 1 or not 0 < width < float("inf"):
            raise InputError(f"n_timesteps = {n_timesteps} or width = {width} is out of range")
        generator = atom_generator(seed)
        atoms = unit_atoms(n_atoms, d, generator)
        center = torch.rand(n_atoms, 1, generator=generator) * (n_timesteps - 1)
        super().__init__(
            atoms,
            noise=noise,
            offset=torch.zeros(d),
            batch_size=batch_size,
            steps=steps,
            seed=seed,
        )
        self.profile: Float[Tensor, "a t"] = _profile(center, n_timesteps, active, width)

    def mix(self, n: int, generator: torch.Generator) -> Mixture:
        """Draw timesteps, then features by their rates."""
        n_atoms, n_timesteps = self.profile.shape
        timestep = torch.randint(n_timesteps, (n,), generator=generator)
        lot = torch.rand(n, n_atoms, generator=generator)
        row, atom = (lot < self.profile.T[timestep]).nonzero(as_tuple=True)
        return Mixture(row, atom, strengths(len(row), generator), n, {"timestep": timestep})


def _profile(
    center: Float[Tensor, "a 1"], n_timesteps: int, active: float, width: float
) -> Float[Tensor, "a t"]:
    time = torch.arange(n_timesteps)
    shape = torch.exp(-((time - center) ** 2) / (2 * width**2))
    wanted = active * torch.linspace(0.5, 1.5, n_timesteps)
    profile = shape * (wanted / shape.sum(dim=0))
    if float(profile.max()) > 1:
        raise InputError(
            f"active = {active} needs rates up to {float(profile.max()):.2f} at some timestep: "
            "plant more atoms or widen the profiles"
        )
    return profile
