"""Samplers run backwards, and null-text optimization around the path that they find."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.models.inputs import GenerateBatch
from interp.models.inversion_gan import Found
from interp.models.noise import is_flow, make_scheduler

# Mokady et al. 2022: 10 optimizer steps per sampler step.
NULL_ITERATIONS = 10
# Released code of null-text inversion: Adam at .01.
NULL_LR = 1e-2

Predict = Callable[[Tensor, Tensor], Tensor]


def invert_sampler(
    model: Any, pixels: Float[Tensor, "b 3 h w"], batch: GenerateBatch, refinements: int
) -> Found:
    """Run the batch's sampler, "ddim" or "dpm++", from images to its initial latents.

    DDIM: x_t = sqrt(a_t) x0(e) + sqrt(1 - a_t) e from the x_s of the step before, e the noise that
    the network predicts at (x_s, t) or, refined, at (x_t, t), where the step is exact.
    """
    host = _host(model)
    clean, codec = _encode(host, pixels)
    with torch.no_grad():
        forward = make_scheduler(batch.scheduler, host.scheduler)
        predict = _predictor(host, batch, forward)
        if batch.scheduler == "ddim":
            return Found(_ddim_path(host, clean, predict, batch.steps, refinements)[-1], codec)
        return Found(_dpm(host, clean, predict, batch.steps), codec)


def _host(model: Any) -> Any:
    host = model.host
    if host.scheduler is None:
        raise InputError(f"{model.name} has no scheduler: load it with its pipeline to invert")
    if host.kind not in ("", "StableDiffusionPipeline"):
        raise InputError(
            f"no inverse for a {host.kind}: networks on pixels and StableDiffusionPipeline have one"
        )
    if is_flow(host.scheduler):
        raise InputError(f"{model.name} is a flow: its sampler has no inverse scheduler here")
    spacing = host.scheduler.config.get("timestep_spacing")
    if spacing not in ("leading", "trailing"):
        raise InputError(
            f"{model.name} spaces its timesteps by {spacing!r}; DDIMInverseScheduler knows "
            "'leading' and 'trailing': load the pipeline with a scheduler of one of these"
        )
    return host


@torch.no_grad()
def _encode(host: Any, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Clean state of the sampler and, for latent models, what the autoencoder makes of it."""
    if not host.kind:
        return F.pixel_unshuffle(pixels, host.unshuffle) if host.unshuffle > 1 else pixels, None
    vae = host.pipe.vae
    code = vae.encode(pixels.to(vae.dtype)).latent_dist.mean
    # As StableDiffusionPipeline decodes: by the factor alone.
    return (code * vae.config.scaling_factor).float(), vae.decode(code).sample


def _predictor(host: Any, batch: GenerateBatch, scheduler: Any) -> Predict:
    """The network's guided output at (x, t)."""
    if not host.kind:
        return lambda x, t: host._denoise(x, t, batch, scheduler)
    cond, null = _embed(host, batch)
    guided = null if batch.guidance > 1 else None
    return lambda x, t: _predict_text(host, x, t, cond, guided, batch.guidance)


def _embed(host: Any, batch: GenerateBatch) -> tuple[Tensor, Tensor]:
    """Conditional and unconditional text embeddings [b, tokens, d]."""
    if batch.classes:
        raise InputError(f"{host.kind} takes prompts, not classes")
    n = len(batch.seeds)
    texts = list(batch.prompts or [""] * n)
    device = next(host.root.parameters()).device
    with torch.no_grad():
        cond, null = host.pipe.encode_prompt(
            texts, device, 1, True, negative_prompt=[batch.negative_prompt] * n
        )
    return cond, null


def _predict_text(
    host: Any, x: Tensor, t: Tensor, cond: Tensor, null: Tensor | None, guidance: float
) -> Tensor:
    x = x.to(cond.dtype)
    if null is None:
        return host.root(x, t, encoder_hidden_states=cond).sample.float()
    both = torch.cat([null, cond])
    out = host.root(torch.cat([x, x]), t, encoder_hidden_states=both).sample.float()
    without, given = out.chunk(2)
    return without + guidance * (given - without)


