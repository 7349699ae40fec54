"""FreeU as edits: equal to diffusers' own, the identity at 1, and gone afterwards."""

import pytest
import torch

from interp import load
from interp.errors import InputError
from interp.interventions import freeu_edits
from interp.interventions.freeu import filter_low
from interp.models import Call, GenerateBatch, editing, reading


@pytest.fixture(scope="module")
def unet():
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 16, 16),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
    return load(net)


def _run(unet):
    g = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 5, 16, generator=g)
    with torch.no_grad():
        return unet.root(x, 300, encoder_hidden_states=text).sample


@pytest.mark.parametrize(
    "factors",
    [
        {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
        {"b1": 1.0, "b2": 1.0, "s1": 0.5, "s2": 1.0},
        {"b1": 1.0, "b2": 1.6, "s1": 1.0, "s2": 1.0},
    ],
)
def test_the_edits_are_those_of_diffusers(unet, factors):
    plain = _run(unet)
    unet.root.enable_freeu(**factors)
    try:
        wanted = _run(unet)
    finally:
        unet.root.disable_freeu()
    with editing(unet, freeu_edits(unet, **factors), batch=2):
        found = _run(unet)
    assert float((wanted - plain).abs().max()) > 1e-3
    assert torch.allclose(found, wanted, atol=1e-6, rtol=1e-5)
    assert torch.equal(_run(unet), plain)


def test_factors_of_one_change_no_bit(unet):
    assert freeu_edits(unet) == {}
    plain = _run(unet)
    with editing(unet, freeu_edits(unet), batch=2):
        assert torch.equal(_run(unet), plain)


def test_what_is_edited_are_the_inputs_of_the_first_two_up_blocks(unet):
    found = freeu_edits(unet, b1=2, b2=2, s1=0.5, s2=0.5)
    assert set(found) == {
        "mid_block.resnets.1",
        "up_blocks.0.resnets.0",
        "up_blocks.0.upsamplers.0",
        "up_blocks.1.attentions.0",
        "skip.2",
        "skip.3",
        "skip.4",
        "skip.5",
    }


def test_the_low_frequencies_are_scaled_and_the_others_kept():
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    coarse = torch.full((1, 1, 8, 8), 2.0)
    fine = torch.cos(2 * torch.pi * 2 * x / 8)[None, None]
    found = filter_low(coarse + fine, 0.25, 1)
    assert torch.allclose(found, 0.25 * coarse + fine, atol=1e-6)
    # The square is -1, 0: of a cosine of frequency 1, its part at -1 is inside and that at +1 not.
    one = torch.cos(2 * torch.pi * y / 8)[None, None]
    assert torch.allclose(filter_low(one, 0.0, 1), 0.5 * one, atol=1e-6)


def test_the_structure_dependent_factor_runs_from_one_to_b_over_the_map(unet):
    point = "mid_block.resnets.1"
    edit = freeu_edits(unet, b1=1.5, structure=True)[point]
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 16, 6, generator=g)
    factor = edit(rows, Call(0, None, None, point)) / rows
    mean = rows.mean(-1)
    assert torch.equal(factor[..., 3:], torch.ones(2, 16, 3))
    for i in range(2):
        low, high = mean[i].argmin(), mean[i].argmax()
        assert torch.allclose(factor[i, low, :3], torch.tensor(1.0), atol=1e-5)
        assert torch.allclose(factor[i, high, :3], torch.tensor(1.5), atol=1e-5)
    flat = torch.ones(1, 4, 6)
    assert torch.equal(edit(flat, Call(0, None, None, point)), flat)


def test_a_whole_skip_is_scaled_without_a_threshold(unet):
    with reading(unet, ["skip.5"], batch=2) as before:
        _run(unet)
    edits = freeu_edits(unet, s1=0.5, threshold=None)
    with editing(unet, edits, batch=2), reading(unet, ["skip.5"], batch=2) as after:
        _run(unet)
    assert torch.equal(after.calls[0].value, before.calls[0].value * 0.5)


def test_a_network_on_pixels_is_scaled_too_and_its_images_come_back():
    ddpm = load("zoo:ddpm")
    batch = GenerateBatch((0,), classes=(3,), scheduler="ddim", steps=2)
    plain = ddpm.generate(batch)
    with editing(ddpm, freeu_edits(ddpm, b1=1.2, s1=0.2)):
        scaled = ddpm.generate(batch)
    assert not torch.equal(scaled, plain)
    assert torch.equal(ddpm.generate(batch), plain)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("zoo:gan", {}, "skips of a U-Net"),
        ("zoo:ddpm", {"threshold": 0}, "at least 1"),
    ],
)
def test_what_has_no_skips_is_refused(spec, options, message):
    with pytest.raises(InputError, match=message):
        freeu_edits(load(spec), s1=0.5, **options)
