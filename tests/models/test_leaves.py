"""The blocks of each class, listed by hand: no adapter may forget one."""

import pytest
import tiny
from cases import bridge, zoo

from interp.loading import load

# Written from the printed networks, not from the adapters.
TRANSFORMER = ("attn1", "attn2", "ff", "")


def transformer(path: str, *, layers: int = 1) -> list[str]:
    blocks = [f"{path}.transformer_blocks.{i}" for i in range(layers)]
    return [f"{b}.{leaf}".rstrip(".") for b in blocks for leaf in TRANSFORMER] + [path]


def skips(n: int) -> list[str]:
    return [f"skip.{i}" for i in range(n)]


BASE = ["x_T", "x_t", "conv_in", "conv_out"]
LEAVES = {
    "ddpm": [
        *BASE,
        "down_blocks.0.resnets.0",
        "down_blocks.0.downsamplers.0",
        "down_blocks.1.resnets.0",
        "down_blocks.1.attentions.0",
        "mid_block.resnets.0",
        "mid_block.attentions.0",
        "mid_block.resnets.1",
        "up_blocks.0.resnets.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.resnets.1",
        "up_blocks.0.attentions.1",
        "up_blocks.0.upsamplers.0",
        "up_blocks.1.resnets.0",
        "up_blocks.1.resnets.1",
        *skips(4),
    ],
    "sd": [
        *BASE,
        "down_blocks.0.resnets.0",
        *transformer("down_blocks.0.attentions.0"),
        "down_blocks.0.downsamplers.0",
        "down_blocks.1.resnets.0",
        "mid_block.resnets.0",
        *transformer("mid_block.attentions.0"),
        "mid_block.resnets.1",
        "up_blocks.0.resnets.0",
        "up_blocks.0.resnets.1",
        "up_blocks.0.upsamplers.0",
        "up_blocks.1.resnets.0",
        *transformer("up_blocks.1.attentions.0"),
        "up_blocks.1.resnets.1",
        *transformer("up_blocks.1.attentions.1"),
        *skips(4),
        "context.down_blocks.0.attentions.0.transformer_blocks.0.attn2",
        "context.mid_block.attentions.0.transformer_blocks.0.attn2",
        "context.up_blocks.1.attentions.0.transformer_blocks.0.attn2",
        "context.up_blocks.1.attentions.1.transformer_blocks.0.attn2",
    ],
    "sdxl": [
        *BASE,
        "down_blocks.0.resnets.0",
        "down_blocks.0.downsamplers.0",
        "down_blocks.1.resnets.0",
        *transformer("down_blocks.1.attentions.0", layers=2),
        "mid_block.resnets.0",
        *transformer("mid_block.attentions.0", layers=2),
        "mid_block.resnets.1",
        "up_blocks.0.resnets.0",
        *transformer("up_blocks.0.attentions.0", layers=2),
        "up_blocks.0.resnets.1",
        *transformer("up_blocks.0.attentions.1", layers=2),
        "up_blocks.0.upsamplers.0",
        "up_blocks.1.resnets.0",
        "up_blocks.1.resnets.1",
        *skips(4),
    ],
    "unet3d": [
        *BASE,
        *transformer("transformer_in"),
        "down_blocks.0.resnets.0",
        "down_blocks.0.temp_convs.0",
        *transformer("down_blocks.0.attentions.0"),
        *transformer("down_blocks.0.temp_attentions.0"),
        "down_blocks.0.downsamplers.0",
        "down_blocks.1.resnets.0",
        "down_blocks.1.temp_convs.0",
        "mid_block.resnets.0",
        "mid_block.temp_convs.0",
        *transformer("mid_block.attentions.0"),
        *transformer("mid_block.temp_attentions.0"),
        "mid_block.resnets.1",
        "mid_block.temp_convs.1",
        "up_blocks.0.resnets.0",
        "up_blocks.0.temp_convs.0",
        "up_blocks.0.resnets.1",
        "up_blocks.0.temp_convs.1",
        "up_blocks.0.upsamplers.0",
        *(f"up_blocks.1.{k}.{j}" for k in ("resnets", "temp_convs") for j in (0, 1)),
        *transformer("up_blocks.1.attentions.0"),
        *transformer("up_blocks.1.attentions.1"),
        *transformer("up_blocks.1.temp_attentions.0"),
        *transformer("up_blocks.1.temp_attentions.1"),
        *skips(4),
    ],
    "motion": [
        *BASE,
        "down_blocks.0.resnets.0",
        *transformer("down_blocks.0.attentions.0"),
        *transformer("down_blocks.0.motion_modules.0"),
        "down_blocks.0.downsamplers.0",
        "down_blocks.1.resnets.0",
        *transformer("down_blocks.1.motion_modules.0"),
        "mid_block.resnets.0",
        *transformer("mid_block.attentions.0"),
        *transformer("mid_block.motion_modules.0"),
        "mid_block.resnets.1",
        "up_blocks.0.resnets.0",
        *transformer("up_blocks.0.motion_modules.0"),
        "up_blocks.0.resnets.1",
        *transformer("up_blocks.0.motion_modules.1"),
        "up_blocks.0.upsamplers.0",
        "up_blocks.1.resnets.0",
        *transformer("up_blocks.1.attentions.0"),
        *transformer("up_blocks.1.motion_modules.0"),
        "up_blocks.1.resnets.1",
        *transformer("up_blocks.1.attentions.1"),
        *transformer("up_blocks.1.motion_modules.1"),
        *skips(4),
    ],
    "svd": [
        *BASE,
        *(
            f"{path}{leaf}"
            for path in (
                "down_blocks.0.resnets.0",
                "down_blocks.1.resnets.0",
                "mid_block.resnets.0",
                "mid_block.resnets.1",
                "up_blocks.0.resnets.0",
                "up_blocks.0.resnets.1",
                "up_blocks.1.resnets.0",
                "up_blocks.1.resnets.1",
            )
            for leaf in ("", ".spatial_res_block", ".temporal_res_block")
        ),
        *(
            name
            for path in (
                "down_blocks.0.attentions.0",
                "mid_block.attentions.0",
                "up_blocks.1.attentions.0",
                "up_blocks.1.attentions.1",
            )
            for name in (
                *transformer(path),
                f"{path}.temporal_transformer_blocks.0",
                f"{path}.temporal_transformer_blocks.0.ff_in",
                f"{path}.temporal_transformer_blocks.0.attn1",
                f"{path}.temporal_transformer_blocks.0.attn2",
                f"{path}.temporal_transformer_blocks.0.ff",
            )
        ),
        "down_blocks.0.downsamplers.0",
        "up_blocks.0.upsamplers.0",
        *skips(4),
    ],
    "dit": [
        "x_T",
        "x_t",
        "pos_embed",
        *(
            f"transformer_blocks.{i}{leaf}"
            for i in (0, 1)
            for leaf in ("", ":delta", ".attn1", ".ff")
        ),
    ],
    "pixart": [
        "x_T",
        "x_t",
        "pos_embed",
        "caption_projection",
        *(
            f"transformer_blocks.{i}{leaf}"
            for i in (0, 1)
            for leaf in ("", ":delta", ".attn1", ".attn2", ".ff")
        ),
        *(f"context.transformer_blocks.{i}.attn2" for i in (0, 1)),
        "proj_out",
    ],
    "sd3": [
        "x_T",
        "x_t",
        "pos_embed",
        "context_embedder",
        *(f"transformer_blocks.{i}" for i in range(3)),
        *(f"transformer_blocks.{i}:text" for i in range(2)),
        *(f"transformer_blocks.{i}.attn" for i in range(3)),
        *(f"transformer_blocks.{i}.ff" for i in range(3)),
        "proj_out",
    ],
    "flux": [
        "x_T",
        "x_t",
        "x_embedder",
        "context_embedder",
        *(
            f"{kind}.{i}{stream}"
            for kind in ("transformer_blocks", "single_transformer_blocks")
            for i in (0, 1)
            for stream in ("", ":text")
        ),
        "proj_out",
    ],
    "kl": [
        "encoder.conv_in",
        "encoder.down_blocks.0.resnets.0",
        "encoder.down_blocks.0.downsamplers.0",
        "encoder.down_blocks.1.resnets.0",
        "encoder.mid_block.resnets.0",
        "encoder.mid_block.attentions.0",
        "encoder.mid_block.resnets.1",
        "encoder.conv_out",
        "quant_conv",
        "code",
        "post_quant_conv",
        "decoder.conv_in",
        "decoder.mid_block.resnets.0",
        "decoder.mid_block.attentions.0",
        "decoder.mid_block.resnets.1",
        "decoder.up_blocks.0.resnets.0",
        "decoder.up_blocks.0.resnets.1",
        "decoder.up_blocks.0.upsamplers.0",
        "decoder.up_blocks.1.resnets.0",
        "decoder.up_blocks.1.resnets.1",
        "decoder.conv_out",
    ],
    "vq": ["quantize", "code", "encoder.conv_in", "decoder.conv_out", "post_quant_conv"],
    "tiny_vae": [
        *(f"encoder.layers.{i}" for i in range(5)),
        "code",
        *(f"decoder.layers.{i}" for i in range(7)),
    ],
}
LEAVES["adm"] = LEAVES["ddpm"]


