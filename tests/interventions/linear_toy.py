"""A linear network whose answer to every edit is known in closed form: x = 128 + W h."""

import numpy as np
import torch
from torch import nn

from interp import load
from interp.models import Generation
from interp.sae import TopK

D, SIDE = 5, 4
N_PIXELS = SIDE * SIDE * 3
RECIPE = Generation(n=12, seed=0, batch_size=5)


class LinearNet(nn.Module):
    """`hidden` [b, 5] is read and edited; `later` is twice `hidden`; pixels are 128 + W hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.later = nn.Identity(), nn.Linear(D, D, bias=False)
        self.out = nn.Linear(D, N_PIXELS, bias=False)
        rng = np.random.default_rng(7)
        # Whole numbers: pixels of whole rows need no rounding.
        weight = torch.from_numpy(rng.integers(-2, 3, (N_PIXELS, D))).float()
        self.out.weight.data = weight
        self.later.weight.data = 2 * torch.eye(D)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.out(self.later(self.hidden(h)) / 2)


def draw_rows(seeds) -> torch.Tensor:
    """Rows [b, 5] of seeds, whole numbers from -4 to 4."""
    return torch.from_numpy(
        np.stack([np.random.default_rng([s, 1]).integers(-4, 5, D) for s in seeds])
    )


class Toy:
    """Adapter of the linear network."""

    image_size = (SIDE, SIDE)

    def __init__(self) -> None:
        self.points = {"hidden": "hidden", "later": "later"}

    def reference(self):
        return (torch.ones(1, D),), {}

    def generate(self, root, batch):
        made = root(draw_rows(batch.seeds).float()) + 128
        return made.round().clamp(0, 255).to(torch.uint8).reshape(-1, SIDE, SIDE, 3)


def make_toy():
    """The model, and its W [pixels, d] in float64."""
    model = load(LinearNet(), adapter=Toy())
    return model, model.root.out.weight.detach().double()


def make_sae(k: int = D) -> TopK:
    """Dictionary +e_i and -e_i in raw units, with encoder rows equal to them: an exact SAE."""
    sae = TopK(D, 2 * D, k)
    eye = torch.cat([torch.eye(D), -torch.eye(D)])
    with torch.no_grad():
        for name, value in sae.state_dict().items():
            if value.shape == (2 * D, D):
                value.copy_(eye)
            elif value.ndim and name not in ("scale",):
                value.zero_()
    return sae


def pixels(images: torch.Tensor) -> torch.Tensor:
    """An attribute: all pixels."""
    return images.double().flatten(1)


def first(images: torch.Tensor) -> torch.Tensor:
    """An attribute: the first six pixel values."""
    return images.double().flatten(1)[:, :6]


ATTRIBUTES = {"pixels": pixels, "first": first}
