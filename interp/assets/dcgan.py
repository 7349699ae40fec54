"""Convolutional GANs (Radford et al. 2016): faces, and eyes from paintings by color."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from interp.assets.archives import read_torch
from interp.errors import InputError
from interp.models.custom import Custom
from interp.models.inputs import GenerateBatch, check_latents
from interp.models.noise import normal
from interp.models.pixels import to_image
from interp.models.points import Site

# Radford et al. 2016, section 4: z of 100 numbers.
Z_WIDTH = 100
EYE_COLORS = ("amber", "blue", "brown", "gray", "grayscale", "green", "hazel", "red")
ONLY = ("generate",)


class Layer(nn.Module):
    """One block: ReLU(BatchNorm(transposed convolution)), kernel 4."""

    def __init__(self, n_in: int, n_out: int, *, first: bool) -> None:
        super().__init__()
        # The first makes 4 x 4 of 1 x 1, each further one doubles the side.
        stride, padding = (1, 0) if first else (2, 1)
        self.conv = nn.ConvTranspose2d(n_in, n_out, 4, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map [b, n_out, h, w]."""
        return torch.relu(self.norm(self.conv(x)))


class DCGAN(nn.Module):
    """A generator: z (and a class as one-hot beside it) -> image in [-1, 1].

    Args:
        widths: channels after each block; the image's side is 2 ** (len(widths) + 2).
        n_classes: length of the one-hot code; 0: unconditional.
    """

    def __init__(self, widths: Sequence[int], *, n_classes: int = 0) -> None:
        super().__init__()
        wide = [Z_WIDTH + n_classes, *widths]
        pairs = enumerate(itertools.pairwise(wide))
        self.layers = nn.ModuleList(Layer(a, b, first=i == 0) for i, (a, b) in pairs)
        self.image = nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1, bias=False)
        self.n_classes = n_classes

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images [b, 3, side, side] of z [b, 100] and one-hot labels [b, n_classes]."""
        x = z if labels is None else torch.cat([z, labels], 1)
        x = x[:, :, None, None]
        for layer in self.layers:
            x = layer(x)
        return torch.tanh(self.image(x))


class Making:
    """How a DCGAN is run: its points, its inputs from seeds, its classes."""

    def __init__(self, net: DCGAN) -> None:
        n = len(net.layers)
        self.points: dict[str, str | Site] = {
            "z": Site("z", "", "input", stream="entry", kind="entry", modes=ONLY),
            **{f"layers.{i}": Site(f"layers.{i}", f"layers.{i}", modes=ONLY) for i in range(n)},
            "image": Site("image", "image", kind="contrib", modes=ONLY),
        }
        self.image_size = (2 ** (n + 2), 2 ** (n + 2))
        self.n_classes = net.n_classes
        self.sources = {"z": "latents"} | ({"classes": "classes"} if net.n_classes else {})

    def reference(self) -> tuple[tuple, dict]:
        """Return one z of ones, and the first class where there are classes."""
        labels = {"labels": torch.eye(self.n_classes)[:1]} if self.n_classes else {}
        return (torch.ones(1, Z_WIDTH),), labels

    def draw_latents(self, root: nn.Module, batch: GenerateBatch) -> Tensor:
        """Return z [b, 100] of the seeds, each drawn from its own seed alone."""
        return normal(batch.seeds, (Z_WIDTH,), next(root.parameters()))

    def render(self, root: nn.Module, batch: GenerateBatch) -> Tensor:
        """Return images [b, h, w, 3] in [0, 1] of the batch's latents, or of its seeds."""
        wrong = {"prompts": batch.prompts, "a scheduler": batch.scheduler, "classes": batch.classes}
        if self.n_classes:
            del wrong["classes"]
        given = [name for name, value in wrong.items() if value]
        given += ["guidance"] if batch.guidance != 1 else []
        given += ["truncation"] if batch.truncation != 1 else []
        if given:
            raise InputError(f"this generator takes no {given[0]}")
        if (batch.height or batch.width) and (batch.height, batch.width) != self.image_size:
            raise InputError(f"this generator makes images of {self.image_size} pixels only")
        z = self.draw_latents(root, batch)
        if batch.latents is not None:
            z = check_latents(batch.latents, z.shape, "z").to(z)
        return to_image(root(z, **self._labels(batch, z)))

    def _labels(self, batch: GenerateBatch, like: Tensor) -> dict[str, Tensor]:
        if not self.n_classes:
            return {}
        if not batch.classes or not all(0 <= c < self.n_classes for c in batch.classes):
            raise InputError(
                f"classes {batch.classes} of a generator that needs one of 0..{self.n_classes - 1} "
                "for each image"
            )
        return {"labels": torch.eye(self.n_classes)[list(batch.classes)].to(like)}


def build_faces() -> DCGAN:
    """Return the untrained net of faces: 64 x 64 pixels, 3.6 M parameters."""
    return DCGAN((512, 256, 128, 64))


def build_eyes() -> DCGAN:
    """Return the untrained net of eyes: 128 x 128 pixels, 8 classes, 12.9 M parameters."""
    return DCGAN((1024, 512, 256, 128, 64), n_classes=len(EYE_COLORS))


def convert_faces(data: bytes) -> dict[str, Tensor]:
    """Return our state dict from the bytes of weights.tar (a file of torch.save)."""
    return rename(read_torch(data, "netG_state_dict"))


def convert_eyes(data: bytes) -> dict[str, Tensor]:
    """Return our state dict from the bytes of generator_model_state.pth."""
    return rename(read_torch(data))


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of one nn.Sequential ("main.<i>.<what>") under our names.

    The i-th module with a 4-D weight is the i-th convolution, the i-th other one its norm.

    Raises:
        InputError: other names, or no convolution.
    """
    parts = {key: key.split(".") for key in state}
    if not all(len(p) == 3 and p[0] == "main" and p[1].isdecimal() for p in parts.values()):
        raise InputError(f"not the state dict of a DCGAN: {sorted(state)[:4]}")
    convs = sorted({int(p[1]) for k, p in parts.items() if state[k].ndim == 4})
    norms = sorted({int(p[1]) for p in parts.values()} - set(convs))
    if not convs:
        raise InputError(f"no convolution in the state dict: {sorted(state)[:4]}")
    place = {index: f"layers.{i}.conv" for i, index in enumerate(convs)}
    place[convs[-1]] = "image"
    place |= {index: f"layers.{i}.norm" for i, index in enumerate(norms)}
    return {f"{place[int(p[1])]}.{p[2]}": state[key] for key, p in parts.items()}


def wrap(net: nn.Module, spec: str, extra: Sequence[str], folder: Path | None) -> Custom:
    """Return a generator as a model."""
    assert isinstance(net, DCGAN)
    return Custom(net, spec, adapter=Making(net), extra=extra)