def test_every_tiny_network_has_its_list() -> None:
    assert set(LEAVES) == set(tiny.NETS)


@pytest.mark.parametrize("name", LEAVES)
def test_every_block_is_a_point(name: str) -> None:
    expected = LEAVES[name]
    # Transformers over frames that have no second attention.
    optional = {p for p in expected if ("transformer_in" in p or "temp_att" in p) and "attn2" in p}
    points = set(load(tiny.NETS[name]()).points)
    assert not set(expected) - optional - points


@pytest.mark.parametrize("name", LEAVES)
def test_containers_are_no_points(name: str) -> None:
    points = set(load(tiny.NETS[name]()).points)
    containers = {f"{half}_blocks.{i}" for half in ("down", "up") for i in range(4)}
    containers |= {"mid_block", "encoder", "decoder"}
    if "unet" in type(tiny.NETS[name]()).__name__.lower():
        assert not containers & points
    assert not [p for p in points if "resnets" in p and p.rpartition(".")[2] == "conv1"]


def test_the_generator_of_the_zoo_has_its_entries_styles_and_maps() -> None:
    points = set(zoo("gan").points)
    expected = ["z", "w", *(f"w_plus.{i}" for i in range(8)), *(f"s.{i}" for i in range(7))]
    expected += [f"noise.{i}" for i in range(7)] + [f"layers.{i}" for i in range(7)]
    expected += [f"rgbs.{i}" for i in range(4)] + [f"s_rgb.{i}" for i in range(4)]
    assert not set(expected) - points


