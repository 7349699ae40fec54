"""Tiny random-weight models that the tests of carriers and scans run."""

import functools
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from interp.loading import load, wrap_zoo
from interp.models import Model, Transformer, UNet

# The builders of tests/models import each other by bare names.
MODELS = str(Path(__file__).parents[1] / "models")


def builders(module: str) -> Any:
    """A module of tests/models: `tiny` or `tiny_pipes`."""
    if MODELS not in sys.path:
        sys.path.insert(0, MODELS)
    return __import__(module)


@functools.cache
def unet() -> Model:
    """A U-Net of 8 x 8 pixels in the own loop, three classes and a null class."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    net = builders("tiny").adm_net()
    return UNet(net, "test:unet", scheduler=DDIMScheduler(), n_classes=3, null_class=3)


@functools.cache
def pipe(name: str) -> Model:
    """A whole pipeline of diffusers, of text or classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load(builders("tiny_pipes").PIPES[name]())


@functools.cache
def vae() -> Model:
    """An autoencoder of 16 x 16 pixels."""
    return load(builders("tiny").kl())


@functools.cache
def zoo(name: str) -> Model:
    """A zoo network without training."""
    from interp.zoo.nets import build_net

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return wrap_zoo(name, build_net(name, n_classes=3), f"zoo:{name}", {})


@functools.cache
def dit() -> Model:
    """A DiT of 8 x 8 pixels in the own loop."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DiTTransformer2DModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            num_layers=8,
            num_attention_heads=2,
            attention_head_dim=4,
            patch_size=4,
            num_embeds_ada_norm=3,
            norm_elementwise_affine=False,
        ).eval()
        # Blocks that add something: adaLN-Zero starts as the identity.
        for parameter in net.parameters():
            parameter.data.normal_(0, 0.2)
    return Transformer(net, "test:dit", scheduler=DDIMScheduler(), n_classes=3, null_class=3)
