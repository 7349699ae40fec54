"""Every descriptor: declared invariances, hand-checks, errors; intervals and n-curves."""

import itertools
import math

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.geometry import (
    DESCRIPTORS,
    describe_interval,
    distinct_rows,
    get_descriptor,
    gride_curve,
    n_curve,
)
from interp.geometry.descriptors import anisotropy, uniformity
from interp.geometry.dimension import gride, mle, neighbor_distances, twonn
from interp.geometry.spectra import (
    _unbiased_moments,
    alpha,
    effective_rank,
    eigenvalues,
    participation_ratio,
    participation_ratio_unbiased,
    rankme,
)

NAMES = sorted(DESCRIPTORS)
CHANGES = ("orthogonal", "scale", "translation", "permutation", "row_scale")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example(kind: str) -> torch.Tensor:
    n, d = {"wide": (30, 60), "narrow": (40, 1)}.get(kind, (60, 18))
    x = draw(n, d) * torch.linspace(2, 0.5, d, dtype=torch.float64)
    if kind == "repeated":
        x[n // 2 :] = x[: n // 2]
    if kind == "constant_column":
        x[:, 0] = 3.0
    return x


def transform(invariance: str, x: torch.Tensor, scale: float) -> torch.Tensor:
    n, d = x.shape
    if invariance == "orthogonal":
        return x @ torch.linalg.qr(draw(d, d, seed=9))[0]
    if invariance == "scale":
        return x * scale
    if invariance == "translation":
        return x + scale * draw(d, seed=9)
    if invariance == "permutation":
        return x[:, torch.randperm(d, generator=torch.Generator().manual_seed(9))]
    # A factor per row.
    return x * scale * draw(n, 1, seed=9).exp()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["tall", "wide", "narrow", "repeated", "constant_column"])
def test_declared_invariances_hold_or_the_input_is_refused(name: str, kind: str) -> None:
    x, one = example(kind), DESCRIPTORS[name]
    if kind == "repeated" and not one.smooth:
        with pytest.raises(InputError, match="60 of n = 60 rows equal another row"):
            one.function(x)
        return
    if x.shape[1] < one.least_width:
        with pytest.raises(InputError, match="pass a smaller `first`"):
            one.function(x)
        return
    before = one.function(x)
    for invariance, scale in itertools.product(sorted(one.invariances), (1e-3, 1.0, 1e3)):
        after = one.function(transform(invariance, x, scale))
        assert after == pytest.approx(before, rel=1e-7, abs=1e-9), (invariance, scale)


@pytest.mark.parametrize("name", NAMES)
def test_changes_that_are_not_declared_change_the_value(name: str) -> None:
    one, x = DESCRIPTORS[name], example("tall")
    before = one.function(x)
    for change in sorted(set(CHANGES) - one.invariances):
        assert abs(one.function(transform(change, x, 3.0)) - before) > 1e-6, change


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_rows_and_their_dtype_change_nothing(name: str) -> None:
    one, x = DESCRIPTORS[name], example("tall").float()
    before = one.function(x)
    assert one.function(x.flip(0).double()) == pytest.approx(before, rel=1e-10)
    assert one.function(x.numpy()) == before


@pytest.mark.parametrize("name", NAMES)
def test_bad_features_are_refused_with_the_numbers(name: str) -> None:
    function, x = DESCRIPTORS[name].function, example("tall")
    broken = x.clone()
    broken[5, 2] = torch.nan
    with pytest.raises(InputError, match="1 NaN or infinite values of 1080, the first in row 5"):
        function(broken)
    with pytest.raises(InputError, match="n = 3 rows"):
        function(x[:3])
    with pytest.raises(InputError, match="constant"):
        function(torch.ones(40, 20))


def test_an_unknown_descriptor_lists_the_known_ones() -> None:
    with pytest.raises(
        InputError, match="no descriptor 'lpca'; there are participation_ratio, eff"
    ):
        get_descriptor("lpca")


