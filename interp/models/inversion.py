"""Find what an image is made from: the latents at which a model makes it again, and how well."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.errors import InputError
from interp.models.editing import Call, Edit, editing
from interp.models.inputs import GenerateBatch
from interp.models.inversion_gan import Features, Found, invert_gan
from interp.models.inversion_sampler import invert_sampler, optimize_nulls
from interp.models.model import Model
from interp.models.pixels import to_uint8, to_unit

# What each family can do; the first is its default.
METHODS: dict[str, tuple[str, ...]] = {
    "unet": ("ddim", "dpm", "null_text"),
    "transformer": ("ddim", "dpm"),
    "vae": ("encode",),
    "gan": ("w_plus", "w"),
}
# The sampler that makes the image again.
SAMPLERS = {"ddim": "ddim", "dpm": "dpm++", "null_text": "ddim"}
NOISES = ("fixed", "zero", "optimized")


@dataclass(frozen=True)
class InversionSettings:
    """How images are inverted; a field that a method does not use is ignored by it."""

    steps: int = 50
    """Sampler steps (DDIM's and null-text's usual number)."""
    guidance: float = 1.0
    """Guidance under which the image is made again; 1 is none. DDIM and DPM invert under it too,
    null_text inverts under none and needs more than 1 here (Mokady et al.: 7.5)."""
    refinements: int = 5
    """DDIM: how often each step is solved anew with the prediction at its own result; 0 is plain
    DDIM inversion. On zoo:ddpm and held-out images, 50 steps: 18 dB with 0, 74 with 5 (medians)."""
    iterations: int = 0
    """Optimizer steps; 0: null_text 10 per sampler step (Mokady et al.), GANs 300."""
    lr: float = 0.0
    """Adam's rate; 0: null_text .01 (its released code), GANs .1 (StyleGAN2, app. D)."""
    noise: str = "fixed"
    """GANs: noise maps are "fixed" (those of the seeds), "zero", or "optimized" with the codes."""
    feature_weight: float = 1.0
    """GANs: weight of the mean squared distance of features beside that of pixels in [-1, 1]."""
    batch_size: int = 16
    """Images at a time; no image's result depends on the others beyond rounding."""
    seed: int = 0
    """Image i has the seed `seed + i`, which gives a GAN's fixed noise."""

    def __post_init__(self) -> None:
        lows = {"steps": 1, "batch_size": 1, "refinements": 0, "iterations": 0, "seed": 0}
        for name, low in lows.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} = {getattr(self, name)}: at least {low} is needed")
        if self.noise not in NOISES:
            raise InputError(f"noise = {self.noise!r} is not one of {', '.join(NOISES)}")
        if not (self.lr >= 0 and self.feature_weight >= 0):
            raise InputError(f"lr = {self.lr}, feature_weight = {self.feature_weight}: both >= 0")


@dataclass(frozen=True, eq=False)
class Inversion:
    """What images were inverted to, and what the model makes of it again."""

    method: str
    """One of `METHODS`."""
    latents: Float[Tensor, "n ..."]
    """x_T or the autoencoder's code at unit normal scale; w [n, d] or w_plus [n, layers, d]."""
    batch: GenerateBatch
    """What `generate` takes within `restoring` to make the images again."""
    images: UInt8[Tensor, "n h w 3"]
    """What was inverted, at the model's size."""
    reconstruction: UInt8[Tensor, "n h w 3"]
    rms: Float[Tensor, " n"]
    """Root mean squared difference of the two, pixels in [0, 1]."""
    psnr: Float[Tensor, " n"]
    """-20 log10(rms) in dB; infinite where they are equal."""
    codec_psnr: Float[Tensor, " n"] | None = None
    """The same of the autoencoder alone, the most that a latent diffusion model can reach."""
    nulls: Float[Tensor, "n steps tokens d"] | None = None
    """null_text: the unconditional embedding of each step."""
    noise: tuple[Float[Tensor, "n 1 h h"], ...] = ()
    """GANs: noise maps, where they are not those of the seeds."""
    settings: dict[str, Any] = field(default_factory=dict)


