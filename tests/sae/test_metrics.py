"""The metrics of known truth, each against a case that can be counted by hand."""

import pytest
import torch
import torch.nn.functional as F

from interp.errors import InputError
from interp.sae.metrics import (
    cosines,
    dead,
    detection,
    fvu,
    matched,
    mcc,
    recovery,
    relative_bias,
    shrinkage,
    uniqueness,
)

ATOMS = torch.eye(4)
# The first and the second are the same atom, the third lies between two, the fourth is missing.
LEARNED = torch.tensor([[2.0, 0, 0, 0], [-1, 0, 0, 0], [0, 1, 1, 0]])


def test_an_atom_is_found_up_to_sign_and_norm():
    found = recovery(LEARNED, ATOMS)
    assert found.recovered == 0.25
    assert found.mmcs == pytest.approx((1 + 2 * 0.5**0.5) / 4)


def test_mcc_gives_each_latent_one_atom_and_counts_the_pairs():
    assert mcc(-ATOMS[[2, 0, 3, 1]], ATOMS) == pytest.approx(1)
    # Three pairs: (0, atom 0), (2, atom 1 or 2), and the second latent is left with 0.
    assert mcc(LEARNED, ATOMS) == pytest.approx((1 + 0.5**0.5) / 3)
    assert mcc(ATOMS[:2], ATOMS) == pytest.approx(1)


def test_mcc_is_the_best_of_all_assignments(generator):
    import itertools

    learned, atoms = (torch.randn(4, 3, generator=generator) for _ in range(2))
    cosine = cosines(learned, atoms)
    orders = itertools.permutations(range(4))
    best = max(sum(float(cosine[i, j]) for i, j in enumerate(order)) / 4 for order in orders)
    assert mcc(learned, atoms) == pytest.approx(best)


def test_uniqueness_counts_atoms_that_are_followed():
    assert uniqueness(LEARNED, ATOMS) == pytest.approx(2 / 3)
    assert uniqueness(ATOMS, ATOMS) == 1


def test_latents_of_two_runs_match_one_to_one_and_with_their_sign():
    assert matched(ATOMS[[1, 0, 3, 2]], ATOMS) == 1
    assert matched(-ATOMS, ATOMS) == 0
    # Both want the same partner.
    assert matched(torch.stack([ATOMS[0], ATOMS[0]]), ATOMS) == 0.5
    tilted = F.normalize(ATOMS + torch.roll(ATOMS, 1, 0), dim=1)
    assert matched(tilted, ATOMS) == 1
    assert matched(tilted, ATOMS, threshold=0.71) == 0


def test_detection_counts_rows():
    atoms = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 1]]).bool()
    latents = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]]).bool()
    found = detection(latents, atoms, torch.tensor([0, 0, 1]))
    precision, recall = [2 / 3, 0, 1], [2 / 3, 0, 1 / 2]
    assert found.precision == pytest.approx(sum(precision) / 3)
    assert found.recall == pytest.approx(sum(recall) / 3)
    assert found.f1 == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)


def test_fvu_is_1_for_the_mean_and_0_for_the_rows(generator):
    x = torch.randn(50, 4, generator=generator) + 100
    assert fvu(x, x) == 0
    assert fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1)
    flat = torch.ones(3, 2)
    assert fvu(flat, flat) != fvu(flat, flat)


def test_dead_latents_fire_nowhere():
    assert dead(torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0]]).bool()) == 0.5


def test_shrinkage_and_bias_are_the_factor_that_was_applied(generator):
    x = torch.randn(50, 4, generator=generator)
    assert shrinkage(x, 0.8 * x) == pytest.approx(0.8)
    assert relative_bias(x, 0.8 * x) == pytest.approx(0.8)
    # An error that is orthogonal to the reconstruction is no bias.
    rows, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 0.0]])
    assert relative_bias(rows, other) == pytest.approx(1)
    assert shrinkage(rows, other) == pytest.approx(0.6)
    assert shrinkage(torch.stack([rows[0], torch.zeros(2)]), torch.ones(2, 2)) > 0


@pytest.mark.parametrize(
    ("learned", "atoms", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), r"\(2, 3\) and \(2, 4\) do not compare"),
        (torch.ones(0, 3), torch.ones(2, 3), "0 and 2 directions"),
        (torch.full((1, 3), torch.nan), torch.ones(2, 3), "NaN"),
    ],
)
def test_directions_that_do_not_compare_are_refused(learned, atoms, message):
    with pytest.raises(InputError, match=message):
        mcc(learned, atoms)


def test_codes_that_do_not_fit_are_refused():
    ones = torch.ones(3, 2, dtype=torch.bool)
    with pytest.raises(InputError, match="do not fit"):
        detection(ones, ones[:2], torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match="do not fit"):
        detection(ones, ones, torch.zeros(3, dtype=torch.int64))