def spread(variances: list[float], n: int = 200) -> torch.Tensor:
    """Centered rows whose covariance has exactly these eigenvalues, up to a factor."""
    basis = torch.linalg.qr(draw(n, len(variances)) - draw(n, len(variances)).mean(0))[0]
    basis = torch.linalg.qr(basis - basis.mean(0))[0]
    return basis * torch.tensor(variances, dtype=torch.float64).sqrt()


def test_variances_of_4_and_1_have_a_participation_ratio_of_25_of_17() -> None:
    assert participation_ratio(spread([4, 1])) == pytest.approx(25 / 17, abs=1e-12)


def test_singular_values_of_2_and_1_have_an_effective_rank_of_1_889882() -> None:
    assert effective_rank(spread([4, 1])) == pytest.approx(1.889882, abs=1e-6)
    assert rankme(spread([4, 1])) == pytest.approx(1.889882, abs=1e-5)


def test_columns_without_variance_add_nothing_to_the_effective_rank() -> None:
    turned = torch.linalg.qr(draw(100, 100))[0]
    padded = torch.cat([spread([4, 1]), torch.zeros(200, 98)], 1) @ turned
    assert effective_rank(padded) == pytest.approx(1.889882, abs=1e-6)
    assert participation_ratio(padded) == pytest.approx(25 / 17, abs=1e-9)


def test_a_mean_far_from_the_origin_lowers_rankme_only() -> None:
    x = draw(100, 10)
    assert rankme(x + 50) < 2 < 9 < effective_rank(x + 50)


def test_the_participation_ratio_of_iid_rows_is_nd_of_n_plus_d() -> None:
    n, d = 400, 150
    values = [participation_ratio(draw(n, d, seed=s)) for s in range(3)]
    assert np.mean(values) == pytest.approx(n * d / (n + d), rel=0.01)
    unbiased = [participation_ratio_unbiased(draw(n, d, seed=s)) for s in range(3)]
    assert np.mean(unbiased) == pytest.approx(d, rel=0.02)


def test_slabs_give_the_same_participation_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, tall = draw(20, 50), draw(50, 20)
    before = [participation_ratio(x) for x in (wide, tall)]
    monkeypatch.setattr("interp.geometry.spectra.SLAB", 100)
    assert [participation_ratio(x) for x in (wide, tall)] == pytest.approx(before, abs=1e-12)


def test_the_moments_behind_the_unbiased_ratio_have_no_bias() -> None:
    # All 3^4 samples of four rows from three atoms.
    atoms = draw(3, 2)
    population = (atoms - atoms.mean(0)).T @ (atoms - atoms.mean(0)) / 3
    found = []
    for picked in itertools.product(range(3), repeat=4):
        rows = atoms[list(picked)]
        found.append(_unbiased_moments(rows - rows.mean(0)))
    trace, squares = np.mean(found, axis=0)
    assert trace == pytest.approx(float(population.trace()) ** 2, abs=1e-12)
    assert squares == pytest.approx(float(population.square().sum()), abs=1e-12)


def test_the_unbiased_participation_ratio_warns_for_few_rows_and_refuses_nonsense() -> None:
    with pytest.warns(UserWarning, match="n = 30 rows in d = 60 columns: unstable for n < d"):
        participation_ratio_unbiased(example("wide"))
    # The corners of a simplex leave nothing after debiasing.
    with (
        pytest.warns(UserWarning, match="unstable"),
        pytest.raises(
            InputError, match=r"estimate of tr C\^2 is .* times the biased one with n = 8"
        ),
    ):
        participation_ratio_unbiased(torch.eye(8, 9))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_alpha_of_an_exact_power_law_is_its_exponent(exponent: float) -> None:
    x = spread([i**-exponent for i in range(1, 61)])
    assert alpha(x) == pytest.approx(exponent, abs=1e-9)
    assert alpha(x, 1, 5) == pytest.approx(exponent, abs=1e-9)


