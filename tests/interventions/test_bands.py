"""Band twins: frequencies dealt out by grids, and the game of layers that differ in these alone."""

from dataclasses import replace

import numpy as np
import pytest

from interp.errors import InputError
from interp.interventions import (
    compare_twins,
    deal_frequencies,
    make_pairs,
    measure_layers,
    measure_specialization,
    play_bands,
)


def _side(size):
    """Largest |frequency| of each entry, in cycles per image."""
    down, across = (np.abs(np.fft.fftfreq(n, 1 / n)) for n in size)
    return np.maximum(down[:, None], across)


@pytest.mark.parametrize("size", [(16, 16), (15, 16), (9, 9)])
def test_every_frequency_has_one_player_and_its_negative_the_same(size):
    owners = deal_frequencies([[(4, 4)], [(8, 8)], [(8, 8)]], size, seed=3)
    rows, columns = (-np.arange(n) % n for n in size)
    assert np.array_equal(owners, owners[rows][:, columns])
    reach = _side(size)
    assert (owners[reach <= 2] == 0).all()
    assert set(np.unique(owners[reach > 2])) == {1, 2}


def test_players_have_frequencies_in_proportion_to_their_points_on_a_grid():
    grids = [[(4, 4), (32, 32)], [(32, 32)] * 3, [()]]
    owners = deal_frequencies(grids, (32, 32))
    coarse = _side((32, 32)) <= 2
    # Of 25 frequencies (13 with their negatives) two players have half each.
    assert set(np.unique(owners[coarse])) == {0, 2}
    counts = np.bincount(owners[~coarse], minlength=3)
    assert counts / counts.sum() == pytest.approx([1 / 5, 3 / 5, 1 / 5], abs=0.01)
    assert np.array_equal(owners, deal_frequencies(grids, (32, 32)))
    assert not np.array_equal(owners, deal_frequencies(grids, (32, 32), seed=1))


def test_grids_that_are_not_square_hold_other_frequencies_down_than_across():
    owners = deal_frequencies([[(2, 8)], [(16, 16)]], (16, 16))
    down, across = (np.abs(np.fft.fftfreq(16, 1 / 16)) for _ in range(2))
    assert np.array_equal(owners == 0, (down[:, None] <= 1) & (across <= 4))


def test_a_grid_finer_than_the_image_is_as_fine_as_the_image():
    fine = deal_frequencies([[(8, 8)], [(32, 32)], [(64, 64)]], (32, 32))
    assert np.array_equal(fine, deal_frequencies([[(8, 8)], [(32, 32)], [(32, 32)]], (32, 32)))
    assert set(np.unique(fine)) == {0, 1, 2}


def _game(grids, embed, n=40, deal=0):
    rng = np.random.default_rng(0)
    sides = rng.normal(size=(3, n, 16, 16, 3))
    donor, recipient, other = map(embed, sides)
    pairs = make_pairs(donor, recipient, reference=other)
    return play_bands(pairs, sides[0], sides[1], grids, embed, seed=deal)


def _pixels_and_means(images):
    n = len(images)
    means = images.reshape(n, 4, 4, 4, 4, 3).mean((2, 4))
    return {"pixels": images.reshape(n, -1), "layout": means.reshape(n, -1)}


def test_swaps_add_up_from_the_recipient_to_the_donor():
    grids = {"coarse": [(4, 4)], "fine": [(16, 16)], "also fine": [(16, 16)]}
    shares = measure_layers(_game(grids, _pixels_and_means), n_resamples=50)
    assert shares.total == pytest.approx([1, 1], abs=1e-9)
    assert shares.redundancy == pytest.approx([0, 0], abs=1e-9)
    assert shares.kinds == ("additive", "additive")
    # White images: shares of pixels are counts of frequencies, 25 of 256 in the coarse band.
    assert shares.shapley[0] == pytest.approx([25 / 256, 231 / 512, 231 / 512], abs=0.03)
    assert shares.shapley[1, 0] > 0.5


def test_layers_of_different_grids_look_specialized_and_of_equal_grids_hardly():
    apart = _game({"a": [(4, 4)], "b": [(16, 16)]}, _pixels_and_means)
    alike = _game({"a": [(16, 16)], "b": [(16, 16)]}, _pixels_and_means)
    found = [measure_specialization(g, n_resamples=2).value for g in (apart, alike)]
    assert found[0] > 0.3
    assert abs(found[1]) < 0.1


def test_twins_of_the_models_own_pairs_are_compared_pair_by_pair():
    grids = {"a": [(4, 4)], "b": [(16, 16)], "c": [(16, 16)]}
    # The same images dealt out anew: the model is one more band twin.
    found = [
        measure_specialization(_game(grids, _pixels_and_means, deal=deal), n_resamples=200)
        for deal in range(6)
    ]
    excess = compare_twins(found[0], found[1:], paired=True)
    assert excess.low < 0 < excess.high
    # What all of them owe to these pairs cancels.
    assert excess.sampling < 0.5 * compare_twins(found[0], found[1:]).sampling
    same = compare_twins(found[0], [found[0]] * 5, paired=True)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    few = measure_specialization(_game(grids, _pixels_and_means, n=20), n_resamples=200)
    with pytest.raises(InputError, match=r"the model's own pairs.*here 40 and \[20\] pairs"):
        compare_twins(found[0], [few, few], paired=True)
    bare = replace(found[1], draws=None)
    with pytest.raises(InputError, match="the model's own pairs"):
        compare_twins(found[0], [bare, bare], paired=True)


def test_what_is_no_grid_is_refused():
    with pytest.raises(InputError, match="1 players"):
        deal_frequencies([[(4, 4)]], (16, 16))
    with pytest.raises(InputError, match=r"player 1 writes on \[\]"):
        deal_frequencies([[(4, 4)], []], (16, 16))
    for grid in ((0, 4), (77,), (3, 8, 8)):
        with pytest.raises(InputError, match=r"player 0 writes on .*: give one grid"):
            deal_frequencies([[grid], [()]], (16, 16))
    images = np.zeros((12, 8, 8, 3))
    with pytest.raises(InputError, match="two equal"):
        play_bands(None, images, images[:, :4], {"a": [()], "b": [()]}, lambda x: {})
