"""Turn a spec ("zoo:ddpm", "diffusers:<id>#unet", "transformers:<id>", ...) into a model."""

import copy
import difflib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interp.errors import InputError
from interp.models import GAN, VAE, Adapter, Bridge, Custom, Encoder, Model, Transformer, UNet
from interp.models.rebuild import fresh_state, rebuild

UNETS = (
    "UNet2DModel",
    "UNet2DConditionModel",
    "UNet3DConditionModel",
    "UNetSpatioTemporalConditionModel",
    "UNetMotionModel",
)
TRANSFORMERS = (
    "DiTTransformer2DModel",
    "PixArtTransformer2DModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
)
VAES = ("AutoencoderKL", "VQModel", "AutoencoderTiny")


def load(
    spec: str | nn.Module | Any,
    *,
    untrained: bool = False,
    seed: int = 0,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    adapter: Adapter | None = None,
    extra_points: Sequence[str] = (),
) -> Model:
    """Return a model whose every block can be read and edited.

    Args:
        spec: "zoo:NAME" or "zoo:NAME/SEED" (shipped models: see `interp zoo list`);
            "asset:NAME", a network of `interp assets list` that was fetched;
            "diffusers:<hub id or folder>", the pipeline's denoiser, or "...#vae" (any of its
            networks by name); "transformers:<hub id or folder>", a vision encoder;
            "lens:<hub id or folder>", a language model through transformer-lens; or a pipeline,
            a diffusers or transformers network, a TransformerBridge, or, with `adapter`, any
            module.
        untrained: give the network (of a pipeline: the chosen one alone) fresh weights; see `seed`.
        seed: seed of the fresh weights; the global random state stays as it is.
        device: where the networks go; None leaves objects where they are, specs go to the CPU.
        dtype: their type, such as torch.bfloat16 or "bfloat16"; None is what their own library
            loads (float32 for diffusers and the zoo).
        adapter: how to use a module that the library does not know.
        extra_points: dotted paths of further modules whose outputs become points.

    Raises:
        InputError: the spec names nothing, or the network cannot be built anew.
    """
    target = _dtype(dtype)
    options = {"untrained": untrained, "seed": seed, "extra": tuple(extra_points)}
    if not isinstance(spec, str):
        model = _load_object(spec, adapter, **options)
    else:
        if adapter is not None:
            raise InputError(f"an adapter belongs to a module, not to the spec {spec!r}")
        scheme, _, rest = spec.partition(":")
        if scheme not in SCHEMES or not rest:
            raise _unknown(spec)
        model = SCHEMES[scheme](spec, rest, **options)
    model.provenance["untrained"] = untrained
    if untrained:
        model.provenance["init_seed"] = seed
    for part in {id(m): m for m in (model.root, *model.components().values())}.values():
        if device is not None:
            # A bridge prints where it goes.
            with redirect_stdout(io.StringIO()):
                part.to(device)
        # Networks that hold this type already would only warn.
        if target is not None and any(p.dtype != target for p in part.parameters()):
            part.to(target)
        part.eval()
    return model


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if not isinstance(dtype, str):
        return dtype
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(known)}")
    return known[dtype]


def _unknown(spec: str) -> InputError:
    from interp.zoo.nets import NAMES

    names = [f"zoo:{name}" for name in NAMES]
    names += ["asset:<name>", "diffusers:<id or folder>"]
    names += ["transformers:<id or folder>", "lens:<id or folder>"]
    close = difflib.get_close_matches(spec, names, n=3, cutoff=0.3) or names
    return InputError(f"no model {spec!r}; nearest: {', '.join(close)}")


# zoo


def _load_zoo(spec: str, rest: str, *, untrained: bool, seed: int, extra: tuple) -> Model:
    from interp.zoo.leaks import known_leaks
    from interp.zoo.nets import NAMES, load_net, parse_name

    if rest.partition("/")[0] not in NAMES:
        raise _unknown(spec)
    name, trained = parse_name(spec)
    net, card = load_net(name, seed=trained, untrained=untrained, init_seed=seed)
    model = wrap_zoo(name, net, spec, card, extra=extra)
    # Fresh weights have learned from nobody.
    if not untrained:
        model.provenance["leaks"] = list(card.get("leaks", known_leaks(name)))
    return model


