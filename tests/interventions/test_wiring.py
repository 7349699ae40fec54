"""What swaps show without any training: wiring alone moves a network's images to the donor's."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from interp.interventions import (
    Carrier,
    embed_images,
    interchange,
    make_attributes,
    make_pairs,
    measure_effect,
    measure_interchange,
)
from interp.interventions.swapping import read_carriers, swap_carriers
from interp.models import Generation, Model, Transformer, UNet, reading
from tests.interventions import networks

N = 10
# One class, so that recipients differ from donors in noise alone.
DONOR = Generation(n=N, seed=0, steps=2, scheduler="ddim")
RECIPIENT = Generation(n=N, seed=100, steps=2, scheduler="ddim")
# One pair is enough where images only have to be equal.
PAIR = replace(DONOR, n=1), replace(RECIPIENT, n=1)
# A code is drawn at once: no sampler.
CODES = Generation(n=N, seed=0), Generation(n=N, seed=100)


def _sampler(prediction: Any):
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(prediction_type=prediction)


@functools.cache
def _unet() -> Model:
    """A U-Net of 16 x 16 pixels that predicts the image: what it puts out last is the result."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet2DModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(8, 8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            attention_head_dim=8,
        )
    return UNet(net.eval(), "test:unet", scheduler=_sampler("sample"))


@functools.cache
def _dit(prediction: str = "sample") -> Model:
    """A DiT of 16 x 16 pixels, every branch of which adds something."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DiTTransformer2DModel(
            sample_size=16,
            in_channels=3,
            out_channels=3,
            num_layers=3,
            num_attention_heads=2,
            attention_head_dim=4,
            patch_size=4,
            num_embeds_ada_norm=2,
            norm_elementwise_affine=False,
        ).eval()
        # adaLN-Zero starts as the identity.
        for parameter in net.parameters():
            parameter.data.normal_(0, 0.2)
    sampler = _sampler(prediction)
    return Transformer(net, "test:dit", scheduler=sampler, n_classes=1, null_class=1)


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    """Build the models, whose libraries take seconds to import, before any test's clock runs."""
    for build in (networks.vae, _unet, _dit):
        _reference(build)


def _recipes(model: Model) -> tuple[Generation, Generation]:
    return CODES if model.family == "vae" else (DONOR, RECIPIENT)


@functools.cache
def _reference(build) -> torch.Tensor:
    model = build()
    recipe = Generation(n=20, seed=1000, steps=2, scheduler="ddim")
    return model.generate(recipe.batch(0, 20, n_classes=model.n_classes)).cpu()


def _measure(build, carriers):
    """Effects of carriers on composition and surface, and what was swapped."""
    model, reference = build(), _reference(build)
    attributes = make_attributes(reference, ("composition", "surface"))
    found = interchange(model, carriers, *_recipes(model))
    measured = [measure_interchange(f, attributes, reference, n_resamples=20)[0] for f in found]
    return measured, found


def _is_donor(effect, found) -> None:
    assert torch.equal(found.swapped, found.donor), found.carrier.label
    assert not torch.equal(found.donor, found.recipient)
    for row in effect.attributes.values():
        assert (row.alpha, row.beta) == (1, 0)
        assert row.damage == pytest.approx(0, abs=1e-9)
    assert effect.sufficiency.value == 1


def _blocks(model: Model, prefix: str) -> list[str]:
    names = model.points_in("generate")
    return [name for name in names if name.startswith(prefix) and ":" not in name]


def test_any_one_block_of_an_untrained_vae_decoder_moves_everything():
    names = _blocks(networks.vae(), "decoder.")
    assert len(names) == 10
    for effect, found in zip(*_measure(networks.vae, [Carrier((n,)) for n in names]), strict=True):
        _is_donor(effect, found)
        assert effect.role == "descendant"


def test_what_one_block_of_an_untrained_vae_decoder_writes_moves_a_part():
    names = [n for n in networks.vae().points_in("generate") if n.endswith("1:delta")]
    assert names
    for effect, _ in zip(*_measure(networks.vae, [Carrier((n,)) for n in names]), strict=True):
        assert effect.role == "write"
        assert effect.largest.value < 0.99


def test_any_one_block_of_an_untrained_dit_moves_everything():
    names = _blocks(_dit(), "transformer_blocks.")
    blocks = [name for name in names if name.count(".") == 1]
    assert len(blocks) == 3
    for effect, found in zip(*_measure(_dit, [Carrier((n,)) for n in blocks]), strict=True):
        _is_donor(effect, found)
        assert effect.role == "descendant"


@pytest.mark.parametrize("block", [0, 1])
def test_a_block_of_a_dit_that_predicts_noise_moves_all_it_puts_out_but_not_the_state(block):
    model, last = _dit("epsilon"), "transformer_blocks.2"
    one, other = (recipe.batch(0, 3, n_classes=1) for recipe in (DONOR, RECIPIENT))
    carrier = Carrier((f"transformer_blocks.{block}",))
    donor, given = read_carriers(model, [*carrier.points, last], one)
    with reading(model, [last]) as reader:
        swapped = swap_carriers(model, [carrier], given, other)
    assert [read.call for read in reader.calls] == [0, 1]
    for read in reader.calls:
        assert torch.equal(read.value.reshape(given[last, read.call].shape), given[last, read.call])
    # The sampler goes on from the recipient's own noise, which this prediction does not fit.
    assert not torch.equal(swapped, donor)


