"""torch-cka: `CKA(model1, model2).compare(loader)` on models whose layers hand out the features."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch_cka import CKA

PACKAGES = ("torch", "torch-cka")
BATCH = 256


class Layers(nn.Module):
    """Layer i returns its part of the columns."""

    def __init__(self, widths):
        super().__init__()
        self.widths = widths
        self.layers = nn.ModuleList(nn.Identity() for _ in widths)

    def forward(self, x):
        parts = x.split(self.widths, 1)
        return [layer(part) for layer, part in zip(self.layers, parts, strict=True)]


def load(x):
    return torch.from_numpy(x)


def compare(xs, ys, batch):
    names = [[f"layers.{i}" for i in range(len(part))] for part in (xs, ys)]
    models = [Layers([z.shape[1] for z in part]) for part in (xs, ys)]
    loaders = [DataLoader(TensorDataset(torch.cat(part, 1)), batch) for part in (xs, ys)]
    cka = CKA(*models, "a", "b", *names)
    with torch.no_grad():
        cka.compare(*loaders)
    return cka.export()["CKA"].numpy()


GRIDS = {
    "cka": lambda xs, ys: compare(xs, ys, len(xs[0])),
    "cka_minibatch": lambda xs, ys: compare(xs, ys, BATCH),
}
MEASURES = {}