def test_the_encoder_of_the_zoo_has_its_stream() -> None:
    expected = ["embed"]
    for i in range(6):
        expected += [f"blocks.{i}", f"blocks.{i}:delta", f"blocks.{i}.attn", f"blocks.{i}.mlp"]
    assert set(zoo("vit").points) == set(expected)


@pytest.mark.slow
def test_a_bridge_has_its_stream_under_its_own_names() -> None:
    expected = ["blocks.0.hook_in"]
    for i in (0, 1):
        expected += [f"blocks.{i}.{hook}" for hook in ("attn.hook_out", "mlp.hook_out", "hook_out")]
    assert list(bridge().points) == expected


@pytest.mark.slow
def test_a_bridge_reads_texts_of_one_length_at_a_time() -> None:
    import torch

    from interp.errors import InputError
    from interp.models import EncodeBatch, reading

    model = bridge()
    pictures = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    # A tokenizer of one token per letter.
    model.root.tokenizer = lambda text, return_tensors: {
        "input_ids": torch.tensor([[ord(c) % 20 for c in text]])
    }
    try:
        assert model.capabilities == {"encode"}
        with reading(model, ["blocks.1.hook_out"]) as reader:
            model.encode(EncodeBatch(pictures, prompts=("cat", "dog")))
        assert reader.calls[0].value.shape == (2, 3, 16)
        with pytest.raises(InputError, match="prompts of 1 to 3 tokens in one batch"):
            model.encode(EncodeBatch(pictures, prompts=("cat", "a")))
        with pytest.raises(InputError, match=r"reads texts .*condition='caption', batch_size=1"):
            model.encode(EncodeBatch(pictures))
    finally:
        model.root.tokenizer = None
