"""The interchange on real networks: its exact ends, its windows, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp import load
from interp.errors import InputError, PointError
from interp.interventions import Carrier, embed_images, interchange, measure_interchange
from interp.interventions.swapping import _shift
from interp.models import Call, Generation

GAN_DONOR = Generation(n=12, seed=0)
GAN_RECIPIENT = Generation(n=12, seed=100)
DONOR = Generation(n=2, seed=0, steps=2, scheduler="ddim", classes=(3,))
RECIPIENT = Generation(n=2, seed=100, steps=2, scheduler="ddim", classes=(3,))
# One pair is enough where images only have to differ.
ONE, OTHER = (replace(recipe, n=1, steps=1) for recipe in (DONOR, RECIPIENT))


def _pixels(images):
    return images.double().flatten(1) / 255


ATTRIBUTES = {"pixels": _pixels, "color": lambda x: x.double().mean((1, 2)) / 255}


@pytest.fixture(scope="module")
def gan():
    return load("zoo:gan")


@pytest.fixture(scope="module")
def ddpm():
    return load("zoo:ddpm")


@pytest.fixture(scope="module")
def vae():
    return load("zoo:vae")


def _one(model, carrier, donor=ONE, recipient=OTHER, **more):
    (found,) = interchange(model, carrier, donor, recipient, **more)
    return found


def _random_images(seed, n=3):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8))


def test_the_full_state_of_a_gan_gives_the_donor_and_its_own_state_the_recipient(gan):
    noise = tuple(name for name in gan.points if name.startswith("noise."))
    found = _one(gan, Carrier(("z", *noise), name="all"), GAN_DONOR, GAN_RECIPIENT)
    assert torch.equal(found.swapped, found.donor)
    assert not torch.equal(found.donor, found.recipient)
    assert found.rerender == 0
    assert found.role == "source"
    reference = gan.generate(Generation(n=8, seed=500).batch(0, 8))
    effect, control = measure_interchange(found, ATTRIBUTES, reference, n_resamples=50)
    assert effect.carrier == "all"
    for name in ATTRIBUTES:
        row = effect.attributes[name]
        assert (row.alpha, row.beta) == (1, 0)
        assert row.damage == pytest.approx(0, abs=1e-12)
    assert effect.sufficiency.value == 1
    assert control.carrier == "all (random)"
    assert control.attributes["pixels"].alpha < 0.5


def test_images_that_stay_the_recipient_have_alpha_exactly_zero(gan):
    found = _one(gan, Carrier(("w",)), GAN_DONOR, GAN_RECIPIENT)
    back = replace(found, swapped=found.recipient)
    reference = gan.generate(Generation(n=8, seed=500).batch(0, 8))
    effect, _ = measure_interchange(back, ATTRIBUTES, reference, n_resamples=20)
    assert [row.alpha for row in effect.attributes.values()] == [0, 0]
    assert found.role == "descendant"


def test_noise_and_class_together_are_the_full_state_of_a_diffusion_model(ddpm):
    donor = replace(ONE, steps=2, classes=(5,), scheduler="ddpm")
    recipient = replace(OTHER, steps=2, scheduler="ddpm")
    carriers = [Carrier(fields=fields) for fields in (("seeds", "classes"), ("seeds",))]
    both, noise = interchange(ddpm, carriers, donor, recipient)
    assert torch.equal(both.swapped, both.donor)
    assert (both.rerender, both.role, both.random) == (0, "source", None)
    assert not torch.equal(noise.swapped, noise.donor)
    assert noise.carrier.label == "seeds"
    # With one class for both, the noise alone is the full state.
    (alone,) = interchange(ddpm, Carrier(fields=("seeds",)), ONE, OTHER)
    assert torch.equal(alone.swapped, alone.donor)


def test_points_and_fields_swap_together(ddpm):
    donor, name = replace(ONE, classes=(5,)), "mid_block.resnets.1"
    carriers = [
        Carrier((name,)),
        Carrier(fields=("classes",)),
        Carrier((name,), fields=("classes",)),
    ]
    block, classes, joint = interchange(ddpm, carriers, donor, OTHER)
    assert joint.role == "descendant"
    assert not torch.equal(joint.swapped, block.swapped)
    assert not torch.equal(joint.swapped, classes.swapped)


@pytest.mark.parametrize("untrained", [False, True])
def test_any_one_block_of_a_vae_decoder_moves_everything(untrained):
    model = load("zoo:vae", untrained=untrained, seed=1)
    names = [
        name
        for name in model.points_in("generate")
        if name.startswith("decoder") and ":" not in name
    ]
    assert len(names) > 8
    carriers = [Carrier((name,)) for name in names[::3]]
    for found in interchange(model, carriers, replace(ONE, classes=()), replace(OTHER, classes=())):
        assert torch.equal(found.swapped, found.donor), found.carrier.label
        assert found.role == "descendant"


def test_no_inner_block_of_an_untrained_u_net_moves_everything():
    model = load("zoo:ddpm", untrained=True, seed=1)
    carriers = [Carrier(("mid_block.resnets.1",)), Carrier(("skip.0",))]
    for found in interchange(model, carriers, ONE, OTHER):
        assert found.rerender == 0
        assert not torch.equal(found.swapped, found.donor)


@pytest.mark.parametrize(
    ("point", "role"),
    [
        ("skip.1", "descendant"),
        ("mid_block.resnets.0:delta", "write"),
        ("down_blocks.0.resnets.0:main", "descendant"),
        ("x_t", "descendant"),
    ],
)
def test_putting_back_what_was_there_changes_no_pixel(ddpm, point, role):
    found = _one(ddpm, Carrier((point,)))
    assert found.rerender == 0
    assert found.role == role
    assert not torch.equal(found.swapped, found.recipient)


def test_main_skip_and_both_are_three_carriers(ddpm):
    both = "down_blocks.0.resnets.0"
    found = interchange(
        ddpm, [Carrier((both,)), Carrier((f"{both}:main",)), Carrier(("skip.1",))], ONE, OTHER
    )
    images = [one.swapped for one in found]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert not torch.equal(images[1], images[2])
    joint = _one(ddpm, Carrier((f"{both}:main", "skip.1")))
    assert torch.equal(joint.swapped, images[0])


@pytest.mark.slow
def test_windows_of_calls_split_a_carrier(ddpm):
    point = ("up_blocks.1.resnets.0",)
    donor, recipient = replace(ONE, steps=2), replace(OTHER, steps=2)
    windows = [None, range(2), (0,), (1,)]
    images = [
        one.swapped
        for one in interchange(ddpm, [Carrier(point, w) for w in windows], donor, recipient)
    ]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[2], images[0])
    assert not torch.equal(images[2], images[3])


def test_guidance_halves_are_carriers_of_their_own(ddpm):
    point = ("up_blocks.1.resnets.0",)
    donor, recipient = replace(ONE, guidance=2.0), replace(OTHER, guidance=2.0)
    carriers = [Carrier(point, cfg=cfg) for cfg in ("both", "cond", "uncond")]
    found = interchange(ddpm, carriers, donor, recipient)
    assert [one.rerender for one in found] == [0, 0, 0]
    images = [one.swapped for one in found]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])


def test_a_mask_swaps_its_positions_only(vae):
    donor, recipient = _random_images(0), _random_images(1)
    left = tuple(column < 4 for _ in range(8) for column in range(8))
    whole, half, other = interchange(
        vae,
        [
            Carrier(("code",)),
            Carrier(("code",), mask=left),
            Carrier(("code",), mask=tuple(not x for x in left)),
        ],
        donor,
        recipient,
    )
    assert torch.equal(whole.swapped, whole.donor)
    assert half.rerender == 0

    def distance(x, y, columns):
        return (x.double() - y.double())[:, :, columns].square().mean()

    # The decoder's receptive field is wide: each side is nearer to where its code comes from.
    edge = slice(0, 6)
    assert distance(half.swapped, half.donor, edge) < distance(half.swapped, half.recipient, edge)
    assert distance(other.swapped, half.recipient, edge) < distance(other.swapped, half.donor, edge)


@pytest.mark.slow
def test_batches_do_not_change_images_beyond_rounding(gan):
    carrier = Carrier(("w_plus.3", "w_plus.4"))
    whole = _one(gan, carrier, GAN_DONOR, GAN_RECIPIENT)
    parts = _one(gan, carrier, GAN_DONOR, GAN_RECIPIENT, batch_size=5)
    assert whole.role == "write"
    assert (whole.swapped.int() - parts.swapped.int()).abs().max() <= 1


def test_the_random_control_moves_each_row_as_far_as_the_donor():
    given, kept = (
        {("p", 0): torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(i))}
        for i in range(2)
    )
    rows, call = kept["p", 0], Call(0, None, None, "p")
    moved = _shift(given, kept, 3, 0)(rows, call, slice(None))
    expected = (given["p", 0] - rows).norm(dim=-1)
    assert (moved - rows).norm(dim=-1) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(moved, _shift(given, kept, 3, 0)(rows, call, slice(None)))
    assert not torch.equal(moved, _shift(given, kept, 4, 0)(rows, call, slice(None)))


@pytest.fixture
def idle(ddpm, monkeypatch):
    """The model, with every run an error: what is refused has to be refused before."""

    def run(*_):
        raise AssertionError("the model ran")

    monkeypatch.setattr(type(ddpm), "generate", run)
    return ddpm


@pytest.mark.parametrize(
    ("carrier", "error", "message"),
    [
        (Carrier(("mid_blok.resnets.0",)), PointError, "mid_block.resnets.0"),
        (Carrier(()), InputError, "a carrier without points or fields"),
        (Carrier(("x_T",)), InputError, "not the state that the sampler goes on from"),
        (Carrier(fields=("seed",)), InputError, r"fields \('seed',\) have to be of"),
        (Carrier(("x_t",), range(5, 5)), InputError, r"window of calls range\(5, 5\) is empty"),
        (Carrier(("x_t",), cfg="left"), InputError, "cfg = 'left' is not one of"),
        (Carrier(("x_t",), role="cut"), InputError, "role 'cut' is not"),
        (Carrier(("x_t",), mask=(True,) * 9), InputError, "mask has 9 positions, x_t has 256"),
        (Carrier(("x_t",), mask=(False,) * 256), InputError, "the mask selects no position"),
    ],
)
def test_a_carrier_that_cannot_be_is_refused_before_anything_runs(idle, carrier, error, message):
    with pytest.raises(error, match=message):
        interchange(idle, carrier, DONOR, RECIPIENT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 3}, "steps is 2 for the donor and 3 for the recipient"),
        ({"height": 64}, "height is 0 for the donor and 64"),
        ({"n": 3}, "n is 2 for the donor and 3"),
        ({"guidance": 2.0}, "guidance is 1.0 for the donor"),
        ({"seed": 1}, "overlap partly"),
        ({"seed": 0}, "donor and recipient are one recipe"),
    ],
)
def test_recipes_that_do_not_fit_are_refused_before_anything_runs(idle, change, message):
    with pytest.raises(InputError, match=message):
        interchange(idle, Carrier(("x_t",)), DONOR, replace(RECIPIENT, **change))


def test_images_and_recipes_do_not_mix_and_have_one_size(vae, idle):
    with pytest.raises(InputError, match="and of recipes"):
        interchange(vae, Carrier(fields=("seeds",)), _random_images(0), _random_images(1))
    with pytest.raises(InputError, match="both have to be recipes"):
        interchange(idle, Carrier(("x_t",)), DONOR, _random_images(0))
    with pytest.raises(InputError, match=r"donor images \(3, 32, 32, 3\), recipient images \(2"):
        interchange(vae, Carrier(("code",)), _random_images(0), _random_images(1, 2))
    with pytest.raises(InputError, match="no carrier"):
        interchange(vae, [], _random_images(0), _random_images(1))


def test_a_window_that_no_call_reaches_is_an_error(ddpm):
    with pytest.raises(PointError, match="no edit takes place"):
        interchange(ddpm, Carrier(("mid_block.resnets.0",), range(7, 9)), DONOR, RECIPIENT)


def test_shared_noise_pairs_the_same_seeds(ddpm):
    (found,) = interchange(ddpm, Carrier(fields=("seeds",)), DONOR, replace(DONOR, classes=(5,)))
    # The noise is the recipient's own: swapping it changes nothing.
    assert torch.equal(found.swapped, found.recipient)


def test_unrepeatable_runs_and_wrong_attributes_are_refused(gan):
    found = _one(gan, Carrier(("w",)), GAN_DONOR, GAN_RECIPIENT)
    with pytest.raises(InputError, match="own values back changes a pixel by 3"):
        measure_interchange(replace(found, rerender=3), ATTRIBUTES, found.donor)
    with pytest.raises(InputError, match=r"attribute mean gave \(\) for 12 images"):
        embed_images(found.donor, {"mean": lambda x: x.double().mean()})
