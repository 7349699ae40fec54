"""Every kind of planted dictionary: its rows are its mixtures, and its structure is there."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from interp.errors import InputError
from interp.sae.synthetic import (
    Firing,
    FiringDictionary,
    OutlierDictionary,
    PlantedDictionary,
    SpatialDictionary,
    TimedDictionary,
    correlated_dictionary,
    hierarchical_dictionary,
    small_synth_sae_bench,
)
from interp.sae.synthetic.bench import compensation, orthogonalize, zipf_rates
from interp.sae.synthetic.tree import grow_trees, one_of_each, threshold_of

SMALL = {"batch_size": 64, "steps": 3}
KINDS = {
    "uniform": lambda seed: PlantedDictionary(24, 12, 3, seed=seed, **SMALL),
    "zipf": lambda seed: PlantedDictionary(24, 12, 3, exponent=0.7, seed=seed, **SMALL),
    "outlier": lambda seed: OutlierDictionary(24, 12, 3, seed=seed, **SMALL),
    "correlated": lambda seed: correlated_dictionary(24, 12, 3, rank=2, seed=seed, **SMALL),
    "hierarchy": lambda seed: hierarchical_dictionary(6, 3, 12, active=2, seed=seed, **SMALL),
    "spatial": lambda seed: SpatialDictionary(24, 12, 3, grid=(8, 8), seed=seed, **SMALL),
    "timed": lambda seed: TimedDictionary(24, 12, 3, n_timesteps=4, seed=seed, **SMALL),
    "synth": lambda seed: small_synth_sae_bench(seed=seed, **SMALL),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def test_a_seed_gives_the_same_rows_and_another_seed_others(kind):
    first, again, other = kind(0), kind(0), kind(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(list(first)) == len(first) == 3
    assert not torch.equal(next(iter(first)), next(iter(other)))
    assert torch.equal(first.held_out(64), again.held_out(64))


def test_the_global_generator_is_left_alone(kind):
    before = torch.random.get_rng_state()
    next(iter(kind(3)))
    kind(3).truth(32)
    assert torch.equal(before, torch.random.get_rng_state())


def test_rows_are_the_mixture_that_truth_tells(kind):
    data = kind(2)
    data.noise = torch.zeros(())
    truth = data.truth(64)
    mixture = data.mix(64, torch.Generator().manual_seed(2 * 2 + 2_000_002))
    dense = torch.zeros(64, len(data.atoms)).index_put_(
        (mixture.row, mixture.atom), mixture.strength, accumulate=True
    )
    assert torch.equal(truth.fired, dense > 0)
    torch.testing.assert_close(truth.x, dense @ data.atoms + data.offset)
    assert torch.equal(truth.x, data.held_out(64))
    assert float(mixture.strength.min()) > 0
    assert bool((mixture.row[1:] >= mixture.row[:-1]).all())
    assert all(len(column) == 64 for column in truth.coords.values())


def test_atoms_have_norm_1_and_no_row_is_drawn_twice(kind):
    data = kind(0)
    torch.testing.assert_close(data.atoms.norm(dim=1), torch.ones(len(data.atoms)))
    # Rows without any firing feature and without noise are alike.
    x = torch.cat([*data, data.held_out(64)])
    x = x[(x - data.offset).norm(dim=1) > 0]
    assert float(torch.pdist(x.double()).min()) > 0


def test_power_law_rates_fall_with_the_rank():
    fired = PlantedDictionary(200, 4, 8, exponent=0.7).truth(20000).fired.double().mean(dim=0)
    draws = torch.arange(1, 201).double() ** -0.7
    expected = 1 - (1 - draws / draws.sum()) ** 8
    torch.testing.assert_close(fired, expected, atol=0.01, rtol=0)


def test_outliers_stand_out_in_mean_and_spread():
    data = OutlierDictionary(32, 16, 3, n_outliers=2, mean=10, sd=3)
    x = data.held_out(4000)
    out = data.outliers
    torch.testing.assert_close(x.mean(0)[out].abs(), torch.full((2,), 10.0), atol=0.4, rtol=0)
    others = torch.ones(16, dtype=torch.bool).index_fill_(0, out, False)
    assert float(x.std(0)[out].min()) > 3 * float(x.std(0)[others].max())


def test_features_that_share_a_factor_fire_together():
    data = correlated_dictionary(16, 8, 4, rank=1, scale=0.9)
    fired = data.truth(20000).fired.double()
    factor = data.firing.factor[:, 0]
    torch.testing.assert_close(fired.mean(0), torch.full((16,), 0.25).double(), atol=0.02, rtol=0)
    measured = torch.corrcoef(fired.T)
    strong = (factor[:, None] * factor).fill_diagonal_(0)
    assert bool((measured[strong > 0.4] > 0.1).all())
    assert bool((measured[strong < -0.4] < -0.1).all())


def test_children_fire_only_with_their_parents_and_at_their_rate():
    data = hierarchical_dictionary(8, 2, 16, active=2, child_rate=0.3)
    fired = data.truth(20000).fired
    parent = data.firing.parent
    child = (parent >= 0).nonzero()[:, 0]
    assert bool((fired[:, child] <= fired[:, parent[child]]).all())
    given = fired[:, child].sum(0) / fired[:, parent[child]].sum(0)
    torch.testing.assert_close(given, torch.full(given.shape, 0.3), atol=0.08, rtol=0)
    assert float(fired[:, :8].sum(1).double().mean()) == pytest.approx(2, abs=0.05)


def test_trees_are_filled_level_by_level():
    assert grow_trees(9, 2, 2, 2).tolist() == [-1, -1, 0, 0, 1, 1, 2, 2, 3]
    assert grow_trees(4, 2, 1, 1).tolist() == [-1, -1, 0, 1]
    assert grow_trees(5, 1, 3, 1).tolist() == [-1, 0, 0, 0, -1]


def test_one_sibling_fires_and_each_with_the_same_chance(generator):
    family = torch.tensor([0, 0, 2, 2, 2, 3])
    winners = [one_of_each(family, 5, generator).tolist() for _ in range(3000)]
    assert all(len(w) == 3 and w[0] in (0, 1) and w[1] in (2, 3, 4) and w[2] == 5 for w in winners)
    share = sum(w[1] == 3 for w in winners) / 3000
    assert share == pytest.approx(1 / 3, abs=0.04)


def test_exclusive_siblings_scaled_by_their_parent():
    parent = torch.tensor([-1, 0, 0])
    firing = Firing(
        rate=torch.tensor([0.9, 0.8, 0.8]),
        parent=parent,
        factor=torch.zeros(3, 0),
        mean=torch.tensor([2.0, 1.0, 1.0]),
        sd=torch.tensor([1.0, 0.0, 0.0]),
        exclusive=True,
        scaled=True,
    )
    data = FiringDictionary(torch.eye(3), firing)
    x = data.held_out(2000)
    assert not bool(((x[:, 1] > 0) & (x[:, 2] > 0)).any())
    on = x[:, 1] > 0
    torch.testing.assert_close(x[on, 1], x[on, 0] / 2)
    assert float((x[:, 1:].sum(1) > 0).double().mean()) > 0.7


def test_compensated_rates_are_the_rates_at_which_features_fire():
    data = small_synth_sae_bench()
    base = zipf_rates(1024, 0.5, 0.4, 2e-3)
    assert (float(base[0]), float(base[-1])) == pytest.approx((0.4, 2e-3))
    fired = data.truth(16384).fired.double().mean(0)
    # Exclusion and compensation match in the mean only: the published model says "about".
    assert float(fired.sum()) == pytest.approx(9.0, abs=0.5)
    factor = compensation(base, data.firing.parent)
    assert float(factor[:16].max()) == 1
    first = factor[16] * base[0]
    assert float(first) == pytest.approx(1 + float(base[17:20].sum() / base[0]))


def test_atoms_of_the_published_model_are_nearly_orthogonal(generator):
    atoms = F.normalize(torch.randn(40, 32, generator=generator), dim=1)
    made = orthogonalize(atoms, steps=30, lr=1e-2)

    def overlap(rows):
        return float((rows @ rows.T).fill_diagonal_(0).abs().amax(1).mean())

    assert overlap(made) < 0.9 * overlap(atoms)
    weight = atoms.clone().double().requires_grad_()
    gram = weight @ weight.T
    rest = gram - torch.diag(gram.diagonal())
    (rest.square().sum() + 40 * (gram.diagonal() - 1).square().sum()).backward()
    optimizer = torch.optim.Adam([weight], lr=1e-2)
    optimizer.step()
    expected = F.normalize(weight.detach(), dim=1)
    torch.testing.assert_close(orthogonalize(atoms.double(), steps=1, lr=1e-2), expected)


def test_a_threshold_is_passed_at_its_rate(generator):
    rate = torch.tensor([1.0, 0.5, 0.01, 0.0])
    threshold = threshold_of(rate)
    assert threshold[0] == -torch.inf
    assert threshold[3] == torch.inf
    draws = torch.randn(100_000, 1, generator=generator)
    share = (draws > threshold).double().mean(0)
    torch.testing.assert_close(share, rate.double(), atol=0.005, rtol=0)


def test_patches_are_connected_and_cover_as_many_positions_as_stated():
    data = SpatialDictionary(64, 16, 4, grid=(10, 12), per_image=120, batch_size=120)
    truth = data.truth(120 * 60)
    assert float(truth.fired.sum(1).double().mean()) == pytest.approx(4, rel=0.12)
    maps = truth.fired.view(60, 10, 12, 64)
    assert torch.equal(truth.coords["y"][:13], torch.tensor([0] * 12 + [1]))
    # An atom with one patch in an image: each of its positions has a neighbor that fires too.
    for image, atom in itertools.product(range(5), range(64)):
        one = maps[image, :, :, atom].float()[None, None]
        if one.sum() > 1:
            around = F.conv2d(one, torch.tensor([[[[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]]]), padding=1)
            assert bool((around[one > 0] > 0).float().mean() > 0.8)


def test_rows_of_one_image_have_places_of_their_own():
    data = SpatialDictionary(16, 8, 3, grid=(6, 5), per_image=7, batch_size=14)
    coords = data.truth(70).coords
    places = set(zip(*(coords[name].tolist() for name in ("image", "y", "x")), strict=True))
    assert len(places) == 70
    assert int(coords["y"].max()) < 6
    assert int(coords["x"].max()) < 5
    assert coords["image"].bincount().tolist() == [7] * 10


def test_features_fire_around_their_own_timestep():
    data = TimedDictionary(32, 8, 3, n_timesteps=6, width=1)
    truth = data.truth(30000)
    steps = truth.coords["timestep"]
    assert sorted(steps.unique().tolist()) == list(range(6))
    measured = torch.stack([truth.fired[steps == t].double().mean(0) for t in range(6)], dim=1)
    torch.testing.assert_close(measured, data.profile.double(), atol=0.04, rtol=0)
    totals = data.profile.sum(0)
    torch.testing.assert_close(totals, torch.linspace(1.5, 4.5, 6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlantedDictionary(8, 4, 2, exponent=-1), "exponent = -1"),
        (lambda: PlantedDictionary(8, 4, 2, noise=float("nan")), "noise = nan"),
        (lambda: PlantedDictionary(8, 4, 2, batch_size=0), "batch_size = 0"),
        (lambda: OutlierDictionary(8, 4, 2, n_outliers=5), r"n_outliers = 5 is not in 0\.\.4"),
        (lambda: correlated_dictionary(8, 4, 9), r"active = 9 is not in 1\.\.8"),
        (lambda: hierarchical_dictionary(4, 2, 4, child_rate=1.0), "child_rate = 1.0"),
        (lambda: SpatialDictionary(grid=(2, 2), per_image=5), r"per_image = 5 is not in 1\.\.4"),
        (lambda: SpatialDictionary(per_image=10), "batch_size = 512 is no multiple"),
        (lambda: SpatialDictionary().held_out(17), "17 rows are no multiple of per_image = 16"),
        (lambda: TimedDictionary(8, 4, 6), "rates up to"),
        (lambda: grow_trees(3, 4, 2, 1), "roots = 4"),
        (lambda: FiringDictionary(torch.eye(2), _one()), "2 atoms do not fit 1 firing rates"),
    ],
)
def test_what_cannot_be_planted_is_refused_with_its_numbers(make, message):
    with pytest.raises(InputError, match=message):
        make()


def _one():
    one = torch.ones(1)
    return Firing(one, torch.tensor([-1]), torch.zeros(1, 0), one, one, False, False)