def _ups(model: Model) -> list[str]:
    """The blocks of the up half in order; block i takes skip 5 - i."""
    return [name for name in _blocks(model, "up_blocks.") if "resnets" in name]


def test_a_block_of_an_untrained_u_net_with_the_skips_after_it_moves_everything():
    ups = _ups(_unet())
    assert len(ups) == 6
    carriers = [
        Carrier((name, *(f"skip.{k}" for k in range(5 - i))), name=f"{name} and skips")
        for i, name in enumerate(ups)
    ]
    skips = tuple(f"skip.{k}" for k in range(6))
    carriers.append(Carrier(("mid_block.resnets.1", *skips), name="middle and skips"))
    for effect, found in zip(*_measure(_unet, carriers), strict=True):
        _is_donor(effect, found)


def test_alone_it_moves_less_the_more_skips_enter_after_it():
    names = ["mid_block.resnets.1", *_ups(_unet())]
    effects, found = _measure(_unet, [Carrier((name,)) for name in names])
    _is_donor(effects[-1], found[-1])
    attributes = {"pixels": lambda x: x.double().flatten(1) / 255}
    pairs = make_pairs(
        *(embed_images(side, attributes) for side in (found[0].donor, found[0].recipient)),
        reference=embed_images(_reference(_unet), attributes),
    )
    alpha = []
    for one in found:
        swapped = embed_images(one.swapped, attributes)
        effect = measure_effect(pairs, swapped, carrier=one.carrier.label, n_resamples=2)
        alpha.append(effect.attributes["pixels"].alpha)
    assert alpha == sorted(alpha)
    assert alpha[-1] == 1
    assert alpha[-2] < 0.9
    assert alpha[0] < 0.2


def test_a_down_block_of_a_u_net_and_the_up_block_that_takes_its_skip_are_one_carrier():
    # From either side the donor's image passes all skips but those before it.
    names = ["conv_in", *_blocks(_unet(), "down_blocks."), *_ups(_unet())[::-1]]
    assert len(names) == 12
    found = interchange(_unet(), [Carrier((name,)) for name in names], *PAIR)
    images = [one.swapped for one in found]
    for down, up in zip(images[:6], images[6:], strict=True):
        assert torch.equal(down, up)


@pytest.mark.parametrize(
    ("build", "point"),
    [
        (networks.vae, "decoder.mid_block.resnets.0"),
        (_dit, "transformer_blocks.1"),
        (_dit, "transformer_blocks.1:delta"),
        (_unet, "mid_block.resnets.1"),
        (_unet, "skip.0"),
    ],
)
def test_a_swap_with_itself_has_a_donor_share_of_exactly_zero(build, point):
    model, reference = build(), _reference(build)
    attributes = make_attributes(reference, ("composition", "surface"))
    one, other = (r.batch(0, N, n_classes=model.n_classes) for r in _recipes(model))
    donor = model.generate(one)
    recipient, kept = read_carriers(model, [point], other)
    back = swap_carriers(model, [Carrier((point,))], kept, other)
    sides = [embed_images(side, attributes) for side in (donor, recipient, reference, back)]
    pairs = make_pairs(sides[0], sides[1], reference=sides[2])
    effect = measure_effect(pairs, sides[3], carrier=point, n_resamples=20)
    for row in effect.attributes.values():
        assert (row.alpha, row.beta) == (0, 1)
        assert row.damage == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("build", [networks.vae, _dit, _unet])
def test_all_sources_together_are_the_donor(build):
    model = build()
    fields = tuple(model.sources(_recipes(model)[0]))
    assert fields
    for effect, found in zip(*_measure(build, [Carrier(fields=fields)]), strict=True):
        _is_donor(effect, found)
        assert effect.role == "source"


@pytest.mark.parametrize("kind", ["another image of the model", "noise"])
def test_garbage_has_no_share_of_donor_or_recipient_and_is_all_damage(kind):
    model, n, studies = networks.vae(), 30, 5
    images = (
        model.generate(Generation(n=240, seed=1000).batch(0, 240)),
        model.generate(Generation(n=3 * n * studies).batch(0, 3 * n * studies)),
    )
    attributes = make_attributes(images[0], ("composition", "surface"))
    reference, found = (embed_images(side, attributes) for side in images)
    noise = np.random.default_rng(0).integers(0, 256, (n * studies, 16, 16, 3), dtype=np.uint8)
    other = embed_images(torch.from_numpy(noise), attributes)
    rows, covered = [], []
    for start in range(0, n * studies, n):
        take = {
            side: {k: v[i * n * studies + start :][:n] for k, v in found.items()}
            for i, side in enumerate(("donor", "recipient", "garbage"))
        }
        pairs = make_pairs(take["donor"], take["recipient"], reference=reference)
        garbage = (
            take["garbage"] if kind != "noise" else {k: v[start:][:n] for k, v in other.items()}
        )
        effect = measure_effect(pairs, garbage, carrier="garbage", n_resamples=400)
        for row in effect.attributes.values():
            rows.append((row.alpha, row.beta, row.damage))
            covered += [row.alpha_low < 0 < row.alpha_high, row.beta_low < 0 < row.beta_high]
    alpha, beta, damage = np.mean(rows, axis=0)
    # Standard error .01 to .02; what 240 reference images leave open of the origin adds 1 / 240.
    assert max(abs(alpha), abs(beta)) < 0.06
    assert damage > 0.95
    # Of 20 intervals of 95 % one should miss; percentile intervals of 30 pairs miss more.
    assert np.mean(covered) >= 0.75
