"""The CKA family: known values, exact moments, both precisions, both routes, streams."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.geometry import MEASURES, both_cka, debiased_cka, minibatch_cka, stream_cka
from interp.geometry import cka_sums as sums
from interp.geometry.cka import prepare_cka
from interp.geometry.cka_biased import biased_cka, gram_moments
from interp.geometry.cka_minibatch import prepare_minibatch
from interp.geometry.cka_rbf import _median, _prepare, rbf_cka, rbf_cka_all
from interp.geometry.cka_sums import prepare_sums, route_costs, squares

NAMES = ["cka", "cka_biased"]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(name: str, x: Any, y: Any) -> float:
    measure = MEASURES[name]
    return float(measure.values([measure.prepare(x, "x")], [measure.prepare(y, "y")])[0, 0])


# Known values


def test_biased_cka_of_independent_gaussians_is_d_over_n_plus_d() -> None:
    n, d = 512, 192
    values = [value("cka_biased", draw(n, d, seed=s), draw(n, d, seed=s + 9)) for s in range(3)]
    assert np.mean(values) == pytest.approx(d / (n + d), abs=2e-3)


def test_biased_cka_of_wide_independent_features_goes_to_one() -> None:
    x, y = draw(50, 4000), draw(50, 4000, seed=1)
    assert value("cka_biased", x, y) > 0.98
    assert abs(value("cka", x, y)) < 4 * math.sqrt(2 / (50 * 47))


def test_cka_of_one_column_is_the_squared_correlation() -> None:
    x, y = draw(30, 1), draw(30, 1, seed=1)
    r = np.corrcoef(x[:, 0], y[:, 0])[0, 1]
    assert biased_cka(x, y) == pytest.approx(r**2, abs=1e-12)


def test_cka_of_orthogonal_contrasts_follows_from_their_variances() -> None:
    # Columns are orthonormal contrasts; x weights two of them by 2 and 1, y the first alone.
    contrasts = torch.linalg.qr(draw(12, 3) - draw(12, 3).mean(0))[0]
    x = contrasts[:, :2] * torch.tensor([2.0, 1.0])
    y = contrasts[:, :1]
    assert biased_cka(x, y) == pytest.approx(4 / math.sqrt(17), abs=1e-12)


def test_the_cosine_of_whitened_distances_is_biased_cka() -> None:
    # Squared distances with the covariance that centering leaves: a double-centered cosine.
    x, y = draw(20, 4), draw(20, 6, seed=1)
    h = torch.eye(20, dtype=torch.float64) - 1 / 20
    a, b = (h @ torch.cdist(z, z).square() @ h for z in (x, y))
    assert float((a * b).sum() / (a.norm() * b.norm())) == pytest.approx(
        value("cka_biased", x, y), abs=1e-10
    )


# Moments


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_moments_of_biased_cka_are_exact_over_all_pairings(seed: int) -> None:
    x, y = draw(6, 2, seed=seed).exp(), draw(6, 9, seed=seed + 5)
    xs, ys = [prepare_sums(x)], [prepare_sums(y)]
    orders = np.array(list(itertools.permutations(range(6))))
    k, el = (z @ z.T for z in (x - x.mean(0), y - y.mean(0)))
    moved = el[orders[:, :, None], orders[:, None, :]]
    values = (k * moved).sum((1, 2)) / (k.norm() * el.norm())
    assert float(values[5]) == pytest.approx(biased_cka(x, y[orders[5]]), abs=1e-12)
    mean, sd = gram_moments(xs, ys)
    assert float(mean) == pytest.approx(float(values.mean()), abs=1e-12)
    assert float(sd) == pytest.approx(float(values.std(correction=0)), abs=1e-12)
    relabeled = MEASURES["cka_biased"].permuted(xs, ys, orders).flatten()
    assert torch.allclose(relabeled, values, rtol=0, atol=1e-6)


def test_the_mean_of_the_null_is_the_root_of_participation_ratios_over_n_minus_1() -> None:
    x, y = draw(50, 7), draw(50, 20, seed=1).exp()
    ratios = []
    for z in (x, y):
        spectrum = torch.linalg.eigvalsh(torch.cov(z.T)).clamp(min=0)
        ratios.append(float(spectrum.sum() ** 2 / spectrum.square().sum()))
    mean, _ = gram_moments([prepare_sums(x)], [prepare_sums(y)])
    assert float(mean) == pytest.approx(math.sqrt(ratios[0] * ratios[1]) / 49, rel=1e-10)


# Precision and routes


def hard(kind: str, seed: int, n: int = 700, d: int = 96) -> torch.Tensor:
    """Features on which float32 sums lose digits."""
    x = draw(n, d, seed=seed)
    if kind == "one axis":
        x[:, 3] = 1e4 * (torch.arange(n) % 2)
    if kind == "heavy tails":
        x = x.sign() * x.abs() ** 6
    if kind == "far from the origin":
        x = x + 1e4
    if kind == "binary":
        x = x.sign()
    if kind == "wide":
        x = draw(150, 1200, seed=seed)
    if kind == "decaying spectrum":
        x = x / torch.arange(1, d + 1) ** 2
    return x


@pytest.mark.parametrize(
    "kind",
    [
        "gaussian",
        "one axis",
        "heavy tails",
        "far from the origin",
        "wide",
        "decaying spectrum",
        "binary",
    ],
)
@pytest.mark.parametrize("route", ["feature", "gram"])
def test_single_precision_products_keep_six_digits(
    kind: str, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    xs, ys = ([hard(kind, s) for s in part] for part in ((0, 1), (2, 3)))
    xs.append(ys[0])
    exact = both_cka(xs, ys)
    monkeypatch.setattr(sums, "SMALL", 0)
    fast = both_cka(xs, ys, route)
    assert torch.allclose(fast.biased, exact.biased, rtol=0, atol=1e-6)
    assert torch.allclose(fast.debiased, exact.debiased, rtol=0, atol=1e-6)
    # A peak takes double precision.
    peaked = kind in ("one axis", "heavy tails", "decaying spectrum")
    assert peaked or not torch.equal(fast.biased, exact.biased)


def test_a_long_sum_on_one_axis_keeps_six_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    # All products have one sign: the longest float32 sum that is ever taken.
    n = 3 * sums.CHUNK + 11
    x, y = draw(n, 2), draw(n, 2, seed=1)
    x[:, 0] += 300 * (torch.arange(n) % 2)
    y[:, 1] += 300 * (torch.arange(n) % 2)
    exact = both_cka([x], [y])
    monkeypatch.setattr(sums, "SMALL", 0)
    fast = both_cka([x], [y], "feature")
    assert float(fast.biased) == pytest.approx(float(exact.biased), abs=1e-6)
    assert float(fast.debiased) == pytest.approx(float(exact.debiased), abs=1e-6)


def test_wide_representations_take_double_precision() -> None:
    # What debiasing leaves of ||X'X||^2 is n / (n + d) of it.
    layer = prepare_cka(draw(20, 3000))
    assert layer.energy < sums.FRAGILE * sums.total(layer)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["gaussian", "wide"])
def test_a_large_layer_is_read_from_where_it_lies(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = hard(kind, 0).float() + 5, hard(kind, 1).half()
    copied = value(name, x, y)
    monkeypatch.setattr(sums, "MAX_COPY_BYTES", 0)
    layer = MEASURES[name].prepare(x, "x")
    assert layer.x.data_ptr() == x.data_ptr()
    assert value(name, x, y) == pytest.approx(copied, abs=1e-9)
    orders = np.random.default_rng(0).permutation(len(x))[None]
    folds = np.arange(len(x)) % 3
    for part, more in (("permuted", orders), ("deleted", folds)):
        whole = getattr(MEASURES[name], part)([layer], [layer], more)
        monkeypatch.setattr(sums, "MAX_COPY_BYTES", 1 << 28)
        same = MEASURES[name].prepare(x, "x")
        expected = getattr(MEASURES[name], part)([same], [same], more)
        assert torch.allclose(whole, expected, rtol=0, atol=1e-6)
    monkeypatch.setattr(sums, "MAX_COPY_BYTES", 0)
    with pytest.raises(InputError, match="constant: all 700 rows are equal"):
        MEASURES[name].prepare(torch.full((700, 3), 0.1), "x")
    x[3, 1] = torch.nan
    with pytest.raises(InputError, match=r"1 NaN or infinite values .* the first in row 3"):
        MEASURES[name].prepare(x, "x")


@pytest.mark.parametrize(("n", "d", "e"), [(50, 8, 5), (300, 280, 7), (290, 300, 310)])
def test_both_routes_agree(n: int, d: int, e: int) -> None:
    xs = [prepare_sums(draw(n, d, seed=s)) for s in range(2)]
    ys = [prepare_sums(draw(n, e, seed=10 + s)) for s in range(3)]
    a, b = (squares(xs, ys, route) for route in ("feature", "gram"))
    assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)


def test_the_cheaper_route_is_that_of_fewer_operations() -> None:
    # 12 x 12 layers of 768 at n = 2048: Grams; a pair of them: X'Y; 50,000 rows: X'Y.
    for n, layers, better in ((2048, 12, "gram"), (2048, 1, "feature"), (50_000, 12, "feature")):
        costs = route_costs(n, [768] * layers, [768] * layers)
        assert min(costs, key=lambda name: costs[name]) == better


def test_grams_are_relabeled_in_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    xs = [prepare_sums(draw(40, 30, seed=s)) for s in range(3)]
    ys = [prepare_sums(draw(40, 20, seed=10 + s)) for s in range(3)]
    orders = np.stack([np.random.default_rng(s).permutation(40) for s in range(2)])
    whole = sums.squares_permuted(xs, ys, orders)
    # Room for one pair of [40, 40] float32 matrices, but not for two.
    monkeypatch.setattr(sums, "MAX_GRAM_BYTES", 2 * 3 * 4 * 1600 - 1)
    parts = sums.gram_permuted(xs, ys, orders, sums._gram)
    assert parts is not None
    assert torch.equal(parts, whole)
    monkeypatch.setattr(sums, "MAX_GRAM_BYTES", 0)
    assert sums.gram_permuted(xs, ys, orders, sums._gram) is None
    assert torch.allclose(sums.squares_permuted(xs, ys, orders), whole, rtol=0, atol=1e-6)


def test_both_ckas_are_those_of_the_two_measures() -> None:
    xs, ys = ([draw(60, 9, seed=s) for s in part] for part in ((0, 1), (2, 3, 4)))
    found = both_cka(xs, ys)
    for name, matrix in (("cka_biased", found.biased), ("cka", found.debiased)):
        first, second = ([MEASURES[name].prepare(z, "z") for z in part] for part in (xs, ys))
        assert torch.equal(matrix, MEASURES[name].values(first, second))
    with pytest.raises(InputError, match=r"xs\[1\] is constant"):
        both_cka([xs[0], torch.ones(60, 3)], ys)


# Minibatches


def test_one_batch_is_debiased_cka() -> None:
    x, y = draw(30, 4), draw(30, 6, seed=1)
    assert minibatch_cka(x, y, 30) == pytest.approx(debiased_cka(x, y), abs=1e-12)
    assert minibatch_cka(x, y, 500) == pytest.approx(debiased_cka(x, y), abs=1e-12)


@pytest.mark.parametrize(("n", "batch_size"), [(40, 8), (43, 8), (46, 8), (29, 13)])
def test_minibatch_cka_is_the_ratio_of_averages_over_batches(n: int, batch_size: int) -> None:
    x, y = draw(n, 4), draw(n, 6, seed=1)
    sums = np.zeros(3)
    for start in range(0, n, batch_size):
        parts = (z[start:][:batch_size] for z in (x, y))
        k, el = ((z @ z.T).numpy().copy() for z in parts)
        m = len(k)
        if m < 4:
            continue
        for gram in (k, el):
            np.fill_diagonal(gram, 0)
        for at, (a, b) in enumerate(((k, el), (k, k), (el, el))):
            # Song et al. 2012, eq. 5.
            whole = a.sum() * b.sum() / ((m - 1) * (m - 2))
            hsic = (np.trace(a @ b) + whole - 2 / (m - 2) * (a @ b).sum()) / (m * (m - 3))
            sums[at] += m * hsic
    expected = sums[0] / math.sqrt(sums[1] * sums[2])
    assert minibatch_cka(x, y, batch_size) == pytest.approx(expected, abs=1e-12)
    xs, ys = ([prepare_minibatch(z, "z", batch_size)] for z in (x, y))
    assert float(MEASURES["cka_minibatch"].values(xs, ys)) == pytest.approx(expected, abs=1e-12)


def test_permuted_and_deleted_minibatches_are_made_anew() -> None:
    x, y = draw(50, 4), draw(50, 6, seed=1)
    xs, ys = ([prepare_minibatch(z, "z", 9)] for z in (x, y))
    order = np.random.default_rng(0).permutation(50)
    moved = MEASURES["cka_minibatch"].permuted(xs, ys, order[None])
    assert float(moved) == pytest.approx(minibatch_cka(x, y[order], 9), abs=1e-12)
    folds = np.arange(50) % 4
    left = MEASURES["cka_minibatch"].deleted(xs, ys, folds)
    kept = torch.as_tensor(folds != 2)
    assert float(left[2]) == pytest.approx(minibatch_cka(x[kept], y[kept], 9), abs=1e-12)


@pytest.mark.parametrize("cuts", [[], [1, 2, 3], [20], [7, 7, 33, 60]])
def test_rows_in_any_chunks_give_the_value_of_all_rows(cuts: list[int]) -> None:
    xs, ys = [draw(61, 3), draw(61, 5, seed=1).float()], [draw(61, 2, seed=2)]
    bounds = [0, *cuts, 61]
    chunks = [([x[a:b] for x in xs], [y[a:b] for y in ys]) for a, b in itertools.pairwise(bounds)]
    found = stream_cka(chunks, batch_size=9)
    expected = [[minibatch_cka(x, y, 9)] for x in xs for y in ys]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)


def test_chunks_that_do_not_fit_are_refused() -> None:
    x, y = draw(12, 3), draw(12, 2, seed=1)
    with pytest.raises(InputError, match=r"chunk 0 has shapes \[\(12, 3\), \(11, 2\)\]"):
        stream_cka([([x], [y[:11]])])
    with pytest.raises(InputError, match=r"chunk 1 has layers of widths \[\[2\], \[2\]\]"):
        stream_cka([([x], [y]), ([y], [y])])
    with pytest.raises(InputError, match="chunk 0 has NaN"):
        stream_cka([([x * torch.nan], [y])])
    with pytest.raises(InputError, match="3 rows came; minibatch CKA needs 4"):
        stream_cka([([x[:3]], [y[:3]])])
    with pytest.raises(InputError, match="0 rows came"):
        stream_cka([])
    with pytest.raises(InputError, match="batch_size = 3; unbiased HSIC needs at least 4"):
        minibatch_cka(x, y, 3)
    alone = torch.zeros(12, 3)
    alone[4] = 1
    with pytest.raises(InputError, match="no batch has anything left"):
        minibatch_cka(alone, y, 6)


# Gaussian kernels


@pytest.mark.parametrize("n", [5, 6, 31, 300])
@pytest.mark.parametrize("diagonal", [False, True])
def test_the_bandwidth_is_the_median_of_squared_distances(n: int, diagonal: bool) -> None:
    x = draw(n, 3, seed=n)
    x[1] = x[0]
    layer = _prepare(x, "x", diagonal=diagonal)
    squared = torch.cdist(layer.x, layer.x).square().numpy()
    chosen = squared if diagonal else squared[~np.eye(n, dtype=bool)]
    assert _median(layer, diagonal=diagonal) == pytest.approx(float(np.median(chosen)), rel=1e-9)


def test_the_two_bandwidths_differ_most_in_a_small_sample() -> None:
    gaps = []
    for n in (12, 200):
        x, y = draw(n, 5), draw(n, 5) + draw(n, 5, seed=1)
        gaps.append(abs(rbf_cka(x, y) - rbf_cka_all(x, y)))
    assert 0 < gaps[1] < gaps[0] < 0.05


def test_rbf_cka_of_two_clusters_has_its_known_value() -> None:
    # Two clusters without spread: every kernel is a multiple of one matrix once it is centered.
    x, y = torch.zeros(10, 2), torch.zeros(10, 3)
    x[5:, 0], y[5:, 2] = 7.0, 1e-3
    assert rbf_cka(x, y) == pytest.approx(1, abs=1e-12)
    other = torch.zeros(10, 1)
    other[::2] = 1.0
    # Contrasts (+5, -5) and (+1, -1, ...): squared correlation 0.2^2.
    assert rbf_cka(x, other) == pytest.approx(0.04, abs=1e-12)


def test_moments_of_rbf_cka_are_exact_over_all_pairings() -> None:
    xs, ys = ([MEASURES["cka_rbf"].prepare(draw(6, 3, seed=s), "x")] for s in (0, 4))
    orders = np.array(list(itertools.permutations(range(6))))
    values = MEASURES["cka_rbf"].permuted(xs, ys, orders).flatten()
    mean, sd = gram_moments(xs, ys)
    assert float(mean) == pytest.approx(float(values.mean()), abs=1e-6)
    assert float(sd) == pytest.approx(float(values.std(correction=0)), abs=1e-6)


def test_kernels_too_large_to_keep_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    xs, ys = ([MEASURES["cka_rbf"].prepare(draw(40, 3, seed=s), "x")] for s in (0, 4))
    orders = np.random.default_rng(0).permutation(40)[None]
    kept = MEASURES["cka_rbf"].permuted(xs, ys, orders)
    monkeypatch.setattr(sums, "MAX_GRAM_BYTES", 0)
    assert torch.allclose(MEASURES["cka_rbf"].permuted(xs, ys, orders), kept, rtol=0, atol=1e-6)


def test_rbf_cka_refuses_many_rows_and_rows_that_are_all_alike() -> None:
    with pytest.raises(InputError, match="n = 20001 rows; RBF CKA takes at most 20000"):
        MEASURES["cka_rbf"].prepare(torch.zeros(20_001, 1), "x")
    x = torch.zeros(12, 2)
    x[0] = 1
    with pytest.raises(InputError, match="the median distance is 0"):
        MEASURES["cka_rbf"].prepare(x, "x")