def _noise_of(kind: str, output: Tensor, x: Tensor, before: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The noise by which a DDIM step from level a leads back to `before` at level b.

    `output` is the network's at x. Of v, the step is a rotation by the angle between the levels,
    before = cos x_t - sin v, which is solved for x_t with v held: so repetition converges where
    sampling starts (as noise, v would be divided by sqrt(a), about 0 there).
    """
    if kind == "epsilon":
        return output
    if kind == "sample":
        return (x - a.sqrt() * output) / (1 - a).sqrt()
    cosine = (a * b).sqrt() + ((1 - a) * (1 - b)).sqrt()
    sine = (b * (1 - a)).sqrt() - (a * (1 - b)).sqrt()
    return a.sqrt() * output + (1 - a).sqrt() * (before + sine * output) / cosine


def _ddim_path(
    host: Any, clean: Tensor, predict: Predict, steps: int, refinements: int
) -> list[Tensor]:
    """States from the clean one to the initial latents, steps + 1 of them."""
    from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler

    kind = host.scheduler.config.prediction_type
    # Noise is given to it, so that v counts at the level where the network was asked; what the
    # sampler clips on its way cannot be undone by clipping again.
    options: dict[str, Any] = {"prediction_type": "epsilon", "clip_sample": False}
    inverse: Any = DDIMInverseScheduler.from_config(host.scheduler.config, **options)
    inverse.set_timesteps(steps)
    # The scheduler's own step, in training timesteps.
    stride = inverse.config.num_train_timesteps // steps
    path = [clean]
    for t in inverse.timesteps:
        before, start = path[-1], int(t) - stride
        source = inverse.initial_alpha_cumprod if start < 0 else inverse.alphas_cumprod[start]
        levels = [inverse.alphas_cumprod[int(t)].to(clean), source.to(clean)]
        x = before
        for _ in range(1 + refinements):
            noise = _noise_of(kind, predict(x, t), x, before, *levels)
            x = inverse.step(noise, int(t), before).prev_sample
        path.append(x)
    return path


def _dpm(host: Any, clean: Tensor, predict: Predict, steps: int) -> Tensor:
    from diffusers.schedulers.scheduling_dpmsolver_multistep_inverse import (
        DPMSolverMultistepInverseScheduler,
    )

    # Sampling begins with a step of first order too: beyond the last level but one, two
    # predictions are too near each other to be extrapolated.
    options: dict[str, Any] = {"euler_at_final": True}
    if host.scheduler.config.timestep_spacing == "trailing":
        # By "trailing" it would take the clean image for one at the last timestep of sampling.
        options["timestep_spacing"] = "linspace"
    inverse: Any = DPMSolverMultistepInverseScheduler.from_config(host.scheduler.config, **options)
    inverse.set_timesteps(steps)
    x = clean
    for t in inverse.timesteps:
        x = inverse.step(predict(x, t), t, x).prev_sample
    return x


def optimize_nulls(
    model: Any, pixels: Float[Tensor, "b 3 h w"], batch: GenerateBatch, settings: Any
) -> Found:
    """Null-text inversion: per step, the unconditional embedding that keeps guidance on the path.

    z*_T .. z*_0: DDIM inversion without guidance. From z_T = z*_T on, per step t: Adam on
    ||z*_s - step(z_t, e_null + guidance (e_text - e_null))||^2 over the embedding of e_null, which
    starts from that of the step before (first: of the negative prompt); then z_s by that step.
    The number of optimizer steps is fixed, so that no image depends on its batch.
    """
    host = _host(model)
    if host.kind != "StableDiffusionPipeline":
        raise InputError(f"{model.name} has no text embedding: null_text needs a text pipeline")
    clean, codec = _encode(host, pixels)
    cond, null = _embed(host, batch)
    with torch.no_grad():
        plain = lambda x, t: _predict_text(host, x, t, cond, None, 1.0)  # noqa: E731
        path = _ddim_path(host, clean, plain, batch.steps, settings.refinements)
    scheduler = make_scheduler("ddim", host.scheduler)
    scheduler.set_timesteps(batch.steps)
    z, found = path[-1], []
    for t, target in zip(scheduler.timesteps, reversed(path[:-1]), strict=True):

        def step(x: Tensor, embedding: Tensor, t: Tensor = t) -> Tensor:
            out = _predict_text(host, x, t, cond, embedding, batch.guidance)
            return scheduler.step(out, t, x).prev_sample

        null = _optimize(null, lambda e, z=z, step=step: step(z, e), target, settings)
        with torch.no_grad():
            z = step(z, null)
        found.append(null.float())
    return Found(path[-1], codec, nulls=torch.stack(found, 1))


def _optimize(
    start: Tensor, step: Callable[[Tensor], Tensor], target: Tensor, settings: Any
) -> Tensor:
    embedding = start.detach().clone().requires_grad_()
    adam = torch.optim.Adam([embedding], lr=settings.lr or NULL_LR)
    for _ in range(settings.iterations or NULL_ITERATIONS):
        adam.zero_grad()
        # A mean per image, a sum over images: each has the gradient that it has alone.
        loss = (step(embedding) - target).square().flatten(1).mean(1).sum()
        embedding.grad = torch.autograd.grad(loss, embedding)[0]
        adam.step()
    return embedding.detach()