def invert(
    model: Model,
    images: UInt8[Tensor, "n h w 3"],
    method: str = "",
    settings: InversionSettings | None = None,
    *,
    prompts: Sequence[str] = (),
    classes: Sequence[int] = (),
    features: Features | None = None,
) -> Inversion:
    """Find latents from which a model makes images again; the error is part of the result.

    "ddim": the deterministic sampler run backwards by diffusers' DDIMInverseScheduler, each step
    with the prediction at its start, which is what makes it inexact (`refinements`). "dpm": the
    second-order DPM-Solver++ likewise. "null_text": DDIM without guidance, then for each step the
    unconditional embedding at which guided sampling stays on that path (Stable Diffusion
    pipelines). "encode": the mean code of an autoencoder's own encoder. "w", "w_plus": Adam from
    the mean w, then, for w_plus, from that w with one code per layer.

    Args:
        model: a diffusion model on pixels or a Stable Diffusion pipeline, an autoencoder, or a GAN.
        images: of any size; they are resized to the model's.
        method: one of `METHODS` of the family; "" is its first.
        settings: how; None is all defaults.
        prompts, classes: one per image, or none.
        features: images [b, 3, h, w] in [-1, 1] -> [b, ...], an encoder's; beside the pixels in
            the loss of a GAN's codes.

    Raises:
        InputError: a family or pipeline that has no inverse, a method that it does not have,
            images, prompts or classes that do not fit.

    Sources: Song et al. 2021 (arXiv 2010.02502), eq. 14; Lu et al. 2022 (arXiv 2211.01095);
    Mokady et al. 2022 (arXiv 2211.09794); Karras et al. 2020 (arXiv 1912.04958), app. D;
    refinements: Pan et al. 2023 (arXiv 2309.04907).
    """
    settings = settings or InversionSettings()
    method = _check(model, images, method, settings)
    given: dict[str, Any] = {"prompts": tuple(prompts), "classes": tuple(classes)}
    if method in SAMPLERS:
        sampled = {"steps": settings.steps, "guidance": settings.guidance}
        given |= {"scheduler": SAMPLERS[method], **sampled}
    seeds = tuple(settings.seed + i for i in range(len(images)))
    whole = GenerateBatch(seeds, **given)
    parts = []
    for start in range(0, len(images), settings.batch_size):
        rows = slice(start, start + settings.batch_size)
        batch = select_rows(whole, rows)
        like = next(model.root.parameters())
        pixels = to_unit(images[rows], model.image_size, torch.empty(0, device=like.device))
        found = _find(model, pixels, batch, method, settings, features)
        parts.append(_judge(model, method, found, pixels, batch))
    return _join(parts, whole, {**asdict(settings), "features": features is not None})


def _check(model: Model, images: Tensor, method: str, settings: InversionSettings) -> str:
    known = METHODS.get(model.family)
    if known is None:
        raise InputError(
            f"{model.name} is a {model.family}: it makes no images, so none has an inverse; "
            f"families that have one: {', '.join(METHODS)}"
        )
    if method and method not in known:
        raise InputError(f"{model.name} ({model.family}) inverts by {', '.join(known)}: {method!r}")
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != torch.uint8 or not len(images):
        raise InputError(
            f"images are {images.dtype} {tuple(images.shape)}; uint8 [n >= 1, h, w, 3] is needed"
        )
    method = method or known[0]
    if method == "null_text" and not settings.guidance > 1:
        raise InputError("null_text makes images again under guidance: give guidance > 1 (7.5)")
    return method


def _find(
    model: Any,
    pixels: Float[Tensor, "b 3 h w"],
    batch: GenerateBatch,
    method: str,
    settings: InversionSettings,
    features: Features | None,
) -> Found:
    if model.family == "gan":
        if batch.prompts or batch.classes:
            raise InputError(f"{model.name} takes neither prompts nor classes")
        return invert_gan(model, pixels, batch, method, settings, features)
    if method == "encode":
        with torch.no_grad():
            code = model._code(pixels.to(model.dtype))
        return Found(((code - model.shift) * model.scale).float())
    if method == "null_text":
        return optimize_nulls(model, pixels, batch, settings)
    return invert_sampler(model, pixels, batch, settings.refinements)