def test_alpha_fits_the_stated_ranks_only() -> None:
    variances = [100.0] * 10 + [i**-1.5 for i in range(11, 41)] + [1e-6] * 20
    assert alpha(spread(variances), 11, 40) == pytest.approx(1.5, abs=1e-9)
    assert alpha(spread(variances)) > 2
    with pytest.raises(InputError, match="from rank 11 to 500, but the spectrum has 8 of n = 200"):
        alpha(spread([1.0] * 8))


def test_a_spectrum_that_is_too_wide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.geometry.spectra.MAX_EIGEN", 10)
    with pytest.raises(InputError, match="a matrix of width 12 > 10; take a subsample"):
        eigenvalues(draw(20, 12))


def ball(n: int, d: int, seed: int = 0) -> torch.Tensor:
    x = draw(n, d, seed=seed)
    radius = torch.rand(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True) * radius ** (1 / d)


@pytest.mark.slow
def test_a_five_ball_has_about_five_dimensions_by_twonn() -> None:
    x = ball(3000, 5)
    padded = torch.cat([x, torch.zeros(3000, 20)], 1) @ torch.linalg.qr(draw(25, 25, seed=3))[0]
    for found in (twonn(padded), twonn(padded, "ml")):
        assert found == pytest.approx(5, abs=0.25)
    # Larger scales reach the surface of the ball.
    assert gride(padded) == pytest.approx(4.7, abs=0.2)
    assert mle(padded) == pytest.approx(4.6, abs=0.2)


@pytest.mark.parametrize("name", ["twonn", "gride", "mle"])
def test_a_curve_in_space_has_one_dimension(name: str) -> None:
    t = torch.rand(1500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.stack([t.cos(), t.sin(), t**2], 1)
    assert DESCRIPTORS[name].function(x) == pytest.approx(1, abs=0.08)


def test_gride_at_the_first_order_is_the_maximum_likelihood_of_twonn() -> None:
    x = ball(300, 4)
    assert gride(x, 1) == pytest.approx(twonn(x, "ml"), abs=1e-9)
    curve = gride_curve(x, 0.1)
    assert curve.orders == (1, 2, 4, 8)
    assert curve.dimension[1] == pytest.approx(gride(x), abs=1e-12)
    assert list(curve.scale) == sorted(curve.scale)


def test_gride_maximizes_its_likelihood() -> None:
    x, order = ball(200, 3), 4
    found = gride(x, order)
    r = neighbor_distances(x, 8)
    mu = r[:, 7] / r[:, 3]

    def likelihood(d: float) -> float:
        part = math.log(d) + (order - 1) * (mu**d - 1).log() - ((2 * order - 1) * d + 1) * mu.log()
        return float(part.sum())

    assert likelihood(found) > max(likelihood(found * s) for s in (0.999, 1.001))


def test_the_maximum_likelihood_dimension_averages_inverses() -> None:
    x = ball(50, 3)
    r = neighbor_distances(x, 5)
    inverse = [(r[i, 4] / r[i, :4]).log().mean() for i in range(50)]
    assert mle(x, 0.1) == pytest.approx(1 / float(torch.stack(inverse).mean()), abs=1e-12)


def test_distances_to_neighbors_are_those_of_a_sorted_table() -> None:
    x = draw(40, 6)
    expected = torch.cdist(x, x).sort(1).values[:, 1:5] / (x - x.mean(0)).norm()
    assert torch.allclose(neighbor_distances(x, 4), expected, rtol=0, atol=1e-9)


def test_repeated_rows_are_refused_with_their_number_and_dropped_on_request() -> None:
    x = draw(50, 4)
    x[10] = x[3]
    x[20] = x[3]
    for function in (twonn, gride, mle):
        with pytest.raises(InputError, match=r"3 of n = 50 rows equal another row.*distinct_rows"):
            function(x)
    distinct = distinct_rows(x)
    assert distinct.dropped == 2
    assert distinct.kept.nonzero().flatten().tolist() == [i for i in range(50) if i not in (10, 20)]
    assert twonn(distinct.x) > 0
    with pytest.raises(InputError, match="2 distinct rows of n = 20; 4 are needed"):
        distinct_rows(torch.arange(20)[:, None] % 2)


def test_a_lattice_has_no_dimension() -> None:
    x = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    with pytest.raises(InputError, match="equally far from 14 of n = 16 rows"):
        twonn(x)
    with pytest.raises(InputError, match="neighbors 1 and 2 are equally far from every row"):
        gride(x, 1)
    with pytest.raises(InputError, match="the 3 nearest rows are equally far"):
        mle(torch.eye(8))
    with pytest.raises(InputError, match="method 'mle' is fit or ml"):
        twonn(x, "mle")
    with pytest.raises(InputError, match="40 neighbors of n = 16 rows: there are 15"):
        gride(x, 20)
    with pytest.raises(InputError, match="order 0 of the nearer neighbor"):
        gride(x, 0)


def test_anisotropy_is_the_mean_cosine_of_two_different_rows() -> None:
    x = draw(30, 4) + 1
    cosines = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2)
    expected = float(cosines[~torch.eye(30, dtype=torch.bool)].mean())
    assert anisotropy(x) == pytest.approx(expected, abs=1e-12)
    x[3] = 0
    with pytest.raises(InputError, match="1 rows are zero and have no cosine"):
        anisotropy(x)


