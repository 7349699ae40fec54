"""Build the zoo's networks, untrained from a seed or with their shipped weights."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interp.errors import InputError, InterpError

# Networks with a module of their own, which has `build(n_classes)`, the training `step(job, batch,
# labels, progress)`, `measure(net, judged)` for the card and `picture(net, path, heldout)`; and,
# where it needs them, `equip(job, seed)` (what a training has beside the network), `prepare(data,
# folder)` (what it draws from), `describe(data, folder)` and `metadata(data)`.
HOMES = {
    "text": "interp.zoo.text",
    "vae-global": "interp.zoo.vae_global",
    "ldm": "interp.zoo.ldm",
    "ssl": "interp.zoo.ssl",
}
NAMES = ("gan", "vae", "ddpm", "vit", "dit", *HOMES)
WEIGHTS = Path(__file__).parent / "weights"

# f = 4 by two downsamplers; thin at 32x32, where a step of CPU training spends most of its time.
VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 32, 64),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 32,
}

# ADM options (Dhariwal and Nichol 2021, arXiv 2105.05233): scale-shift norm, residual up and down
# blocks, attention below 16x16.
DDPM: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 12,
    "out_channels": 12,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 48, 48),
    "layers_per_block": 1,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 16,
    "norm_num_groups": 8,
}

# Keyword arguments of any diffusers scheduler that samples `ddpm`; the recipe trains on the same
# noise levels.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "timestep_spacing": "trailing",
}


def build_net(name: str, *, n_classes: int, seed: int = 0) -> nn.Module:
    """Return an untrained network in evaluation mode, its weights a function of the seed alone.

    Args:
        name: one of `nets.NAMES`.
        n_classes: number of categories; `ddpm` and `dit` have one more, the null class, with this
            index.
        seed: seed of the initial weights; the global random state is left as it was.

    Raises:
        InputError: no network of that name.
    """
    if name not in NAMES:
        raise InputError(f"no zoo network {name!r}; there are {', '.join(NAMES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _construct(name, n_classes).eval()


def home(name: str) -> Any:
    """Return the module of a network that has one of its own, else None."""
    return importlib.import_module(HOMES[name]) if name in HOMES else None


def _construct(name: str, n_classes: int) -> nn.Module:
    own = home(name)
    if own is not None:
        return own.build(n_classes)
    if name == "gan":
        from interp.zoo.gan import Generator

        return Generator()
    if name == "vit":
        from interp.zoo.vit import ViT

        return ViT(n_classes)
    if name == "dit":
        from interp.zoo.dit import build

        return build(n_classes)
    if name == "vae":
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        return AutoencoderKL(**VAE)
    from diffusers.models.unets.unet_2d import UNet2DModel

    return UNet2DModel(**DDPM, num_class_embeds=n_classes + 1)


def parse_name(spec: str) -> tuple[str, int]:
    """Return ("gan", 1) from "gan/1" or "zoo:gan/1"; the seed is 0 where none is named.

    Raises:
        InputError: no network of that name, or a seed that is not a whole number >= 0.
    """
    name, _, seed = spec.removeprefix("zoo:").partition("/")
    if name not in NAMES:
        raise InputError(f"no zoo network {name!r}; there are {', '.join(NAMES)}")
    if seed and not seed.isdecimal():
        raise InputError(
            f"seed {seed!r} in {spec!r} is not a whole number; write {name} or {name}/1"
        )
    return name, int(seed or 0)


def file_stem(name: str, seed: int) -> str:
    """Return the stem of the files of one training seed: "gan" for seed 0, "gan-1" for seed 1."""
    return name if seed == 0 else f"{name}-{seed}"


def find_weights(name: str, *, seed: int = 0, folder: Path | str | None = None) -> Path:
    """Return the weights' file of a trained network: in `folder` where given, else a shipped one.

    Raises:
        InterpError: nobody has trained that seed here; the message gives the command that does.
    """
    stem = file_stem(name, seed)
    places = [Path(folder)] if folder is not None else []
    for place in [*places, WEIGHTS]:
        if (place / f"{stem}.safetensors").is_file() and (place / f"{stem}.json").is_file():
            return place / f"{stem}.safetensors"
    shipped = sorted(
        re.sub(r"-(\d+)$", r"/\1", path.stem) for path in WEIGHTS.glob("*.safetensors")
    )
    raise InterpError(
        f"zoo:{name}/{seed} is not trained: no {stem}.safetensors with its card in "
        f"{', '.join(map(str, [*places, WEIGHTS]))} (shipped: {', '.join(shipped) or 'none'}); "
        f"train it with `interp zoo train {name} --seed {seed} --out DIR` and pass that folder, "
        f"or load the untrained network with untrained=True"
    )


def load_net(
    name: str,
    *,
    seed: int = 0,
    untrained: bool = False,
    init_seed: int = 0,
    folder: Path | str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network of the zoo in evaluation mode, and its card as a dict.

    Args:
        name: one of `nets.NAMES`.
        seed: training seed whose weights are loaded.
        untrained: build the untrained twin from `init_seed` instead.
        init_seed: seed of the twin's weights.
        folder: a folder of files that `train_zoo` exported, searched first.
        device: where the network goes.
        dtype: float32 where None; the file itself holds float16.

    Raises:
        InputError: no network of that name.
        InterpError: that training seed is not there, or the weights are not those that the card
        names.
    """
    if name not in NAMES:
        raise InputError(f"no zoo network {name!r}; there are {', '.join(NAMES)}")
    path = find_weights(name, seed=seed, folder=folder)
    card = json.loads(path.with_suffix(".json").read_text())
    net = build_net(name, n_classes=len(card["data"]["categories"]), seed=init_seed)
    if not untrained:
        net.load_state_dict(_read_weights(path, card["weights"]["sha256"]))
    return _moved(net, device, dtype), card


def _moved(net: nn.Module, device: str | torch.device, dtype: torch.dtype | None) -> nn.Module:
    # diffusers warns on every cast, so float32 is left alone.
    return net.to(device) if dtype in (None, torch.float32) else net.to(device).to(dtype)


def _read_weights(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    import hashlib

    from safetensors.torch import load

    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InterpError(
            f"{path} has sha256 {found[:12]}..., its card says {sha256[:12]}...; "
            "the file is damaged or from another training: reinstall interp, or train it again"
        )
    return {name: x.float() for name, x in load(data).items()}
