"""A real U-Net of diffusers, small enough to run in milliseconds, and images to encode."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.loading import load
from interp.models import Model, UNet
from interp.zoo import Images
from interp.zoo.glyph_files import pixels_sha256

with warnings.catch_warnings():
    # Third-party imports that warn; what runs in the tests must not.
    warnings.simplefilter("ignore")
    import pyarrow.parquet  # noqa: F401
    from diffusers import DDIMScheduler, UNet2DModel


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync adds only a power cut can show."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


def network() -> UNet2DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=4,
            num_class_embeds=4,
        )


def make_unet(name: str = "test:unet") -> UNet:
    """3 classes and a null class, 8 x 8 pixels."""
    return UNet(network(), name, scheduler=DDIMScheduler(), n_classes=3, null_class=3)


@pytest.fixture(scope="session")
def model() -> Model:
    return make_unet()


@pytest.fixture
def fresh_unet() -> Callable[[str], UNet]:
    """A U-Net of one's own, to break."""
    return make_unet


@pytest.fixture(scope="session")
def vae() -> Model:
    return load("zoo:vae", untrained=True)


@pytest.fixture
def pictures() -> Images:
    """Six images in three clusters, with markup in a caption."""
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    )
    return Images(
        pixels=pixels,
        ids=tuple(f"im{i}" for i in range(6)),
        labels=torch.tensor([0, 1, 2, 0, 1, 2]),
        categories=("cat", "dog", "<b>cow</b>"),
        captions=("a", "b", "<script>", "d", "e", "f"),
        tags=((),) * 6,
        clusters=("c0", "c0", "c1", "c1", "c2", "c2"),
        sources=("s",) * 6,
        licences=("",) * 6,
        split=("heldout",) * 6,
        name="pictures",
        sha256=pixels_sha256(pixels.numpy()),
    )


def tree(path: Path) -> dict[str, bytes]:
    """Return every file below `path` with its bytes."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.fixture
def tree_of() -> Callable[[Path], dict[str, bytes]]:
    return tree
