"""Recipes that a user writes (Generation, Encoding, Rows) and the batches that a model takes."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from jaxtyping import Float, UInt8
from torch import Tensor

from interp.errors import InputError

# Names that `Generation.scheduler` takes, with the diffusers class behind each.
SCHEDULERS = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "flow_euler": "FlowMatchEulerDiscreteScheduler",
    "flow_heun": "FlowMatchHeunDiscreteScheduler",
}
CONDITIONS = ("null", "class", "caption")
DTYPES = ("native", "float16", "bfloat16", "float32")
HALVES = ("both", "cond", "uncond")
NOISES = ("own", "shared", "permuted")

R = TypeVar("R", "Generation", "Encoding", "Rows")


def _build(cls: type[R], values: Mapping[str, Any]) -> R:
    """Return a recipe from JSON values; lists become tuples."""
    names = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise InputError(f"{cls.__name__} has no field {unknown}; its fields are {names}")
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return cls(**fields)


def _at_least(recipe: Any, **bounds: int) -> None:
    for name, low in bounds.items():
        value = getattr(recipe, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise InputError(
                f"{type(recipe).__name__}.{name} = {value!r}: an integer >= {low} is needed"
            )


def _check_guidance(recipe: Any) -> None:
    # Below 1 no sampler here guides: the images would be those of 1 under another name.
    if not 1 <= recipe.guidance < math.inf:
        raise InputError(
            f"{type(recipe).__name__}.guidance = {recipe.guidance}: a number >= 1 is needed; 1 is "
            "no guidance"
        )


def _one_of(recipe: Any, name: str, allowed: Sequence[str]) -> None:
    value = getattr(recipe, name)
    if value not in allowed:
        raise InputError(
            f"{type(recipe).__name__}.{name} = {value!r} is not one of {', '.join(allowed)}"
        )


@dataclass(frozen=True)
class Generation:
    """Recipe for activations of a model that makes images."""

    n: int = 64
    """How many images."""
    seed: int = 0
    """Image i is made from seed + i alone, which also chooses its prompt and class."""
    prompts: tuple[str, ...] = ()
    """Texts, taken in turn by seed; empty: unconditional."""
    classes: tuple[int, ...] = ()
    """Class numbers, taken in turn by seed; empty: all where the model has classes."""
    negative_prompt: str = ""
    """What guidance moves away from."""
    scheduler: str = ""
    """Sampler: ddim, ddpm, euler, heun, pndm, dpm++ ...; empty: the model's own."""
    steps: int = 20
    """Sampling steps (some samplers call the network more often)."""
    guidance: float = 1.0
    """Classifier-free guidance scale, at least 1, which is no guidance."""
    height: int = 0
    """Height in pixels; 0: native."""
    width: int = 0
    """Width in pixels; 0: native."""
    truncation: float = 1.0
    """GANs: how far w keeps from its mean, 1 is all the way."""
    batch_size: int = 32
    """Images per batch; does not change any image beyond rounding."""

    def __post_init__(self) -> None:
        _at_least(self, n=1, seed=0, steps=1, height=0, width=0, batch_size=1)
        if self.scheduler:
            _one_of(self, "scheduler", tuple(SCHEDULERS))
        _check_guidance(self)
        if any(c < 0 for c in self.classes):
            raise InputError(f"Generation.classes = {self.classes}: numbers >= 0 are needed")

    def to_json(self) -> str:
        """Return the recipe as JSON, keys in the order of the fields."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json`'s text; unknown keys raise `InputError`."""
        return _build(cls, json.loads(text))

    def batch(self, start: int, stop: int, *, n_classes: int = 0) -> "GenerateBatch":
        """Return samples start..stop-1 as a batch; `n_classes` as in `Model.n_classes`."""
        # By seed, not by place: sample `seed + i` is one image whatever recipe it stands in.
        seeds = tuple(self.seed + i for i in range(start, stop))
        classes = self.classes or tuple(range(n_classes))
        return GenerateBatch(
            seeds=seeds,
            prompts=tuple(self.prompts[s % len(self.prompts)] for s in seeds)
            if self.prompts
            else (),
            classes=tuple(classes[s % len(classes)] for s in seeds) if classes else (),
            negative_prompt=self.negative_prompt,
            scheduler=self.scheduler,
            steps=self.steps,
            guidance=self.guidance,
            height=self.height,
            width=self.width,
            truncation=self.truncation,
        )


@dataclass(frozen=True)
class Encoding:
    """Recipe for activations of a model that looks at images."""

    images: str = "glyphs/heldout"
    """Images: glyphs/train, glyphs/heldout, glyphs/all, a folder, or a store with images."""
    limit: int = 0
    """At most this many images; 0: all."""
    size: int = 0
    """Height and width to which images are padded and resampled; 0: as they are, or, where a
    folder's images differ in size, the model's own size."""
    seed: int = 0
    """Noise draw j of an image comes from the seed, the image's id, j, and `noise` alone."""
    log_snr: tuple[float, ...] = ()
    """Diffusion models: noise levels as log(signal power / noise power); empty: 2, 0 and -2."""
    draws: int = 1
    """Noise draws per image."""
    condition: str = "null"
    """What the network is told: null (nothing), class, or caption."""
    noise: str = "own"
    """Whose noise: own (no two networks have any in common), shared (the same for all networks),
    or permuted (shared, but each network meets it with other images: a reference level)."""
    batch_size: int = 64
    """Images per batch; does not change any row beyond rounding."""

    def __post_init__(self) -> None:
        _at_least(self, limit=0, size=0, seed=0, draws=1, batch_size=1)
        _one_of(self, "condition", CONDITIONS)
        _one_of(self, "noise", NOISES)

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels, the defaults filled in."""
        # Mostly signal, as much signal as noise, mostly noise: 88, 50 and 12 % signal power.
        return self.log_snr or (2.0, 0.0, -2.0)

    def to_json(self) -> str:
        """Return the recipe as JSON, keys in the order of the fields."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json`'s text; unknown keys raise `InputError`."""
        return _build(cls, json.loads(text))


