"""One pass over chunks of rows: equal to the measures in memory, however the rows come."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.geometry import MEASURES, Sums, Totals
from interp.geometry.spectra import participation_ratio
from interp.geometry.sums import accumulator_bytes, fold, pooled, subtract
from interp.geometry.sums_measures import (
    FROM_SUMS,
    participation_ratios,
    sum_deleted,
    sum_moments,
    sum_values,
)
from interp.stats import make_folds

N = 97
NAMES = sorted(FROM_SUMS)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers(widths: tuple[int, ...], seed: int) -> list[torch.Tensor]:
    """Layers that share a latent, far from the origin, of different scales."""
    latent = draw(N, 3, seed=7)
    return [
        10.0**i * (latent @ draw(3, d, seed=seed + i) + draw(N, d, seed=seed + 20 + i) + 5)
        for i, d in enumerate(widths)
    ]


XS, YS = layers((4, 9), 100), layers((1, 6, 11), 200)
FOLDS = make_folds(range(N), 5)


def widths(parts: list[torch.Tensor]) -> list[int]:
    return [part.shape[1] for part in parts]


def one_pass(order: np.ndarray, chunk: int, folds: np.ndarray | None = FOLDS) -> Totals:
    sums = Sums(widths(XS), widths(YS), 5)
    for start in range(0, N, chunk):
        rows = order[start : start + chunk]
        xs, ys = ([z[torch.as_tensor(rows)] for z in side] for side in (XS, YS))
        sums.add(xs, ys, None if folds is None else folds[rows])
    return sums.finish()


def in_memory(name: str, rows: np.ndarray | None = None) -> torch.Tensor:
    at = torch.arange(N) if rows is None else torch.as_tensor(rows)
    prepared = ([MEASURES[name].prepare(z[at]) for z in side] for side in (XS, YS))
    return MEASURES[name].values(*prepared)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk", [1, 13, 96, 97, 1000])
def test_values_equal_the_measures_in_memory(name: str, chunk: int) -> None:
    found = sum_values(one_pass(np.arange(N), chunk), name)
    assert torch.allclose(found, in_memory(name), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_rows_does_not_matter(name: str) -> None:
    first = sum_values(one_pass(np.arange(N), 10), name)
    order = np.random.default_rng(0).permutation(N)
    assert torch.allclose(sum_values(one_pass(order, 7), name), first, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_deleted_folds_equal_recomputing_without_them(name: str) -> None:
    found = sum_deleted(one_pass(np.arange(N), 10), name)
    for f in range(5):
        slow = in_memory(name, np.flatnonzero(f != FOLDS))
        assert torch.allclose(found[f], slow, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_two_passes_fold_by_fold_equal_one(name: str) -> None:
    totals = one_pass(np.arange(N), 10)
    total = pooled(totals)
    for f in range(5):
        part = Sums(widths(XS), widths(YS), shift=total.shift)
        rows = torch.as_tensor(np.flatnonzero(f == FOLDS))
        part.add([z[rows] for z in XS], [z[rows] for z in YS])
        found = sum_values(subtract(total, part.totals), name)
        assert torch.allclose(found, sum_deleted(totals, name)[f], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["cka", "cka_biased", "cca_r2", "r2"])
def test_null_moments_equal_those_in_memory(name: str) -> None:
    mean, sd = sum_moments(one_pass(np.arange(N), 10), name)
    prepared = ([MEASURES[name].prepare(z) for z in side] for side in (XS, YS))
    moments = MEASURES[name].moments
    assert moments is not None
    expected = moments(*prepared)
    assert torch.allclose(mean, expected[0], rtol=0, atol=1e-9)
    assert (sd is None) == (name in ("cca_r2", "r2"))
    if sd is not None:
        assert torch.allclose(sd, expected[1], rtol=0, atol=1e-9)


def test_participation_ratios_are_those_of_the_covariance() -> None:
    ratios = torch.cat(participation_ratios(one_pass(np.arange(N), 10)))
    for found, z in zip(ratios, (*XS, *YS), strict=True):
        spectrum = torch.linalg.eigvalsh(torch.cov(z.T).reshape(z.shape[1], -1))
        expected = spectrum.sum() ** 2 / spectrum.square().sum()
        assert float(found) == pytest.approx(float(expected), rel=1e-9)
        assert float(found) == pytest.approx(participation_ratio(z), rel=1e-9)


def test_float32_chunks_and_arrays_are_summed_in_float64() -> None:
    expected = one_pass(np.arange(N), 50)
    sums = Sums(widths(XS), widths(YS), 5)
    for rows in (slice(0, 50), slice(50, N)):
        sums.add([z[rows].float() for z in XS], [z[rows].numpy() for z in YS], FOLDS[rows])
    assert sums.finish().cross.dtype == torch.float64
    difference = sum_values(sums.finish(), "cka") - sum_values(expected, "cka")
    assert 0 < float(difference.abs().max()) < 1e-6


def test_nan_is_refused_with_the_row_of_the_pass_and_nothing_is_added() -> None:
    sums = Sums(widths(XS), widths(YS))
    sums.add([z[:30] for z in XS], [z[:30] for z in YS])
    before = sums.totals.cross.clone()
    broken = [z[30:60].clone() for z in YS]
    broken[1][4, 2] = torch.inf
    with pytest.raises(InputError, match=r"y has 1 NaN .* in row 34 of the pass \(row 4 of"):
        sums.add([z[30:60] for z in XS], broken)
    assert sums.totals.n == 30
    assert torch.equal(sums.totals.cross, before)


def test_chunks_that_do_not_fit_are_refused_with_the_numbers() -> None:
    sums = Sums(widths(XS), widths(YS), 2)
    with pytest.raises(InputError, match=r"x: a chunk of shapes \[\(97, 4\)\] .* widths \[4, 9\]"):
        sums.add(XS[:1], YS)
    with pytest.raises(InputError, match=r"a chunk of 97 rows of x, 30 of y and 97 folds"):
        sums.add(XS, [z[:30] for z in YS])
    with pytest.raises(InputError, match=r"folds from 0 to 4; they are 0 .. 1"):
        sums.add(XS, YS, FOLDS)
    with pytest.raises(InputError, match=r"dtype torch.complex128"):
        sums.add([z + 0j for z in XS], YS)
    with pytest.raises(InputError, match=r"0 rows were added"):
        sums.finish()


def test_sums_that_would_not_fit_say_how_many_folds_do() -> None:
    one = accumulator_bytes([1024] * 4, [1024] * 4)
    with pytest.raises(InputError, match=r"in 20 folds take .* GB.*at most 4 folds"):
        Sums([1024] * 4, [1024] * 4, 20, max_bytes=4 * one + 1)
    with pytest.raises(InputError, match=r"in 1 folds take 14.1 GB.*use fewer layers at a time"):
        Sums([1024] * 40, [1024] * 40)
    # Wide in memory as it says.
    sums = Sums([30, 20], [10], 3)
    tensors = [t for t in sums.totals if isinstance(t, torch.Tensor)]
    for side in (sums.totals.x, sums.totals.y):
        tensors += [side.linear, *side.grams, side.norms, side.squares, side.weighted]
    held = sum(t.numel() * t.element_size() for t in tensors)
    assert held == accumulator_bytes([30, 20], [10], 3)


def test_a_constant_layer_is_refused() -> None:
    sums = Sums([2], [3])
    sums.add([torch.full((20, 2), 0.1)], [draw(20, 3)])
    with pytest.raises(InputError, match=r"x: layer 0 is constant: all 20 rows"):
        sums.finish()
    sums = Sums([1], [3], 2)
    alone = torch.zeros(20, 1)
    alone[3] = 1
    sums.add([alone], [draw(20, 3)], (np.arange(20) != 3).astype(int))
    with pytest.raises(InputError, match=r"layer 0 of width 1 is constant in these 19 rows"):
        sum_deleted(sums.finish(), "cka_biased")


def test_the_jackknife_needs_folds_with_rows() -> None:
    with pytest.raises(InputError, match=r"5 folds, of which \[1, 2, 3, 4\] have no rows"):
        sum_deleted(one_pass(np.arange(N), 20, folds=None), "cka")
    total = one_pass(np.arange(N), 20, folds=(np.arange(N) < 95).astype(int))
    with pytest.raises(InputError, match=r"95 of 97 rows leave 2"):
        subtract(pooled(total), fold(total, 1))
    with pytest.raises(InputError, match="different shifts"):
        subtract(pooled(one_pass(np.arange(N), 20)), pooled(one_pass(np.arange(N), 21)))


def test_what_is_no_function_of_the_sums_is_refused() -> None:
    totals = one_pass(np.arange(N), 20)
    with pytest.raises(InputError, match=r"'mutual_knn' is no function of these sums; cka,"):
        sum_values(totals, "mutual_knn")
    with pytest.raises(InputError, match=r"the null of 'procrustes' is not known"):
        sum_moments(totals, "procrustes")
    alone = Sums([2], [2])
    alone.add([torch.eye(9, 2)[[0] + [5] * 8]], [draw(9, 2)])
    with pytest.raises(InputError, match="all rows but one are equal"):
        sum_values(alone.finish(), "cka")


# Two models of three layers of width 256, 50,000 rows that never exist at once.
LARGE = """
import json, resource, torch
from interp.geometry import Sums
from interp.geometry.sums_measures import sum_values
from interp.stats import make_folds
torch.set_num_threads(1)
n, chunk, d = 50_000, 2_000, 256
folds = make_folds(range(n), 10)
order = folds.argsort(kind="stable")
mix = [torch.randn(8, d, generator=torch.Generator().manual_seed(s)) for s in range(6)]
sums = Sums([d] * 3, [d] * 3, 10)
for start in range(0, n, chunk):
    rng = torch.Generator().manual_seed(start)
    latent = torch.randn(chunk, 8, generator=rng)
    parts = [latent @ m + 4 * torch.randn(chunk, d, generator=rng) for m in mix]
    sums.add(parts[:3], parts[3:], folds[order[start : start + chunk]])
value = sum_values(sums.finish(), "cka")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"n": sums.totals.n, "least": float(value.min()), "peak": peak}))
"""


@pytest.mark.slow
def test_fifty_thousand_rows_take_less_than_two_gigabytes() -> None:
    run = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, check=True, timeout=600
    )
    found = json.loads(run.stdout)
    assert found["n"] == 50_000
    assert found["peak"] < 2e9
    assert found["least"] > 0.05


def test_every_pair_has_its_own_place() -> None:
    totals = one_pass(np.arange(N), 10)
    for name, (i, x), (j, y) in itertools.product(("cka", "r2"), enumerate(XS), enumerate(YS)):
        sums = Sums([x.shape[1]], [y.shape[1]])
        sums.add([x], [y])
        assert float(sum_values(sums.finish(), name)) == pytest.approx(
            float(sum_values(totals, name)[i, j]), abs=1e-10
        )