def wrap_zoo(
    name: str, net: nn.Module, spec: str, card: dict[str, Any], *, extra: tuple = ()
) -> Model:
    """Return a zoo network as a model: `name` of the net, its spec, its card."""
    if name == "gan":
        from interp.zoo.gan import LAYER_SIZES, Z_WIDTH

        return GAN(net, spec, z_width=Z_WIDTH, noise_sizes=LAYER_SIZES, extra=extra)
    if name == "vae":
        facts = card.get("net", {})
        scale = facts.get("scale_factor")
        return VAE(net, spec, shift=facts.get("shift_factor"), scale=scale, extra=extra)
    if name == "vae-global":
        return VAE(net, spec, extra=extra)
    if name == "text":
        return _wrap_text(net, spec, extra)
    if name == "ldm":
        from interp.zoo.ldm import make_pipe

        with _unworried():
            return UNet(net, spec, pipe=make_pipe(net, card), extra=extra)
    if name in ("vit", "ssl"):
        return Encoder(net, spec, size=(32, 32), extra=extra)
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    from interp.zoo.dit import null_class
    from interp.zoo.nets import SCHEDULER

    null = null_class(net)
    kind = Transformer if name == "dit" else UNet
    return kind(
        net,
        spec,
        scheduler=DDIMScheduler(**SCHEDULER),
        unshuffle=2,
        n_classes=null,
        null_class=null,
        extra=extra,
    )


@contextmanager
def _unworried() -> Iterator[None]:
    """Without transformers' warnings: of image processors, say, that a pipeline here never uses."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _wrap_text(net: nn.Module, spec: str, extra: tuple) -> Model:
    from transformer_lens.model_bridge import TransformerBridge

    from interp.zoo.text import load_tokenizer

    bridge = TransformerBridge.boot_transformers(
        "zoo-text", hf_model=net, tokenizer=load_tokenizer(), device="cpu"
    )
    return Bridge(bridge, spec, extra=extra)


# assets


def _load_asset(spec: str, rest: str, *, untrained: bool, seed: int, extra: tuple) -> Model:
    from interp.assets import ASSETS, load_asset, wrap_asset

    net = load_asset(rest, weights=not untrained)
    model = wrap_asset(rest, rebuild(net, seed) if untrained else net, spec, extra)
    # Fresh weights have learned from nobody.
    if not untrained:
        model.provenance["leaks"] = list(ASSETS[rest].leaks)
    return model


@contextmanager
def _fetching(spec: str, path: str) -> Iterator[None]:
    """Say plainly that a hub id or folder cannot be read.

    Raises:
        InputError: no such folder, no such id, no network, or damaged files.
    """
    from huggingface_hub.errors import HFValidationError

    is_path = path.startswith(("/", "./", "../", "~")) or path.count("/") > 1
    if is_path and not Path(path).exists():
        raise InputError(f"{spec}: there is no folder {path}")
    try:
        yield
    except (OSError, HFValidationError) as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(
            f"{spec} cannot be loaded: {why} (a folder that exists, or a hub id that can be "
            "reached, is needed)"
        ) from error


# diffusers


def _load_diffusers(spec: str, rest: str, *, untrained: bool, seed: int, extra: tuple) -> Model:
    import diffusers

    path, _, part = rest.partition("#")
    folder = Path(path)
    if folder.is_dir() and (folder / "config.json").is_file():
        name = json.loads((folder / "config.json").read_text()).get("_class_name", "")
        if not hasattr(diffusers, name):
            raise InputError(f"{path}/config.json names no class of diffusers: {name!r}")
        with _fetching(spec, path):
            network = getattr(diffusers, name).from_pretrained(path)
        return _wrap(network, spec, None, untrained=untrained, seed=seed, extra=extra)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise InputError(f"{path} has neither model_index.json nor config.json of diffusers")
    with _fetching(spec, path):
        pipe = diffusers.pipelines.pipeline_utils.DiffusionPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    return _wrap_pipeline(pipe, spec, part, untrained=untrained, seed=seed, extra=extra)


def _wrap_pipeline(pipe: Any, spec: str, part: str, **options: Any) -> Model:
    networks = {k: v for k, v in pipe.components.items() if isinstance(v, nn.Module)}
    known = UNETS + TRANSFORMERS + VAES
    usable = {k: v for k, v in networks.items() if type(v).__name__ in known}
    denoisers = [k for k, v in usable.items() if type(v).__name__ not in VAES]
    part = part or (denoisers[0] if denoisers else next(iter(usable), ""))
    if part not in usable:
        raise InputError(
            f"{spec}: no usable network {part!r} in {type(pipe).__name__}; "
            f"there are {', '.join(usable) or 'none'}"
        )
    is_denoiser = type(usable[part]).__name__ not in VAES
    return _wrap(usable[part], spec, pipe if is_denoiser else None, part=part, **options)


def _wrap(
    network: nn.Module,
    spec: str,
    pipe: Any,
    *,
    untrained: bool,
    seed: int,
    extra: tuple,
    part: str = "",
) -> Model:
    kind = type(network).__name__
    if untrained:
        network = rebuild(network, seed)
        if pipe is not None:
            # The caller's pipeline keeps its own network.
            pipe = copy.copy(pipe)
            pipe.register_modules(**{part: network})
    if kind in UNETS:
        return UNet(network, spec, pipe=pipe, extra=extra)
    if kind in TRANSFORMERS:
        return Transformer(network, spec, pipe=pipe, extra=extra)
    if kind in VAES:
        return VAE(network, spec, extra=extra)
    raise InputError(f"{spec}: {kind} is none of {', '.join(UNETS + TRANSFORMERS + VAES)}")


# transformers


def _load_transformers(spec: str, rest: str, *, untrained: bool, seed: int, extra: tuple) -> Model:
    from transformers import AutoModel

    with _fetching(spec, rest):
        network = AutoModel.from_pretrained(rest)
    return _wrap_vision(network, spec, rest, untrained=untrained, seed=seed, extra=extra)


def _wrap_vision(
    network: nn.Module, spec: str, path: str, *, untrained: bool, seed: int, extra: tuple
) -> Model:
    # Two towers: the one that sees.
    network = getattr(network, "vision_model", network)
    config: Any = getattr(network, "config", None)
    size = getattr(config, "image_size", None)
    if size is None:
        raise InputError(f"{spec}: {type(network).__name__} has no image_size: no vision encoder")
    if untrained:
        network = rebuild(network, seed)
    size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    # ViT's own, pixels in [-1, 1], where nothing else is said; `identity()` tells what was used.
    norm = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5), **_preprocessor(path)}
    mean, std = tuple(norm["image_mean"]), tuple(norm["image_std"])
    model = Encoder(network, spec, size=size, mean=mean, std=std, extra=extra)
    model.provenance["pixels"] = {"mean": list(mean), "std": list(std)}
    return model


def _preprocessor(path: str) -> dict[str, Any]:
    """Return the settings of the encoder's image processor; empty where it ships none."""
    from transformers.image_processing_base import ImageProcessingMixin

    if not path:
        return {}
    try:
        return ImageProcessingMixin.get_image_processor_dict(path)[0]
    except OSError:
        return {}


