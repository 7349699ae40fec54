"""The models that the conformance suite runs, at least one of each family, and how it runs them."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import tiny
import tiny_pipes
import torch
from torch import Tensor, nn

from interp.loading import load, wrap_zoo
from interp.models import EncodeBatch, GenerateBatch, Model

PROMPTS = ("a cat", "dog")


class Case(NamedTuple):
    """A model of a family, and what generates with it."""

    family: str
    build: Callable[[], Model]
    generate: dict[str, Any]


class TwoLayers:
    """The adapter of the `Adapter` protocol's docstring."""

    points: ClassVar = {"hidden": "0", "out": "2"}
    image_size = (8, 8)

    def reference(self) -> tuple[tuple, dict]:
        return (torch.zeros(1, 192),), {}

    def encode(self, root: nn.Module, batch: EncodeBatch) -> None:
        root(batch.images.flatten(1).float() / 255)


@functools.cache
def two_layers() -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4))
    return load(net, adapter=TwoLayers())


@functools.cache
def zoo(name: str) -> Model:
    from interp.zoo.nets import build_net

    return wrap_zoo(name, build_net(name, n_classes=3), f"zoo:{name}", {})


@functools.cache
def bridge() -> Model:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(
        n_layers=2,
        d_model=16,
        n_heads=2,
        d_head=8,
        d_mlp=32,
        d_vocab=20,
        n_ctx=12,
        act_fn="gelu",
        seed=0,
        architecture="TransformerLensNative",
    )
    return load(TransformerBridge.boot_native(config))


def _pipe(name: str) -> Callable[[], Model]:
    return functools.cache(lambda: load(tiny_pipes.PIPES[name]()))


def _net(name: str) -> Callable[[], Model]:
    return functools.cache(lambda: load(tiny.NETS[name]()))


GUIDED = {"prompts": PROMPTS, "guidance": 3.0}
CASES = {
    "zoo-ldm": Case("unet", lambda: zoo("ldm"), GUIDED),
    "zoo-ddpm": Case("unet", lambda: zoo("ddpm"), {"classes": (0, 2), "guidance": 2.0}),
    "ddpm": Case("unet", _pipe("ddpm"), {"scheduler": "ddpm"}),
    "adm": Case("unet", _net("adm"), {}),
    "sd": Case("unet", _pipe("sd"), GUIDED),
    "sdxl": Case("unet", _pipe("sdxl"), GUIDED),
    "video": Case("unet", _pipe("video"), GUIDED),
    "animate": Case("unet", _pipe("animate"), GUIDED),
    "svd": Case("unet", _net("svd"), {}),
    "zoo-dit": Case("transformer", lambda: zoo("dit"), {"classes": (0, 2), "guidance": 2.0}),
    "dit": Case("transformer", _pipe("dit"), {"classes": (1, 7), "guidance": 3.0}),
    "pixart": Case("transformer", _pipe("pixart"), GUIDED),
    "sd3": Case("transformer", _pipe("sd3"), GUIDED),
    "flux": Case("transformer", _pipe("flux"), GUIDED),
    "kl": Case("vae", _net("kl"), {}),
    "vq": Case("vae", _net("vq"), {}),
    "tiny-vae": Case("vae", _net("tiny_vae"), {}),
    "zoo-vae-global": Case("vae", lambda: zoo("vae-global"), {}),
    "zoo-gan": Case("gan", lambda: zoo("gan"), {}),
    "zoo-vit": Case("encoder", lambda: zoo("vit"), {}),
    "zoo-ssl": Case("encoder", lambda: zoo("ssl"), {}),
    "two-layers": Case("custom", two_layers, {}),
    "bridge": Case("bridge", bridge, {}),
    "zoo-text": Case("bridge", lambda: zoo("text"), {}),
}


def batch_of(case: Case, **changes: Any) -> GenerateBatch:
    """Two samples in two steps."""
    return GenerateBatch(**{"seeds": (3, 4), "steps": 2, **case.generate, **changes})


def images(model: Model, n: int = 2) -> Tensor:
    """Random images of the model's size."""
    height, width = model.image_size
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=g)


def encode_batch(model: Model, **changes: Any) -> EncodeBatch:
    """Two images at log-SNR 0."""
    values = {"images": images(model), "noise_seeds": (5, 6), "log_snr": 0.0}
    if model.family == "bridge":
        # Equally many tokens.
        values["prompts"] = ("flag", "flag")
    return EncodeBatch(**{**values, **changes})


def mode_of(model: Model) -> str:
    """The mode in which a case runs; "reference" where its own caller has to run it."""
    return next((m for m in ("generate", "encode") if m in model.capabilities), "reference")


def names_of(model: Model) -> tuple[str, ...]:
    """Every point that fires when the case runs."""
    mode = mode_of(model)
    if mode != "reference":
        return model.points_in(mode)
    return tuple(model.points)


def run(case: Case, model: Model, mode: str = "") -> list[Tensor]:
    """Run a case and return everything that its last module gave, in full precision."""
    outputs: list[Tensor] = []

    def note(module: nn.Module, args: tuple, output: Any) -> None:
        value = output if isinstance(output, Tensor) else output[0]
        outputs.append(value.clone())

    last = model.root if model.family != "vae" else model.root.get_submodule("decoder")
    handle = last.register_forward_hook(note)
    try:
        mode = mode or mode_of(model)
        if mode == "generate":
            outputs.append(model.generate(batch_of(case)))
        elif mode == "encode":
            model.encode(encode_batch(model))
        else:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                model.run_reference()
    finally:
        handle.remove()
    return outputs
