"""The kernels of `encode_threshold`, `batch_topk` and `knn_topk`, interpreted on a CPU."""

import pytest
import torch
from interp_kernels import (
    batch_topk,
    batch_topk_reference,
    encode_threshold,
    encode_threshold_reference,
    knn_topk,
    knn_topk_reference,
)

HALF = [torch.float32, torch.float16]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("n", "d", "m"), [(1, 1, 1), (5, 7, 33), (19, 40, 150)])
def test_threshold_encoder_equals_float64(n, d, m, dtype, generator):
    shapes = ((n, d), (m, d), (m,))
    x, weight, bias = (torch.randn(*s, generator=generator).to(dtype) for s in shapes)
    theta = torch.rand(m, generator=generator).to(dtype)
    found = encode_threshold(x, weight, bias, theta, backend="triton")
    truth = encode_threshold_reference(*(t.double() for t in (x, weight, bias, theta)))
    assert (found.offsets == truth.offsets).all()
    assert (found.indices == truth.indices).all()
    tolerance = {torch.float32: 1e-5, torch.float16: 5e-3}[dtype]
    assert (found.values - truth.values).norm() <= tolerance * truth.values.norm()


def test_threshold_encoder_with_nothing_above_and_no_rows():
    weight, bias = torch.ones(9, 3), torch.zeros(9)
    for n in (4, 0):
        found = encode_threshold(torch.ones(n, 3), weight, bias, 5.0, backend="triton")
        assert found.offsets.tolist() == [0] * (n + 1)
        assert found.values.shape == (0,)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (7, 300, 13), (3, 1024, 3072), (30, 100, 1)])
def test_batch_selection_equals_a_sort(n, m, k, dtype, generator):
    pre = torch.randn(n, m, generator=generator).to(dtype)
    (code, smallest), (truth, edge) = (
        batch_topk(pre, k, backend="triton"),
        batch_topk_reference(pre, k),
    )
    for mine, theirs in zip(code, truth, strict=True):
        assert torch.equal(mine, theirs)
    assert smallest == edge


def test_batch_selection_takes_the_lowest_of_equals(generator):
    pre = torch.randint(-2, 2, (5, 700), generator=generator).float()
    pre[pre == 0] = -0.0
    pre[2, 5] = 0.0
    for k in (1, 900, 2500):
        code, truth = batch_topk(pre, k, backend="triton")[0], batch_topk_reference(pre, k)[0]
        assert torch.equal(code.indices, truth.indices)
        assert torch.equal(code.offsets, truth.offsets)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_neighbors_equal_float64(metric, generator):
    x = torch.randn(40, 6, generator=generator)
    queries = torch.randn(3, 6, generator=generator)
    for asked in (None, queries):
        values, ids = knn_topk(x, 5, queries=asked, metric=metric, backend="triton")
        truth, places = knn_topk_reference(x, 5, asked, metric)
        assert (ids == places).all()
        torch.testing.assert_close(values, truth, rtol=1e-4, atol=1e-4)


def test_duplicates_are_neighbors_at_distance_zero_by_lower_id(generator):
    x = torch.randn(4, 5, generator=generator).repeat(6, 1)
    values, ids = knn_topk(x, 3, backend="triton")
    assert (values == 0).all()
    assert ids[0].tolist() == [4, 8, 12]
    assert ids[8].tolist() == [0, 4, 12]


def test_rows_of_one_group_are_no_neighbors(generator):
    x = torch.randn(12, 5, generator=generator)
    values, ids = knn_topk(x, 4, groups=torch.arange(12) // 4, backend="triton")
    assert not ((ids // 4) == (torch.arange(12) // 4)[:, None]).any()
    values, ids = knn_topk(x, 4, groups=torch.arange(12) // 10, backend="triton")
    assert (ids[:10, 2:] == -1).all()
    assert (values[:10, 2:] == torch.inf).all()
