"""What donors and recipients have in common: refused or said where a swap would move nothing."""

import warnings
from dataclasses import replace

import pytest
import torch

from interp.errors import InputError
from interp.interventions import Carrier, interchange, measure_interchange, play_carriers, scan
from interp.interventions.sources import check_pairing
from interp.models import Generation
from interp.sae import TopK
from interp.sae.split import unit_hash
from tests.interventions import networks

# Three classes in turn: 99 is a multiple, so that all pairs are of one class.
DONOR = Generation(n=12, seed=0, steps=2)
ALIKE = Generation(n=12, seed=99, steps=2)
APART = Generation(n=12, seed=100, steps=2)
CLASS, NOISE = Carrier(fields=("classes",)), Carrier(fields=("x_T",))
OTHER = Carrier(("mid_block.resnets.0:delta",))
COLOR = {"color": lambda x: x.double().mean((1, 2)) / 255}
CODES = Generation(n=10, seed=0), Generation(n=10, seed=100)


@pytest.fixture(scope="module")
def ddpm():
    model = networks.zoo("ddpm")
    # Found by a run.
    assert model.points
    return model


@pytest.fixture(scope="module")
def gan():
    return networks.zoo("gan")


@pytest.fixture
def still(ddpm, monkeypatch):
    """The same, which may not run."""

    def run(*_, **__):
        raise AssertionError("the model ran")

    monkeypatch.setattr(ddpm.root, "forward", run)
    return ddpm


def _starts(model, carrier, donor, recipient):
    """Every way to swap carriers, up to the check."""
    reference = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    sides = donor, recipient
    return [
        lambda: interchange(model, carrier, *sides),
        lambda: scan(model, [carrier], *sides, COLOR, reference),
        lambda: play_carriers(model, [carrier, OTHER], *sides, COLOR, reference),
    ]


@pytest.mark.parametrize("way", range(3))
def test_classes_that_are_equal_in_all_pairs_are_not_swapped(still, way):
    fix = "classes of 12 of 12 pairs are equal, so nothing would move; start the recipients at seed"
    with pytest.raises(InputError, match=f"{fix} 100, or give classes="):
        _starts(still, CLASS, DONOR, ALIKE)[way]()


@pytest.mark.parametrize("way", range(3))
def test_classes_that_are_equal_by_accident_are_said_to_be_so(still, way):
    said = "classes of 12 of 12 pairs are equal, because 3 classes go by the seed: .* at seed 100"
    with pytest.warns(UserWarning, match=said) as caught, pytest.raises(AssertionError):
        _starts(still, NOISE, DONOR, ALIKE)[way]()
    assert caught[0].filename == __file__


def test_equal_classes_and_texts_are_refused_where_another_seed_would_not_help(ddpm):
    named = replace(DONOR, classes=(1,)), replace(APART, classes=(1,))
    with pytest.raises(InputError, match="would move; give the recipients other classes="):
        check_pairing(ddpm, [CLASS], *named)
    text = Carrier(fields=("prompts",))
    donor = Generation(n=2, seed=0, prompts=("a", "b"))
    with pytest.raises(
        InputError, match=r"prompts of 2 of 2 pairs .* at seed 101, or give prompts"
    ):
        check_pairing(networks.pipe("sd"), [text], donor, replace(donor, seed=100))


def test_pairs_that_are_alike_on_purpose_pass(ddpm):
    named = replace(DONOR, classes=(1,))
    passing = [
        (CLASS, DONOR, APART),
        # Shared noise, other classes.
        (CLASS, replace(DONOR, classes=(0, 1)), replace(DONOR, classes=(1, 2))),
        (NOISE, named, replace(named, seed=99)),
        (NOISE, DONOR, APART),
        # One pair is of one class by chance.
        (NOISE, replace(DONOR, n=1), replace(ALIKE, n=1)),
        (Carrier(fields=("x_T", "classes")), named, replace(named, seed=99)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for carrier, donor, recipient in passing:
            check_pairing(ddpm, [carrier], donor, recipient)


def test_a_recipe_is_made_with_its_classes(ddpm):
    recipe = replace(DONOR, n=5, batch_size=2)
    made = ddpm.generate(recipe)
    assert torch.equal(made, ddpm.generate(recipe.batch(0, 5, n_classes=3)))
    assert not torch.equal(made, ddpm.generate(recipe.batch(0, 5)))


def test_a_name_is_the_carrier_of_one_point_and_what_is_neither_is_refused(gan):
    donor, recipient = (replace(side, n=2) for side in CODES)
    named = interchange(gan, "w_plus.1", donor, recipient)[0]
    mixed = interchange(gan, ["w_plus.1", Carrier(("w_plus.2",))], donor, recipient)
    assert named.carrier == Carrier(("w_plus.1",))
    assert torch.equal(named.swapped, mixed[0].swapped)
    for odd in (3, [None], [("w_plus.1",)]):
        with pytest.raises(InputError, match="a carrier is a Carrier or the name of a hook point"):
            interchange(gan, odd, donor, recipient)  # pyright: ignore
    with pytest.raises(InputError, match=r"found is a list of 2: pass one entry"):
        measure_interchange(mixed, COLOR, named.donor)  # pyright: ignore


def test_an_sae_is_not_swapped_on_the_seeds_that_it_was_trained_on(gan):
    width = gan.points["w"].width
    sae = TopK(width, 9, 2)
    sae.fit(torch.zeros(width).double(), torch.ones(width).double())
    carrier = Carrier(("w",), sae=sae, features=(0, 3))
    # Nothing is known of what it was trained on.
    assert len(interchange(gan, carrier, *CODES)) == 1
    seen = f"{gan.identity()['weights_sha256'][:12]}@seed104"
    sae.trained_units = torch.tensor([unit_hash("image", seen)])
    with pytest.raises(InputError, match=r"1 of the 10 seeds, such as 104: .* allow_train=True"):
        interchange(gan, carrier, *CODES)
    assert len(interchange(gan, carrier, *CODES, allow_train=True)) == 1


def test_what_was_measured_is_printed_as_a_small_table(gan):
    reference = gan.generate(replace(CODES[0], seed=500))
    carriers = [Carrier(fields=("z", "noise"), name="all"), Carrier(("w_plus.0",))]
    found = scan(gan, carriers, *CODES, COLOR, reference, n_resamples=20)
    lines = str(found).splitlines()
    assert lines[0].split() == ["carrier", "role", "attribute", "donor", "share", "damage"]
    assert lines[1].split()[:4] == ["all", "source", "color", "1.00"]
    assert [line.split()[0] for line in lines[1:]] == ["all", "w_plus.0"]
    assert str(found.effects["all"]).splitlines()[1].split() == lines[1].split()
    single = interchange(gan, "w_plus.0", *CODES)[0]
    assert repr(single).startswith("Interchange of w_plus.0 (write): 10 pairs of 32 x 32 pixels")
    assert str(replace(found, missing=2)) == "Scan: 2 of 3 parts are still to be made"