def _judge(
    model: Model, method: str, found: Found, pixels: Tensor, batch: GenerateBatch
) -> Inversion:
    """Make the images again and measure."""
    given = None if model.family == "gan" else found.latents
    batch = replace(batch, latents=given)
    images, blank = to_uint8(pixels), torch.zeros(0)
    draft = Inversion(method, found.latents, batch, images, images, blank, blank)
    draft = replace(draft, nulls=found.nulls, noise=found.noise)
    made = regenerate(model, draft)
    rms, psnr = _error(made, images)
    codec = None if found.codec is None else _error(to_uint8(found.codec), images)[1]
    return replace(draft, reconstruction=made, rms=rms, psnr=psnr, codec_psnr=codec)


def _error(made: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    difference = (made.double() - images.double()) / 255
    rms = difference.square().flatten(1).mean(1).sqrt()
    return rms, -20 * torch.log10(rms)


def _join(parts: list[Inversion], whole: GenerateBatch, settings: dict[str, Any]) -> Inversion:
    def cat(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    names = ("latents", "images", "reconstruction", "rms", "psnr", "codec_psnr", "nulls")
    columns = {name: cat(name) for name in names}
    noise = tuple(torch.cat(maps) for maps in zip(*(p.noise for p in parts), strict=True))
    given = None if parts[0].batch.latents is None else columns["latents"]
    batch = replace(whole, latents=given)
    return replace(parts[0], batch=batch, noise=noise, settings=settings, **columns)


def select_rows(batch: GenerateBatch, rows: slice) -> GenerateBatch:
    """Return some samples of a batch."""
    names = ("seeds", "prompts", "classes", "step_seeds")
    parts: dict[str, Any] = {name: getattr(batch, name)[rows] for name in names}
    latents = None if batch.latents is None else batch.latents[rows]
    return replace(batch, latents=latents, **parts)


@contextmanager
def restoring(
    model: Model, inversion: Inversion, rows: slice = slice(None)
) -> Iterator[GenerateBatch]:
    """Put in place what a batch cannot hold (w, noise maps, null embeddings); yield the batch.

    Within the context, `model.generate(batch)` makes the images again, under further edits too.

    Args:
        model: the model that the images were inverted on.
        inversion: what `invert` returned.
        rows: which of its images.
    """
    with ExitStack() as stack:
        edits = {**_code_edits(model, inversion, rows), **_noise_edits(inversion, rows)}
        if edits:
            stack.enter_context(editing(model, edits))
        if inversion.nulls is not None:
            nulls = inversion.nulls[rows]
            names = [name for name in model.points if name.startswith("context.")]

            def put(given: Tensor, call: Call) -> Tensor:
                return nulls[:, call.call].to(given)

            stack.enter_context(editing(model, dict.fromkeys(names, put), cfg="uncond"))
        yield select_rows(inversion.batch, rows)


def _code_edits(model: Model, inversion: Inversion, rows: slice) -> dict[str, Edit]:
    code = inversion.latents[rows]
    if inversion.method == "w":
        return {"w": lambda given, call: code[:, None].to(given)}
    if inversion.method != "w_plus":
        return {}
    return {
        f"w_plus.{i}": lambda given, call, i=i: code[:, i : i + 1].to(given)
        for i in range(code.shape[1])
    }


def _noise_edits(inversion: Inversion, rows: slice) -> dict[str, Edit]:
    return {
        f"noise.{i}": lambda given, call, m=m: m[rows].flatten(1)[:, :, None].to(given)
        for i, m in enumerate(inversion.noise)
    }


def regenerate(model: Model, inversion: Inversion) -> UInt8[Tensor, "n h w 3"]:
    """Make the inverted images again; equal to `reconstruction` up to the size of the batches."""
    with restoring(model, inversion) as batch:
        return model.generate(batch)
