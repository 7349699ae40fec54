"""Features that are connected patches of images: rows are positions of a map."""

import torch
from torch import Tensor

from interp.errors import InputError
from interp.sae.synthetic.base import Mixture, Planted, atom_generator, strengths, unit_atoms

# Radii of the patches, as shares of the map's shorter side.
SMALLEST, LARGEST = 0.1, 0.3
# An image holds between these shares of the mean number of patches: budgets per row are wrong.
POOREST, RICHEST = 0.25, 1.75


class SpatialDictionary(Planted):
    """Rows are positions of h x w maps on which each feature is a few disks.

    An image has c patches with c uniform about its mean; each patch has an atom, a center uniform
    on the map, a radius uniform in [0.1, 0.3] of the shorter side and a strength u ~ U(0.5, 1.5).
    At a position in a distance of q radii from the center, q <= 1, it adds u (1 - q^2 / 2) times
    its atom; where patches of one atom overlap, the strongest counts.

    A row's coordinates are `image`, `y` and `x`. A batch has `per_image` random positions of each
    of batch_size / per_image images, whole images where per_image = h w.

    Args:
        n_atoms: planted atoms.
        d: width.
        active: mean number of patches over a position.
        grid: h and w.
        per_image: rows of each image, at most h w.
        noise: standard deviation of the Gaussian noise per coordinate.
        batch_size: rows per training batch, a multiple of per_image.
        steps: batches per iteration.
        seed: of atoms and rows.

    Raises:
        InputError: sizes are out of range or do not divide.
    """

    def __init__(
        self,
        n_atoms: int = 256,
        d: int = 64,
        active: float = 6.0,
        *,
        grid: tuple[int, int] = (16, 16),
        per_image: int = 16,
        noise: float = 0.02,
        batch_size: int = 512,
        steps: int = 1000,
        seed: int = 0,
    ) -> None:
        positions = grid[0] * grid[1]
        if not 1 <= per_image <= positions:
            raise InputError(f"per_image = {per_image} is not in 1..{positions} ({grid})")
        if batch_size % per_image:
            raise InputError(f"batch_size = {batch_size} is no multiple of per_image = {per_image}")
        if not 0 < active <= n_atoms:
            raise InputError(f"active = {active} is not in 1..{n_atoms} (n_atoms)")
        atoms = unit_atoms(n_atoms, d, atom_generator(seed))
        super().__init__(
            atoms,
            noise=noise,
            offset=torch.zeros(d),
            batch_size=batch_size,
            steps=steps,
            seed=seed,
        )
        self.active, self.grid, self.per_image = active, grid, per_image
        self.patches = active / _mean_share(grid)

    def mix(self, n: int, generator: torch.Generator) -> Mixture:
        """Draw images, their patches, and the rows at some of their positions."""
        if n % self.per_image:
            raise InputError(f"{n} rows are no multiple of per_image = {self.per_image}")
        h, w = self.grid
        images = n // self.per_image
        order = torch.rand(images, h * w, generator=generator).argsort(dim=1)
        place = order[:, : self.per_image].sort(dim=1).values
        y, x = place // w, place % w
        richness = POOREST + (RICHEST - POOREST) * torch.rand(images, generator=generator)
        image = torch.arange(images).repeat_interleave((richness * self.patches).round().long())
        p = len(image)
        atom = torch.randint(len(self.atoms), (p,), generator=generator)
        center = torch.rand(p, 2, generator=generator) * torch.tensor([h, w]) - 0.5
        radius = min(h, w) * (SMALLEST + (LARGEST - SMALLEST) * torch.rand(p, generator=generator))
        away = (y[image] - center[:, :1]).square() + (x[image] - center[:, 1:]).square()
        q = away / radius.square()[:, None]
        strength = strengths(p, generator)[:, None] * (1 - q / 2)
        patch, position = (q <= 1).nonzero(as_tuple=True)
        row = image[patch] * self.per_image + position
        row, found, value = _strongest(row, atom[patch], strength[patch, position], len(self.atoms))
        coords = {
            "image": torch.arange(images).repeat_interleave(self.per_image),
            "y": y.flatten(),
            "x": x.flatten(),
        }
        return Mixture(row, found, value, n, coords)


def _strongest(row: Tensor, atom: Tensor, value: Tensor, n_atoms: int) -> tuple[Tensor, ...]:
    """The largest value of each pair of row and atom, by row."""
    pair, place = (row * n_atoms + atom).unique(return_inverse=True)
    best = torch.zeros(len(pair)).scatter_reduce_(0, place, value, "amax")
    return pair // n_atoms, pair % n_atoms, best


def _mean_share(grid: tuple[int, int]) -> float:
    """Mean share of a map's positions under one patch, edges included.

    By a lattice of centers and radii, finer than the map: exact to about 1 %.
    """
    h, w = grid
    centers = torch.cartesian_prod(
        (torch.arange(4 * h) + 0.5) / 4 - 0.5, (torch.arange(4 * w) + 0.5) / 4 - 0.5
    )
    y, x = torch.arange(h)[:, None], torch.arange(w)[None]
    total = 0.0
    fractions = torch.linspace(SMALLEST, LARGEST, 9)
    for radius in (min(h, w) * fractions).tolist():
        for part in centers.split(1024):
            away = (y - part[:, 0, None, None]).square() + (x - part[:, 1, None, None]).square()
            total += float((away <= radius**2).double().sum())
    return total / (len(centers) * len(fractions) * h * w)
