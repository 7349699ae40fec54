"""Games of a real model's carriers: exact at the ends, one with the single interchange."""

import pytest
import torch

from interp import load
from interp.errors import InputError
from interp.interventions import (
    Carrier,
    interchange,
    measure_interchange,
    measure_layers,
    play_carriers,
)
from interp.models import Generation

DONOR, RECIPIENT = Generation(n=12, seed=0), Generation(n=12, seed=100)
ATTRIBUTES = {
    "pixels": lambda x: x.double().flatten(1) / 255,
    "color": lambda x: x.double().mean((1, 2)) / 255,
}


@pytest.fixture(scope="module")
def gan():
    return load("zoo:gan")


@pytest.fixture(scope="module")
def reference(gan):
    return gan.generate(Generation(n=8, seed=500).batch(0, 8))


def _players(gan):
    noise = tuple(name for name in gan.points if name.startswith("noise."))
    return [Carrier(("z",)), Carrier(noise, name="noise")]


def test_all_sources_of_a_gan_together_are_the_donor(gan, reference):
    players = _players(gan)
    game = play_carriers(gan, players, DONOR, RECIPIENT, ATTRIBUTES, reference)
    assert game.layers == ("z", "noise")
    assert game.role == "write"
    shares = measure_layers(game, n_resamples=50)
    assert shares.total.tolist() == [1, 1]
    assert shares.shapley.sum(1) == pytest.approx([1, 1], abs=1e-12)
    # A player alone is the interchange of its carrier.
    (found,) = interchange(gan, players[0], DONOR, RECIPIENT)
    effect, _ = measure_interchange(found, ATTRIBUTES, reference, n_resamples=20)
    alone = [row.alpha for row in effect.attributes.values()]
    assert shares.first_in[:, 0] == pytest.approx(alone, abs=1e-12)


def test_blocks_of_a_chain_are_redundant_graph_cuts(reference):
    vae = load("zoo:vae")
    names = ("decoder.conv_in", "decoder.up_blocks.1.resnets.1", "decoder.conv_out")
    game = play_carriers(
        vae, [Carrier((name,)) for name in names], DONOR, RECIPIENT, ATTRIBUTES, reference
    )
    assert game.role == "descendant"
    shares = measure_layers(game, n_resamples=50)
    assert (shares.first_in == 1).all()
    assert (shares.last_in == 0).all()
    assert shares.redundancy.tolist() == [2, 2]
    assert shares.kinds == ("redundant", "redundant")


def test_carriers_of_one_name_are_refused(gan, reference):
    players = [Carrier(("w_plus.1",), name="w"), Carrier(("w_plus.2",), name="w")]
    with pytest.raises(InputError, match="carriers of one name"):
        play_carriers(gan, players, DONOR, RECIPIENT, ATTRIBUTES, reference)


def test_an_attribute_that_does_not_vary_is_named_before_any_subset_runs(
    gan, reference, monkeypatch
):
    monkeypatch.setattr(
        "interp.interventions.scanning.play", lambda *_, **__: pytest.fail("played")
    )
    flat = {**ATTRIBUTES, "flat": lambda x: torch.ones(len(x), 2)}
    with pytest.raises(InputError, match=r"are proportional in attribute flat \(or one of them"):
        play_carriers(gan, _players(gan), DONOR, RECIPIENT, flat, reference)