def _load_lens(spec: str, rest: str, *, untrained: bool, seed: int, extra: tuple) -> Model:
    from transformer_lens.model_bridge import TransformerBridge

    if not untrained:
        with _fetching(spec, rest):
            bridge = TransformerBridge.boot_transformers(rest)
        return Bridge(bridge, spec, extra=extra)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with _fetching(spec, rest):
        config, tokenizer = (c.from_pretrained(rest) for c in (AutoConfig, AutoTokenizer))
    with fresh_state(seed):
        network = AutoModelForCausalLM.from_config(config)
    bridge = TransformerBridge.boot_transformers(rest, hf_model=network, tokenizer=tokenizer)
    return Bridge(bridge, spec, extra=extra)


# objects


def _load_object(spec: Any, adapter: Adapter | None, **options: Any) -> Model:
    name = f"object:{type(spec).__name__}"
    if adapter is not None:
        untrained, seed = options["untrained"], options["seed"]
        network = rebuild(spec, seed) if untrained else spec
        return Custom(network, name, adapter=adapter, extra=options["extra"])
    if hasattr(spec, "hook_dict") and hasattr(spec, "cfg"):
        if options["untrained"]:
            raise InputError("boot an untrained TransformerBridge yourself and pass it")
        return Bridge(spec, name, extra=options["extra"])
    if hasattr(spec, "components") and hasattr(spec, "scheduler"):
        return _wrap_pipeline(spec, name, "", **options)
    if type(spec).__name__ in UNETS + TRANSFORMERS + VAES:
        return _wrap(spec, name, None, **options)
    if isinstance(spec, nn.Module) and hasattr(getattr(spec, "config", None), "image_size"):
        return _wrap_vision(spec, name, "", **options)
    raise InputError(
        f"{type(spec).__name__} is unknown: give interp.load(module, adapter=...), "
        "see interp.models.Adapter"
    )


SCHEMES: dict[str, Callable[..., Model]] = {
    "zoo": _load_zoo,
    "asset": _load_asset,
    "diffusers": _load_diffusers,
    "transformers": _load_transformers,
    "lens": _load_lens,
}
