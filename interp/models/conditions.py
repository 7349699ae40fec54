"""One conditioned call of a pipeline's denoiser on latents that are already noised."""

from typing import Any

import torch
from torch import Tensor

from interp.models.inputs import EncodeBatch


def condition(pipe: Any, noisy: Tensor, t: Tensor, batch: EncodeBatch) -> None:
    """Run the denoiser of `pipe` once at `t` [b] with each image's prompt or class, or null.

    Args:
        pipe: a pipeline of one of the classes in `CONDITIONED`.
        noisy: latents [b, c, h, w].
        t: timesteps as the denoiser takes them.
        batch: its prompts and classes; empty prompts are the null condition.
    """
    texts = list(batch.prompts or [""] * len(noisy))
    CONDITIONED[type(pipe).__name__](pipe, noisy, t, texts, batch)


def _stable_diffusion(
    pipe: Any, x: Tensor, t: Tensor, texts: list[str], batch: EncodeBatch
) -> None:
    text, _ = pipe.encode_prompt(texts, x.device, 1, False)
    pipe.unet(x, t, encoder_hidden_states=text)


def _sdxl(pipe: Any, x: Tensor, t: Tensor, texts: list[str], batch: EncodeBatch) -> None:
    text, _, pooled, _ = pipe.encode_prompt(
        texts, device=x.device, do_classifier_free_guidance=False
    )
    if pipe.config.force_zeros_for_empty_prompt:
        empty = torch.tensor([not s for s in texts], device=x.device)
        text = text.masked_fill(empty[:, None, None], 0)
        pooled = pooled.masked_fill(empty[:, None], 0)
    size = (x.shape[2] * pipe.vae_scale_factor, x.shape[3] * pipe.vae_scale_factor)
    ids = pipe._get_add_time_ids(
        size, (0, 0), size, dtype=text.dtype, text_encoder_projection_dim=pooled.shape[1]
    )
    added = {"text_embeds": pooled, "time_ids": ids.to(x.device).repeat(len(x), 1)}
    pipe.unet(x, t, encoder_hidden_states=text, added_cond_kwargs=added)


def _sd3(pipe: Any, x: Tensor, t: Tensor, texts: list[str], batch: EncodeBatch) -> None:
    text, _, pooled, _ = pipe.encode_prompt(
        texts, None, None, device=x.device, do_classifier_free_guidance=False
    )
    pipe.transformer(
        hidden_states=x, timestep=t, encoder_hidden_states=text, pooled_projections=pooled
    )


def _flux(pipe: Any, x: Tensor, t: Tensor, texts: list[str], batch: EncodeBatch) -> None:
    text, pooled, text_ids = pipe.encode_prompt(texts, None, device=x.device)
    n, c, h, w = x.shape
    guidance = None
    if pipe.transformer.config.guidance_embeds:
        # 3.5 is FluxPipeline's default; the distilled network has no null guidance.
        guidance = torch.full((n,), 3.5, device=x.device, dtype=x.dtype)
    pipe.transformer(
        hidden_states=pipe._pack_latents(x, n, c, h, w),
        timestep=t.to(x.dtype),
        guidance=guidance,
        pooled_projections=pooled,
        encoder_hidden_states=text,
        txt_ids=text_ids,
        img_ids=pipe._prepare_latent_image_ids(n, h // 2, w // 2, x.device, x.dtype),
    )


def _pixart(pipe: Any, x: Tensor, t: Tensor, texts: list[str], batch: EncodeBatch) -> None:
    text, mask, _, _ = pipe.encode_prompt(texts, False, device=x.device)
    added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    # The networks with size conditioning are those with 128 x 128 latents (pipeline_pixart_alpha).
    if pipe.transformer.config.sample_size == 128:
        height, width = (side * pipe.vae_scale_factor for side in x.shape[2:])
        added["resolution"] = torch.tensor([[height, width]] * len(x)).to(x)
        added["aspect_ratio"] = torch.tensor([[height / width]] * len(x)).to(x)
    pipe.transformer(
        x,
        encoder_hidden_states=text,
        encoder_attention_mask=mask,
        timestep=t,
        added_cond_kwargs=added,
    )


def _dit(pipe: Any, x: Tensor, t: Tensor, texts: list[str], batch: EncodeBatch) -> None:
    # DiTPipeline's null class is 1000, whatever the config says.
    labels = torch.tensor(batch.classes or [1000] * len(x), device=x.device)
    pipe.transformer(x, timestep=t, class_labels=labels)


CONDITIONED = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _sdxl,
    "StableDiffusion3Pipeline": _sd3,
    "FluxPipeline": _flux,
    "PixArtAlphaPipeline": _pixart,
    "PixArtSigmaPipeline": _pixart,
    "DiTPipeline": _dit,
}
