"""Tiny random-weight networks of the real classes; each is built once a session."""

import functools
import warnings
from typing import Any

import torch
from torch import nn


def seeded(build: Any) -> Any:
    """Run a builder once, under a seed of its own, without touching the global random state."""

    @functools.cache
    def once() -> Any:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # Pipelines warn about missing optional parts and outdated configs.
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            made = build()
        if isinstance(made, nn.Module):
            made.eval()
        else:
            made.set_progress_bar_config(disable=True)
        return made

    return once


UNET = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
}
DDPM = UNET | {"in_channels": 3, "out_channels": 3, "attention_head_dim": 8}
DOWN2, UP2 = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
SD = UNET | {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}


@seeded
def ddpm_net() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(**DDPM, down_block_types=DOWN2, up_block_types=UP2)


@seeded
def adm_net() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        **DDPM,
        down_block_types=DOWN2,
        up_block_types=UP2,
        num_class_embeds=4,
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
    )


@seeded
def kl() -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=16,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        shift_factor=0.1,
    )


@seeded
def vq() -> nn.Module:
    from diffusers import VQModel

    return VQModel(
        sample_size=16,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        num_vq_embeddings=8,
    )


@seeded
def tiny_vae() -> nn.Module:
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    )


@seeded
def sd_unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**SD)


@seeded
def sdxl_unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        **SD
        | {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + 16,
            "cross_attention_dim": 32,
        }
    )


@seeded
def unet3d() -> nn.Module:
    from diffusers import UNet3DConditionModel

    return UNet3DConditionModel(
        **SD
        | {
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
            "attention_head_dim": 4,
        }
    )


@seeded
def svd_unet() -> nn.Module:
    from diffusers import UNetSpatioTemporalConditionModel

    return UNetSpatioTemporalConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=16,
        num_attention_heads=2,
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12,
    )


@seeded
def motion_unet() -> nn.Module:
    from diffusers import UNetMotionModel

    return UNetMotionModel(
        **{k: v for k, v in SD.items() if k != "attention_head_dim"}
        | {
            "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
            "num_attention_heads": 2,
            "motion_num_attention_heads": 2,
            "use_motion_mid_block": True,
        }
    )


@seeded
def dit_net() -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_elementwise_affine=False,
    )


@seeded
def pixart_net() -> nn.Module:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        patch_size=2,
    )


@seeded
def sd3_net() -> nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    )


@seeded
def flux_net() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
    )


NETS = {
    "ddpm": ddpm_net,
    "adm": adm_net,
    "sd": sd_unet,
    "sdxl": sdxl_unet,
    "unet3d": unet3d,
    "svd": svd_unet,
    "motion": motion_unet,
    "dit": dit_net,
    "pixart": pixart_net,
    "sd3": sd3_net,
    "flux": flux_net,
    "kl": kl,
    "vq": vq,
    "tiny_vae": tiny_vae,
}
