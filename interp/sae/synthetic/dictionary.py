"""Rows that draw a fixed number of atoms, alike or by a power law, with or without outliers."""

import torch
import torch.nn.functional as F

from interp.errors import InputError
from interp.sae.synthetic.base import Mixture, Planted, atom_generator, unit_atoms


class PlantedDictionary(Planted):
    """Rows that mix a few of `n_atoms` random unit atoms.

    x = sum over the drawn atoms j of u_j a_j + noise,  u ~ U(0.5, 1.5),  a_j on the unit sphere

    Every row draws `active` atoms with replacement, atom i with a probability proportional to
    i^-exponent; repeated draws count once. The defaults are the benchmark config `small`.

    Args:
        n_atoms: planted atoms.
        d: width.
        active: draws per row.
        exponent: of the firing rates: 0 is uniform, 0.7 the benchmark config `zipf`.
        noise: standard deviation of the Gaussian noise per coordinate.
        mean_norm: norm of a constant vector added to every row (outlier severity).
        batch_size: rows per training batch.
        steps: batches per iteration.
        seed: of atoms and rows; batches and `held_out` rows never coincide, nor do the atoms and
            the initial weights of an SAE of the same seed.

    Raises:
        InputError: sizes are out of range.
    """

    def __init__(
        self,
        n_atoms: int = 512,
        d: int = 128,
        active: int = 8,
        *,
        exponent: float = 0.0,
        noise: float = 0.02,
        mean_norm: float = 0.0,
        batch_size: int = 1024,
        steps: int = 1500,
        seed: int = 0,
    ) -> None:
        if not 1 <= active <= n_atoms:
            raise InputError(f"active = {active} is not in 1..{n_atoms} (n_atoms)")
        if not 0 <= exponent < float("inf"):
            raise InputError(f"exponent = {exponent} must be a number of at least 0")
        generator = atom_generator(seed)
        atoms = unit_atoms(n_atoms, d, generator)
        direction = F.normalize(torch.randn(d, generator=generator), dim=0)
        super().__init__(
            atoms,
            noise=noise,
            offset=mean_norm * direction,
            batch_size=batch_size,
            steps=steps,
            seed=seed,
        )
        self.active, self.exponent = active, exponent

    def mix(self, n: int, generator: torch.Generator) -> Mixture:
        """Draw `active` atoms for each of n rows."""
        n_atoms = len(self.atoms)
        if self.exponent:
            bounds = torch.arange(1, n_atoms + 1).double().pow(-self.exponent).cumsum(0)
            place = torch.rand(n, self.active, generator=generator, dtype=torch.float64)
            chosen = torch.searchsorted(bounds, place * bounds[-1]).clamp_(max=n_atoms - 1)
        else:
            chosen = torch.randint(n_atoms, (n, self.active), generator=generator)
        strength = 0.5 + torch.rand(n, self.active, generator=generator)
        # Of equal draws in a row the last one counts.
        order = chosen.argsort(dim=1, stable=True)
        chosen, strength = chosen.gather(1, order), strength.gather(1, order)
        kept = torch.ones_like(chosen, dtype=torch.bool)
        kept[:, :-1] = chosen[:, 1:] != chosen[:, :-1]
        return Mixture(kept.nonzero()[:, 0], chosen[kept], strength[kept], n, {})


class OutlierDictionary(Planted):
    """Rows of a planted dictionary in which a few coordinates are far larger than the others.

    x = sum_j u_j a_j + noise + sum over the outlier coordinates c of (mean s_c + sd g_c) e_c

    with a sign s_c of each coordinate and g_c ~ N(0, 1) drawn for every row, in place of its
    noise. The atoms do not explain the outliers, as in networks in which they carry no feature.

    Args:
        n_atoms: planted atoms.
        d: width.
        active: draws per row.
        n_outliers: coordinates with outliers.
        mean: their mean; the other coordinates have standard deviation sqrt(1.08 active / d).
        sd: their standard deviation.
        noise: standard deviation of the Gaussian noise per coordinate.
        batch_size: rows per training batch.
        steps: batches per iteration.
        seed: as in PlantedDictionary.

    Attributes:
        outliers: [n_outliers] int64 coordinates.

    Raises:
        InputError: sizes are out of range.
    """

    def __init__(
        self,
        n_atoms: int = 256,
        d: int = 64,
        active: int = 6,
        *,
        n_outliers: int = 3,
        mean: float = 10.0,
        sd: float = 1.0,
        noise: float = 0.02,
        batch_size: int = 512,
        steps: int = 1000,
        seed: int = 0,
    ) -> None:
        if not 0 <= n_outliers <= d:
            raise InputError(f"n_outliers = {n_outliers} is not in 0..{d} (d)")
        plain = PlantedDictionary(n_atoms, d, active, seed=seed)
        generator = torch.Generator().manual_seed(2 * seed + 4_000_003)
        self.outliers = torch.randperm(d, generator=generator)[:n_outliers].sort().values
        sign = 2.0 * torch.randint(2, (n_outliers,), generator=generator) - 1
        offset = torch.zeros(d).index_put_((self.outliers,), mean * sign)
        spread = torch.full((d,), noise).index_fill_(0, self.outliers, sd)
        super().__init__(
            plain.atoms, noise=spread, offset=offset, batch_size=batch_size, steps=steps, seed=seed
        )
        self.plain = plain

    def mix(self, n: int, generator: torch.Generator) -> Mixture:
        """Draw `active` atoms for each of n rows."""
        return self.plain.mix(n, generator)
