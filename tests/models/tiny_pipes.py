"""Tiny random-weight pipelines of the real classes, around the networks of `tiny`."""

from typing import Any

from tiny import (
    ddpm_net,
    dit_net,
    flux_net,
    kl,
    motion_unet,
    pixart_net,
    sd3_net,
    sd_unet,
    sdxl_unet,
    seeded,
    unet3d,
)
from torch import nn


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = list("abcdefghijklmnopqrstuvwxyz")
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def clip_text(*, projection: bool = False, width: int = 16) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def t5() -> tuple[Any, nn.Module]:
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    letters = [("▁", -1.0), *((c, -2.0) for c in "abcdefghijklmnopqrstuvwxyz")]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0)
    config = T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0
    )
    return tokenizer, T5EncoderModel(config).eval()


@seeded
def sd_pipe() -> Any:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=kl(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(),
        unet=sd_unet(),
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@seeded
def sdxl_pipe() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=kl(),
        text_encoder=clip_text(),
        text_encoder_2=clip_text(projection=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=sdxl_unet(),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    )


@seeded
def sd3_pipe() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        transformer=sd3_net(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl(),
        text_encoder=clip_text(projection=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text(projection=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


@seeded
def flux_pipe() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    tokenizer, text = t5()
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=kl(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=text,
        tokenizer_2=tokenizer,
        transformer=flux_net(),
    )
    pipe.default_sample_size = 8
    return pipe


@seeded
def pixart_pipe() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline

    tokenizer, text = t5()
    return PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        vae=kl(),
        transformer=pixart_net(),
        scheduler=DPMSolverMultistepScheduler(),
    )


@seeded
def dit_pipe() -> Any:
    from diffusers import DDIMScheduler, DiTPipeline

    return DiTPipeline(transformer=dit_net(), vae=kl(), scheduler=DDIMScheduler())


@seeded
def ddpm_pipe() -> Any:
    from diffusers import DDPMPipeline, DDPMScheduler

    return DDPMPipeline(unet=ddpm_net(), scheduler=DDPMScheduler())


@seeded
def video_pipe() -> Any:
    from diffusers import DDIMScheduler, TextToVideoSDPipeline

    return TextToVideoSDPipeline(
        vae=kl(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(),
        unet=unet3d(),
        scheduler=DDIMScheduler(),
    )


@seeded
def animate_pipe() -> Any:
    from diffusers import AnimateDiffPipeline, DDIMScheduler

    return AnimateDiffPipeline(
        vae=kl(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(),
        unet=motion_unet(),
        motion_adapter=None,
        scheduler=DDIMScheduler(),
    )


PIPES = {
    "sd": sd_pipe,
    "sdxl": sdxl_pipe,
    "sd3": sd3_pipe,
    "flux": flux_pipe,
    "pixart": pixart_pipe,
    "dit": dit_pipe,
    "ddpm": ddpm_pipe,
    "video": video_pipe,
    "animate": animate_pipe,
}
