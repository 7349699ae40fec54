"""`encode_threshold`, `batch_topk` and `knn_topk` on the torch backends against plain twins."""

import sys

import pytest
import torch
from interp_kernels import (
    KernelError,
    batch_topk,
    batch_topk_reference,
    encode_threshold,
    encode_threshold_reference,
    knn_topk,
    knn_topk_reference,
)

OPS = torch.ops.interp


def _encoder(n, d, m, generator, dtype=torch.float64):
    shapes = ((n, d), (m, d), (m,))
    floats = [torch.randn(*s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
    return [tensor.requires_grad_() for tensor in floats]


@pytest.mark.parametrize("backend", ["dense", "eager"])
@pytest.mark.parametrize(("n", "d", "m"), [(1, 1, 1), (7, 5, 31), (600, 3, 40)])
def test_threshold_values_and_gradients_equal_the_dense_twin(
    n, d, m, backend, generator, monkeypatch
):
    monkeypatch.setattr(sys.modules["interp_kernels.encode_threshold"], "CHUNK", 1)
    inputs = _encoder(n, d, m, generator)
    theta = torch.rand(m, generator=generator, dtype=torch.float64)
    found = encode_threshold(*inputs, theta, backend=backend)
    truth = encode_threshold_reference(*inputs, theta)
    for mine, theirs in zip(found, truth, strict=True):
        torch.testing.assert_close(mine, theirs)
    grad = torch.randn(len(truth.values), generator=generator, dtype=torch.float64)
    mine = torch.autograd.grad(found.values, inputs, grad)
    for a, b in zip(mine, torch.autograd.grad(truth.values, inputs, grad), strict=True):
        torch.testing.assert_close(a, b)


def test_threshold_registration_passes_opcheck_and_gradcheck(generator):
    inputs = _encoder(4, 3, 6, generator)
    theta = torch.zeros(6, dtype=torch.float64)
    torch.library.opcheck(OPS.encode_threshold.default, (*inputs, theta, "eager"))
    assert torch.autograd.gradcheck(lambda *a: encode_threshold(*a, theta).values, inputs)


@pytest.mark.parametrize("n", [0, 3])
def test_threshold_code_without_entries_has_zero_gradients(n, generator):
    inputs = _encoder(n, 3, 6, generator)
    code = encode_threshold(*inputs, 1e9)
    assert code.offsets.tolist() == [0] * (n + 1)
    for grad in torch.autograd.grad(code.values.sum(), inputs):
        assert (grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (7, 30, 210), (40, 100, 7), (9, 1000, 90)])
def test_batch_selection_equals_a_sort_with_and_without_ties(n, m, k, dtype, generator):
    for pre in (
        torch.randn(n, m, generator=generator),
        torch.randint(-2, 3, (n, m), generator=generator).float(),
        torch.randn(n, m, generator=generator).relu(),
        torch.randn(n, m, generator=generator).T.contiguous().T,
    ):
        pre = pre.to(dtype)
        (code, smallest), (truth, edge) = batch_topk(pre, k), batch_topk_reference(pre, k)
        for mine, theirs in zip(code, truth, strict=True):
            assert torch.equal(mine, theirs)
        assert smallest == edge


def test_batch_registration_passes_opcheck_and_gradcheck(generator):
    pre = torch.randn(4, 6, generator=generator, dtype=torch.float64).requires_grad_()
    torch.library.opcheck(OPS.batch_topk.default, (pre, 7, "eager"))
    assert torch.autograd.gradcheck(lambda p: batch_topk(p, 7)[0].values, pre)


def test_nothing_is_selected_from_an_empty_batch():
    code, smallest = batch_topk(torch.zeros(0, 5), 0)
    assert code.offsets.tolist() == [0]
    assert smallest == torch.inf


@pytest.mark.slow
def test_compiled_without_a_break_selection_gives_the_same(generator):
    pre = torch.randn(6, 50, generator=generator)
    compiled = torch.compile(lambda p: batch_topk(p, 9)[0], fullgraph=True, backend="aot_eager")
    for mine, plain in zip(compiled(pre), batch_topk(pre, 9)[0], strict=True):
        assert torch.equal(mine, plain)
    near = torch.compile(lambda p: knn_topk(p, 2), fullgraph=True, backend="aot_eager")
    for mine, plain in zip(near(pre), knn_topk(pre, 2), strict=True):
        assert torch.equal(mine, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
@pytest.mark.parametrize(("n", "d", "k"), [(2, 1, 1), (50, 7, 9), (33, 5, 32)])
def test_neighbors_equal_the_plain_twin_in_blocks_too(
    n, d, k, metric, dtype, generator, monkeypatch
):
    x = torch.randn(n, d, generator=generator).to(dtype)
    queries = torch.randn(5, d, generator=generator).to(dtype)
    # Slabs of 7 queries and at most 5 rows: many merges, the last one short.
    monkeypatch.setattr(sys.modules["interp_kernels.knn_topk"], "ROWS", 7)
    monkeypatch.setattr(sys.modules["interp_kernels.knn_topk"], "SLAB", 35)
    for asked in (None, queries):
        values, ids = knn_topk(x, k, queries=asked, metric=metric)
        truth, places = knn_topk_reference(x, k, asked, metric)
        if dtype == torch.float64:
            assert (ids == places).all()
        torch.testing.assert_close(values, truth, rtol=1e-4, atol=1e-5)


def test_rows_at_equal_distance_come_by_lower_id(monkeypatch, generator):
    monkeypatch.setattr(sys.modules["interp_kernels.knn_topk"], "SLAB", 24)
    monkeypatch.setattr(sys.modules["interp_kernels.knn_topk"], "ROWS", 5)
    copies = torch.randn(4, 6, generator=generator, dtype=torch.float64).repeat(5, 1)
    values, ids = knn_topk(copies, 4)
    assert (values == 0).all()
    assert ids[6].tolist() == [2, 10, 14, 18]
    # Corners of a simplex: all are equally far.
    corners = torch.eye(9, dtype=torch.float64)
    assert knn_topk(corners, 3)[1][4].tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_of_one_group_are_no_neighbors_and_what_lacks_is_marked(dtype, generator):
    x = torch.randn(12, 5, generator=generator)
    groups = (torch.arange(12) // 4).to(dtype)
    ids = knn_topk(x, 4, groups=groups)[1]
    assert not (groups[ids] == groups[:, None]).any()
    values, ids = knn_topk(x, 4, groups=(torch.arange(12) // 10).to(dtype), metric="dot")
    assert (ids[:10, 2:] == -1).all()
    assert (values[:10, 2:] == -torch.inf).all()


def test_a_row_is_its_own_neighbor_only_on_request(generator):
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    assert (knn_topk(x, 1, exclude_self=False)[1][:, 0] == torch.arange(6)).all()
    assert (knn_topk(x, 1)[1][:, 0] != torch.arange(6)).all()


def test_neighbors_do_not_move_under_a_large_offset(generator):
    x = torch.randn(40, 5, generator=generator)
    assert torch.equal(knn_topk(x, 3)[1], knn_topk(x.double() + 1e6, 3)[1])


def test_neighbors_pass_opcheck(generator):
    x = torch.randn(6, 4, generator=generator)
    ids = torch.arange(6, dtype=torch.int32)
    torch.library.opcheck(OPS.knn_topk.default, (x, x + 1, ids, ids + 1, 2, "cosine", "eager"))


ROWS = torch.ones(5, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batch_topk(ROWS, 16), r"k_total = 16 is not in 0..15"),
        (lambda: batch_topk(ROWS * torch.nan, 2), r"batch_topk: 5 of 5 rows are NaN"),
        (lambda: batch_topk(ROWS[0], 2), r"pre is \[3\], expected \[n, m\]"),
        (lambda: knn_topk(ROWS, 5), r"n_neighbors = 5 of n = 5 rows, at most 4"),
        (lambda: knn_topk(ROWS, 0), r"n_neighbors = 0"),
        (lambda: knn_topk(ROWS[:, :0], 1), r"d = 0"),
        (lambda: knn_topk(ROWS * torch.inf, 1), r"knn_topk: 5 of 5 rows are NaN or inf"),
        (lambda: knn_topk(ROWS, 1, metric="l1"), r"metric 'l1' is none of euclidean"),
        (lambda: knn_topk(ROWS, 1, queries=ROWS[:, :2]), r"queries is \[5, 2\]"),
        (lambda: knn_topk(ROWS, 1, groups=torch.arange(4)), r"groups is \[4\]"),
        (lambda: knn_topk(ROWS, 1, groups=ROWS[:, 0]), r"groups is float32; it takes int32"),
        (lambda: knn_topk(ROWS.int(), 1), r"x is int32"),
        (lambda: knn_topk(ROWS, 1, backend="triton"), r"needs a GPU"),
        (lambda: encode_threshold(ROWS, ROWS, ROWS[0], 0.0), r"bias is \[3\], expected \[m = 5\]"),
        (lambda: encode_threshold(ROWS, ROWS, ROWS[:, 0], ROWS[0]), r"theta is \[3\]"),
        (
            lambda: encode_threshold(ROWS * torch.nan, ROWS, ROWS[:, 0], 0.0),
            r"5 of 5 rows are NaN or inf, the first is row 0; look for NaN, inf or overflow in x",
        ),
    ],
)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(KernelError, match=message):
        call()