@dataclass(frozen=True)
class Rows:
    """Which rows of each map are kept, and how."""

    positions: str | int = "all"
    """all, mean (one row per map), or a number of random positions per map."""
    seed: int = 0
    """Seed of the random positions."""
    dtype: str = "native"
    """Type on disk: native, float16, bfloat16 or float32."""
    cfg: str = "both"
    """Guidance halves to keep: both, cond or uncond."""

    def __post_init__(self) -> None:
        _at_least(self, seed=0)
        _one_of(self, "dtype", DTYPES)
        _one_of(self, "cfg", HALVES)
        if isinstance(self.positions, str):
            # A command line cannot tell "16" from 16.
            if self.positions.isdecimal():
                object.__setattr__(self, "positions", int(self.positions))
            else:
                _one_of(self, "positions", ("all", "mean"))
        if not isinstance(self.positions, str):
            _at_least(self, positions=1)

    def to_json(self) -> str:
        """Return the recipe as JSON, keys in the order of the fields."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json`'s text; unknown keys raise `InputError`."""
        return _build(cls, json.loads(text))


@dataclass(frozen=True)
class GenerateBatch:
    """Samples to make: one seed each, and one prompt or class each where given.

    A recipe gives seeds alone. Only interventions fill `latents` and `step_seeds`, to take one
    sample's start and another's noise: such images have no id (`Origin.image_ids`).

    Attributes:
        seeds: one per sample; fixes all of its noise that the next two do not.
        prompts, classes: one per sample, or empty.
        negative_prompt, scheduler, steps, guidance, height, width, truncation: as in `Generation`.
        latents: [b, *shape] of unit normal scale: the noise that a sampler starts from, before the
            sampler's own factor; z of a GAN; the code of an autoencoder in units of its prior.
            None: from `seeds`, as `Model.draw_latents` shows them.
        step_seeds: one per sample, of all other noise (a sampler's steps, a GAN's noise maps),
            which is what the plain run of that seed has; empty: `seeds`.
    """

    seeds: tuple[int, ...]
    prompts: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()
    negative_prompt: str = ""
    scheduler: str = ""
    steps: int = 20
    guidance: float = 1.0
    height: int = 0
    width: int = 0
    truncation: float = 1.0
    latents: Float[Tensor, "b ..."] | None = None
    step_seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        per_sample = {"classes": self.classes, "step_seeds": self.step_seeds}
        _same_length("seeds", self.seeds, prompts=self.prompts, **per_sample)
        _check_guidance(self)
        if self.latents is not None:
            given = self.latents.shape[1:] if isinstance(self.latents, Tensor) else ()
            check_latents(self.latents, (len(self.seeds), *given), "seeds")


@dataclass(frozen=True)
class EncodeBatch:
    """Images to encode, and the noise and condition of each.

    Attributes:
        images: uint8 [b, h, w, 3]; other sizes than the model's own are resized.
        noise_seeds: one per image (see `noise_seed`); needed by diffusion models.
        log_snr: noise level that diffusion models take; None elsewhere.
        prompts, classes: condition of each image, or empty for none.
        call: call index that the pass gets, such as the number of the noise level.
    """

    images: UInt8[Tensor, "b h w 3"]
    noise_seeds: tuple[int, ...] = ()
    log_snr: float | None = None
    prompts: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()
    call: int = 0

    def __post_init__(self) -> None:
        import torch

        images = self.images
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != torch.uint8:
            raise InputError(
                f"images are {images.dtype} {tuple(images.shape)}; uint8 [b, h, w, 3] is needed"
            )
        per_sample = {"noise_seeds": self.noise_seeds, "classes": self.classes}
        _same_length("images", images, prompts=self.prompts, **per_sample)


def _same_length(name: str, first: Any, **others: Sequence) -> None:
    if len(first) == 0:
        raise InputError(f"an empty batch: no {name}")
    for other, values in others.items():
        if values and len(values) != len(first):
            raise InputError(f"{len(values)} {other} for {len(first)} {name}")


def check_latents(latents: Tensor, shape: Sequence[int], what: str) -> Tensor:
    """Return latents that are finite floats of the shape that `what` needs; else `InputError`."""
    if not isinstance(latents, Tensor):
        raise InputError(
            f"latents are a {type(latents).__name__}: {what} here need a float tensor of shape "
            f"{tuple(shape)}; make one of an array by torch.as_tensor(...)"
        )
    if tuple(latents.shape) != tuple(shape) or not latents.is_floating_point():
        raise InputError(
            f"latents {latents.dtype} {tuple(latents.shape)}: {what} here need floats of shape "
            f"{tuple(shape)}, as Model.draw_latents(batch) gives them"
        )
    odd = latents.numel() - int(latents.isfinite().sum())
    if odd:
        raise InputError(
            f"{odd} of {latents.numel()} numbers of the latents are NaN or infinite: no image can "
            "be made of them"
        )
    return latents


def noise_seed(seed: int, image_id: str, draw: int, network: str = "") -> int:
    """Return the seed of noise draw `draw` of an image: a stable 63-bit hash of what is given.

    network: digest of the weights that look at it, so that networks have noise of their own; ""
    for noise that all share.
    """
    text = json.dumps([seed, image_id, draw, network] if network else [seed, image_id, draw])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
