"""Planted dictionaries are what they say."""

import pytest
import torch

from interp.errors import InputError
from interp.sae import VARIANTS, TrainConfig
from interp.sae.synthetic import PlantedDictionary, recovery


def test_every_iteration_gives_the_same_batches():
    data = PlantedDictionary(16, 8, 2, batch_size=4, steps=3)
    first, second = list(data), list(data)
    assert len(first) == len(data) == 3
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_rows_are_mixtures_of_few_atoms_of_the_stated_strength():
    data = PlantedDictionary(16, 32, 3, noise=0.0, seed=2)
    x = data.held_out(200)
    strength = torch.linalg.lstsq(data.atoms.T, x.T).solution.T
    active = strength.abs() > 1e-4
    assert active.sum(1).max() <= 3
    assert strength[active].min() >= 0.5 - 1e-4
    assert strength[active].max() <= 1.5 + 1e-4


def test_held_out_rows_are_not_training_rows():
    data = PlantedDictionary(16, 8, 2, batch_size=64, steps=4)
    assert torch.cdist(torch.cat(list(data)), data.held_out(64)).min() > 0


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_an_untrained_sae_of_the_same_seed_knows_nothing_of_the_atoms(variant, seed):
    data = PlantedDictionary(seed=seed)
    sae = VARIANTS[variant].build(128, TrainConfig(variant, 512, 8, seed=seed))
    found = recovery(sae.dictionary().detach(), data.atoms)
    assert found.recovered == 0
    # The largest of 512 cosines of random directions in 128 dimensions.
    assert found.mmcs < 0.35


def test_a_mean_can_be_planted():
    data = PlantedDictionary(16, 8, 2, mean_norm=30.0)
    assert data.held_out(500).mean(0).norm() == pytest.approx(30, abs=2)


def test_recovery_counts_atoms_up_to_sign_and_scale():
    atoms = torch.eye(4)
    learned = torch.tensor([[-3.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 1]])
    found = recovery(learned, atoms)
    assert found.recovered == 0.5
    assert found.mmcs == pytest.approx((2 + 2 * 0.5**0.5) / 4)


def test_more_draws_than_atoms_are_refused():
    with pytest.raises(InputError, match=r"active = 5 is not in 1\.\.4"):
        PlantedDictionary(4, 8, 5)