def test_uniformity_of_the_seven_sphere_is_its_closed_form() -> None:
    # log 0F1(4; 4) by its series.
    term, series = 1.0, 1.0
    for i in range(30):
        term *= 4 / ((i + 1) * (4 + i))
        series += term
    expected = -4 + math.log(series)
    assert expected == pytest.approx(-3.0825, abs=1e-4)
    assert uniformity(draw(1500, 8)) == pytest.approx(expected, abs=0.02)


def test_uniformity_takes_no_row_as_a_pair_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(20, 3)
    unit = x / x.norm(dim=1, keepdim=True)
    apart = torch.cdist(unit, unit).square()[~torch.eye(20, dtype=torch.bool)]
    expected = math.log(float((-2 * apart).exp().mean()))
    assert uniformity(x) == pytest.approx(expected, abs=1e-10)
    monkeypatch.setattr("interp.geometry.descriptors.SLAB", 60)
    assert uniformity(x) == pytest.approx(expected, abs=1e-10)
    with pytest.raises(InputError, match="temperature 0 is positive"):
        uniformity(x, 0)


@pytest.mark.parametrize("name", [name for name in NAMES if DESCRIPTORS[name].smooth])
def test_a_smooth_descriptor_has_a_jackknife_interval_over_whole_clusters(name: str) -> None:
    x = draw(120, 18).repeat_interleave(2, 0) + 0.01 * draw(240, 18, seed=1)
    clusters = [str(i // 2) for i in range(240)]
    value, interval = describe_interval(name, x, clusters, n_folds=10)
    assert value == DESCRIPTORS[name].function(x)
    assert interval.low < value < interval.high


def test_neighbor_descriptors_have_no_jackknife_interval() -> None:
    with pytest.raises(InputError, match="no jackknife interval of twonn: it counts neighbors"):
        describe_interval("twonn", draw(40, 4))
    with pytest.raises(InputError, match="30 clusters for 40 rows"):
        describe_interval("anisotropy", draw(40, 4), range(30))


def test_the_dimension_of_thin_samples_rises_along_its_n_curve() -> None:
    curve = n_curve("twonn", ball(1600, 20), draws=3)
    assert curve.n == (200, 400, 800, 1600)
    assert curve.mean[0] < curve.mean[-1] < 20
    assert curve.spread[-1] is None
    assert all(s is not None and s > 0 for s in curve.spread[:-1])
    with pytest.raises(
        InputError, match=r"sizes \[3, 50\] with 5 draws: sizes lie in \[4, n = 40\]"
    ):
        n_curve("twonn", draw(40, 3), (3, 50))
