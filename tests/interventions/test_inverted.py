"""Interchanges of real images: what they were inverted to is swapped as a recipe's samples are."""

from dataclasses import replace

import pytest
import torch

from interp.errors import InputError
from interp.interventions import Carrier, interchange, scan
from interp.models import Generation, InversionSettings, invert
from interp.zoo import load_images
from tests.interventions import networks

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"),
]
SETTINGS = InversionSettings(steps=4)


@pytest.fixture(scope="module")
def pictures():
    return torch.as_tensor(load_images(split="heldout").pixels[:6])


@pytest.fixture(scope="module")
def inverted(pictures):
    model = networks.zoo("ddpm")
    sides = (pictures[:3], pictures[3:])
    found = [invert(model, side, settings=SETTINGS, classes=(0, 1, 2)) for side in sides]
    return model, *found


def test_real_images_are_swapped_and_their_error_stands_beside(inverted):
    model, donor, recipient = inverted
    noise = Carrier(fields=("x_T",), name="x_T")
    everything = Carrier(fields=("x_T", "classes"), name="all sources")
    block = Carrier(("mid_block.resnets.0",), calls=range(2))
    found = interchange(model, [noise, everything, block], donor, recipient, batch_size=2)
    assert [one.role for one in found] == ["source", "source", "descendant"]
    for one in found:
        assert one.rerender == 0
        assert torch.equal(one.psnr, torch.stack([donor.psnr, recipient.psnr]))
        # Batches of another size add in another order.
        for made, side in ((one.donor, donor), (one.recipient, recipient)):
            assert (made.int() - side.reconstruction.int()).abs().max() <= 2
    # Classes are equal in both: x_T alone is the whole source.
    assert torch.equal(found[0].swapped, found[0].donor)
    assert torch.equal(found[1].swapped, found[1].donor)
    moved = (found[2].swapped.int() - found[2].recipient.int()).abs()
    assert moved.amax() > 0
    recipe = Generation(n=3, seed=0, steps=4, scheduler="ddim", classes=(0, 1, 2))
    plain = interchange(model, noise, recipe, replace(recipe, seed=100))[0]
    assert plain.psnr is None


def test_an_autoencoders_codes_are_swapped(pictures):
    model = networks.zoo("vae")
    donor, recipient = (invert(model, side) for side in (pictures[:3], pictures[3:]))
    (found,) = interchange(model, Carrier(fields=("code",)), donor, recipient)
    assert torch.equal(found.swapped, found.donor)


def test_what_cannot_be_swapped_is_refused_before_anything_runs(inverted, pictures):
    model, donor, recipient = inverted
    carrier = Carrier(fields=("x_T",))
    for wrong, said in (
        (donor, "6 of 12 images|3 of 6 images are there twice"),
        (invert(model, pictures[3:5], settings=SETTINGS, classes=(0, 1)), "3 donors and 2 rec"),
        (Generation(n=3, seed=5, steps=4), "donor Inversion, recipient Generation: both have to"),
        (replace(recipient, batch=replace(recipient.batch, steps=9)), "steps is 4 for the donor"),
        (replace(recipient, method="null_text", nulls=torch.zeros(3, 4, 1, 2)), "by null_text"),
    ):
        with pytest.raises(InputError, match=said):
            interchange(model, carrier, donor, wrong)
    with pytest.raises(InputError, match="swap inverted images by interchange"):
        scan(model, [carrier], donor, recipient, {}, pictures)
    with pytest.raises(InputError, match=r"fields \('z',\) have to be of"):
        interchange(model, Carrier(fields=("z",)), donor, recipient)
