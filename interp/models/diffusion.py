"""How a denoiser runs: through its diffusers pipeline, or in our own loop in pixel space."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp.errors import InputError
from interp.models.conditions import CONDITIONED, condition
from interp.models.inputs import EncodeBatch, GenerateBatch, Generation, check_latents
from interp.models.noise import (
    add_noise,
    draws_noise,
    generators,
    is_flow,
    log_snr_at,
    make_scheduler,
    normal,
    timestep_at,
)
from interp.models.pixels import to_image, to_unit
from interp.models.starts import see_latents, starting

# Image-to-video pipelines start from an image, which a generation recipe does not have.
NEEDS_IMAGE = ("StableVideoDiffusionPipeline",)
# The denoisers whose timestep is the scheduler's divided by its number of training steps.
UNIT_TIME = ("FluxPipeline",)


class Host:
    """A denoiser's surroundings: pipeline, scheduler, autoencoder, classes.

    Attributes:
        root: the denoiser.
        pipe: its diffusers pipeline, or None: the denoiser works on pixels in our own loop.
        unshuffle: pixels per side that are stacked into channels (own loop only).
        n_classes, null_class: classes that condition it, and the one that stands for none.
    """

    def __init__(
        self,
        root: nn.Module,
        *,
        pipe: Any = None,
        scheduler: Any = None,
        unshuffle: int = 1,
        n_classes: int = 0,
        null_class: int | None = None,
    ) -> None:
        # Any: what a host has beyond nn.Module is its own business.
        self.root: Any = root
        self.pipe, self.unshuffle = pipe, unshuffle
        self.n_classes, self.null_class = n_classes, null_class
        self._scheduler = scheduler
        self._active: Any = None
        if self.kind == "DiTPipeline":
            self.n_classes = self.root.config.num_embeds_ada_norm

    @property
    def kind(self) -> str:
        """Class name of the pipeline; "" for the own loop."""
        own = self.pipe is None or type(self.pipe).__name__ in ("DDPMPipeline", "DDIMPipeline")
        return "" if own else type(self.pipe).__name__

    @property
    def scheduler(self) -> Any:
        """The scheduler of the present run, else the model's own."""
        return self._active or self._scheduler or getattr(self.pipe, "scheduler", None)

    @property
    def conditional_first(self) -> bool:
        """DiTPipeline puts the condition before the null class; all others after it."""
        return self.kind == "DiTPipeline"

    @property
    def capabilities(self) -> frozenset[str]:
        """What works; nothing without a scheduler."""
        if self.scheduler is None:
            return frozenset()
        can = set() if self.kind in NEEDS_IMAGE else {"generate"}
        return frozenset(can | ({"encode"} if not self.kind or self.kind in CONDITIONED else set()))

    @property
    def image_size(self) -> tuple[int, int]:
        """Native height and width in pixels; (0, 0) where the config does not say."""
        size = self.root.config.get("sample_size") or 0
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        scale = getattr(self.pipe, "vae_scale_factor", None) if self.kind else self.unshuffle
        if scale is None:
            scale = 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)
        if self.kind == "FluxPipeline":
            height = width = self.pipe.default_sample_size
        return height * scale, width * scale

    def components(self) -> dict[str, nn.Module]:
        """The networks that decide an activation."""
        if self.pipe is None:
            return {"root": self.root}
        found = self.pipe.components.items()
        return {name: part for name, part in found if isinstance(part, nn.Module)}

    def log_snr(self, t: float | None) -> float | None:
        """Return the log-SNR at the root's timestep."""
        if t is None or self.scheduler is None:
            return None
        return log_snr_at(self.scheduler, t, scale=self._time_scale(self.scheduler))

    def _time_scale(self, scheduler: Any) -> float:
        return scheduler.config.num_train_timesteps if self.kind in UNIT_TIME else 1.0

    # Generation.

    def generate(self, batch: GenerateBatch) -> Tensor:
        """Return images [b, h, w, 3] in [0, 1], with a gradient; of a video, the first frame."""
        scheduler = make_scheduler(batch.scheduler, self.scheduler)
        with self._using(scheduler):
            run = self._pipeline if self.kind else self._loop
            x = run(batch, scheduler)
        if not bool(x.isfinite().all()):
            raise InputError(
                f"{type(scheduler).__name__} diverged: NaN or infinity in the image; it does not "
                "suit this model's noise schedule at this number of steps, or the dtype overflows"
            )
        return to_image(x)

    def draw_latents(self, batch: GenerateBatch) -> Tensor:
        """Return the latents of a batch's seeds, before the sampler's own factor."""
        if not self.kind:
            like = torch.empty(0, device=next(self.root.parameters()).device)
            return normal(batch.seeds, self._shape(batch), like)
        scheduler = make_scheduler(batch.scheduler, self.scheduler)
        with self._using(scheduler):
            run = partial(self._pipeline, batch, scheduler)
            return see_latents(self.pipe, scheduler, batch, run)

    def sources(self, recipe: Generation) -> dict[str, str]:
        """Return the sources of a generation and the fields of a batch that hold them."""
        found = {"x_T": "latents"}
        if draws_noise(make_scheduler(recipe.scheduler, self.scheduler), recipe.steps):
            found["step_noise"] = "step_seeds"
        if self.kind and not self._takes("class_labels") and recipe.prompts:
            found["prompts"] = "prompts"
        if recipe.classes or self.n_classes:
            found["classes"] = "classes"
        return found

    def _takes(self, name: str) -> bool:
        return name in inspect.signature(type(self.pipe).__call__).parameters

    @contextmanager
    def _using(self, scheduler: Any) -> Iterator[None]:
        before = getattr(self.pipe, "scheduler", None)
        self._active = scheduler
        if self.pipe is not None:
            self.pipe.scheduler = scheduler
        try:
            yield
        finally:
            self._active = None
            if self.pipe is not None:
                self.pipe.scheduler = before

    def _pipeline(self, batch: GenerateBatch, scheduler: Any) -> Tensor:
        arguments = self._arguments(batch)
        draws = generators(batch.step_seeds or batch.seeds)
        if self.conditional_first:
            # DiTPipeline gives the scheduler no generator: noise would come from global state.
            spare = generators(batch.step_seeds or batch.seeds) if batch.guidance > 1 else []
            _fix_noise(scheduler, [*draws, *spare])
        # Without its no_grad, which `Model.generate` has and `Model.render` must not have.
        call: Any = getattr(type(self.pipe).__call__, "__wrapped__", type(self.pipe).__call__)
        own = batch.latents is None and not batch.step_seeds
        start = nullcontext() if own else starting(self.pipe, scheduler, batch)
        with _no_global_noise(self.kind), start:
            output = call(self.pipe, generator=draws, **arguments)
        images = output.images if "images" in output else output.frames[:, 0]
        return images * 2 - 1

    def _arguments(self, batch: GenerateBatch) -> dict[str, Any]:
        """Return what the pipeline is called with, but for its random state."""
        takes = inspect.signature(type(self.pipe).__call__).parameters
        arguments: dict[str, Any] = {
            "num_inference_steps": batch.steps,
            "guidance_scale": batch.guidance,
            "output_type": "pt",
        }
        if "class_labels" in takes:
            if not batch.classes:
                raise InputError(f"{self.kind} needs classes")
            arguments["class_labels"] = list(batch.classes)
        else:
            arguments["prompt"] = list(batch.prompts or [""] * len(batch.seeds))
            if batch.negative_prompt:
                arguments["negative_prompt"] = [batch.negative_prompt] * len(batch.seeds)
        for key, value in {"height": batch.height, "width": batch.width}.items():
            if value and key not in takes:
                raise InputError(f"{self.kind} takes no {key}")
            if value:
                arguments[key] = value
        # Binning resizes the result; cleaning changes the prompt (and needs Beautiful Soup).
        fixed = ("use_resolution_binning", "clean_caption")
        arguments |= {key: False for key in fixed if key in takes}
        if "negative_prompt" in arguments and "negative_prompt" not in takes:
            raise InputError(f"{self.kind} takes no negative prompt")
        return arguments

    def _shape(self, batch: GenerateBatch) -> tuple[int, int, int]:
        """Channels and size of one sample in the own loop."""
        size = (batch.height, batch.width)
        height, width = (a or b for a, b in zip(size, self.image_size, strict=True))
        return self.root.config.in_channels, height // self.unshuffle, width // self.unshuffle

    def _start(self, batch: GenerateBatch, draws: list[torch.Generator]) -> Tensor:
        """Return the latents of a batch; `draws` are left where the noise of the steps begins."""
        shape = self._shape(batch)
        # Drawn whatever is chosen: the generators have to move past the latents.
        x = torch.stack([torch.randn(shape, generator=g) for g in draws])
        if batch.latents is not None:
            x = check_latents(batch.latents, x.shape, "samples")
        elif batch.step_seeds:
            x = normal(batch.seeds, shape, x)
        # The sampler's state stays in float32 whatever the network's type.
        return x.to(next(self.root.parameters()).device, torch.float32)

    def _loop(self, batch: GenerateBatch, scheduler: Any) -> Tensor:
        if batch.prompts or batch.negative_prompt:
            raise InputError("this model takes classes, not prompts")
        draws = generators(batch.step_seeds or batch.seeds)
        x = self._start(batch, draws)
        scheduler.set_timesteps(batch.steps)
        x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
        step = scheduler.step
        if "generator" in inspect.signature(step).parameters:
            step = partial(step, generator=draws)
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if not is_flow(scheduler) else x
            x = step(self._denoise(scaled, t, batch, scheduler), t, x).prev_sample
        return F.pixel_shuffle(x, self.unshuffle) if self.unshuffle > 1 else x

    def _denoise(self, x: Tensor, t: Tensor, batch: GenerateBatch, scheduler: Any) -> Tensor:
        dtype, labels = next(self.root.parameters()).dtype, self._labels(batch.classes, len(x))
        # One timestep for each sample: DiT takes no scalar.
        x, t = x.to(dtype), t.to(x.device).expand(len(x))
        null = self._labels((), len(x)) if batch.guidance > 1 else None
        if null is None or labels is None:
            out = self.root(x, t, **({} if labels is None else {"class_labels": labels})).sample
        else:
            # One doubled batch, [uncond, cond], as the pipelines of diffusers do it.
            both = torch.cat([null, labels])
            out = self.root(torch.cat([x, x]), torch.cat([t, t]), class_labels=both).sample
            uncond, cond = out.chunk(2)
            out = uncond.float() + batch.guidance * (cond.float() - uncond.float())
        learned = str(scheduler.config.get("variance_type", "")).startswith("learned")
        return (out if learned else out[:, : x.shape[1]]).float()

    def _labels(self, classes: tuple[int, ...], n: int) -> Tensor | None:
        is_dit = type(self.root).__name__ == "DiTTransformer2DModel"
        if getattr(self.root, "class_embedding", None) is None and not is_dit:
            if classes:
                raise InputError(f"classes {classes[:4]} for a model without classes")
            return None
        if not classes:
            if self.null_class is None:
                raise InputError("this model knows no null class: give classes")
            classes = (self.null_class,) * n
        config = self.root.config
        # DiT embeds the null class beside those that it counts.
        top = config.num_embeds_ada_norm + 1 if is_dit else config.num_class_embeds
        if top is not None and max(classes) >= top:
            raise InputError(f"class {max(classes)} of a model with {top} class embeddings")
        return torch.tensor(classes, device=next(self.root.parameters()).device)

    # Encoding.

    def encode(self, batch: EncodeBatch) -> None:
        """Run the denoiser once on images noised to the timestep nearest to `log_snr`."""
        if batch.log_snr is None or not batch.noise_seeds:
            raise InputError("a diffusion model encodes at a noise level: log_snr and noise_seeds")
        scheduler = self.scheduler
        scale = self._time_scale(scheduler)
        t = timestep_at(scheduler, batch.log_snr, scale=scale)
        actual = log_snr_at(scheduler, t, scale=scale)
        clean = self._clean(batch)
        noise = normal(batch.noise_seeds, tuple(clean.shape[1:]), clean)
        noisy = add_noise(scheduler, clean, noise, actual if actual is not None else batch.log_snr)
        time = torch.full((len(clean),), t, device=clean.device)
        if not is_flow(scheduler):
            time = time.long()
        if not self.kind:
            labels = self._labels(batch.classes, len(clean))
            extra = {} if labels is None else {"class_labels": labels}
            self.root(noisy, time, **extra)
            return
        condition(self.pipe, noisy, time, batch)

    def _clean(self, batch: EncodeBatch) -> Tensor:
        like = next(self.root.parameters())
        pixels = to_unit(batch.images, self.image_size, like)
        if not self.kind:
            return F.pixel_unshuffle(pixels, self.unshuffle) if self.unshuffle > 1 else pixels
        vae = self.pipe.vae
        code = vae.encode(pixels.to(vae.dtype)).latent_dist.mean
        shift = vae.config.get("shift_factor") or 0.0
        return ((code - shift) * vae.config.scaling_factor).to(like.dtype)


def _fix_noise(scheduler: Any, draws: list[torch.Generator]) -> None:
    """Make a scheduler of one run draw from `draws` where its caller names no generator."""
    step: Callable = scheduler.step
    if "generator" in inspect.signature(step).parameters:
        scheduler.step = partial(step, generator=draws)


@contextmanager
def _no_global_noise(kind: str) -> Iterator[None]:
    """Refuse a run that drew from the global random state: its images have no seed."""
    before = torch.get_rng_state()
    yield
    if not torch.equal(before, torch.get_rng_state()):
        raise InputError(
            f"{kind} (or an edit) drew from the global random state, so an image is not a function "
            "of its seed; choose a sampler without noise (ddim, euler) or seed the edit"
        )
