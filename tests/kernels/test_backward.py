"""Gradients of sparse codes, per latent: against dense float64 twins, autograd and bad input."""

import pytest
import torch
from interp_kernels import (
    KernelError,
    csc_from_indices,
    encode_topk_reference,
    sparse_decode_bwd,
    sparse_decode_bwd_reference,
    sparse_decode_reference,
    sparse_encode_bwd,
    sparse_encode_bwd_reference,
)
from interp_kernels.sparse_decode_bwd import heavy_chunks, slot_products, slot_products_chunked

from tests.kernels.backward_cases import SIZES, code, draw, relative_error

BACKENDS = ["eager", "dense"]
# Twice the error of a sum of a few hundred fp32 products, and of one rounding to 16 bits.
BOUND = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2, torch.float64: 1e-14}


def _inputs(n, d, m, k, generator, kind="zipf", dtype=torch.float64):
    values, indices = code(n, m, k, generator, kind=kind)
    grad, weight, x = (draw(generator, *shape, dtype=dtype) for shape in ((n, d), (m, d), (n, d)))
    return grad, values.to(dtype), indices, weight, x


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize(("n", "d", "m", "k"), SIZES)
def test_decode_gradients_equal_dense_float64(n, d, m, k, dtype, backend, generator):
    grad, values, indices, weight, _ = _inputs(n, d, m, k, generator, dtype=dtype)
    found = sparse_decode_bwd(grad, values, indices, weight, backend=backend)
    truth = sparse_decode_bwd_reference(grad, values, indices, weight)
    for mine, theirs in zip(found, truth, strict=True):
        assert mine.dtype == dtype
        assert relative_error(mine, theirs) < BOUND[dtype]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize(("n", "d", "m", "k"), SIZES)
def test_encode_gradients_equal_dense_float64(n, d, m, k, dtype, backend, generator):
    slots, values, indices, _, x = _inputs(n, d, m, k, generator, dtype=dtype)
    slots = draw(generator, n, k, dtype=dtype)
    found = sparse_encode_bwd(slots, values, indices, x, m, backend=backend)
    truth = sparse_encode_bwd_reference(slots, values, indices, x, m)
    for mine, theirs in zip(found, truth, strict=True):
        assert mine.dtype == dtype
        assert relative_error(mine, theirs) < BOUND[dtype]


def test_the_references_equal_autograd(generator):
    grad, values, indices, weight, x = _inputs(9, 5, 12, 3, generator)
    parameters = values.clone().requires_grad_(), weight.clone().requires_grad_()
    out = sparse_decode_reference(parameters[0], indices, parameters[1])
    truth = torch.autograd.grad(out, parameters, grad)
    found = sparse_decode_bwd_reference(grad, values, indices, weight)
    for mine, theirs in zip(found, truth, strict=True):
        torch.testing.assert_close(mine, theirs)
    weight, bias = weight.requires_grad_(), draw(generator, 12).requires_grad_()
    values, indices = encode_topk_reference(x, weight, bias, 3)
    slots = draw(generator, 9, 3)
    truth = torch.autograd.grad(values, (weight, bias), slots)
    found = sparse_encode_bwd_reference(slots, values.detach(), indices, x, 12)
    for mine, theirs in zip(found, truth, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["one", "dead"])
def test_one_latent_everywhere_and_none_anywhere(kind, backend, generator):
    grad, values, indices, weight, x = _inputs(60, 7, 9, 5, generator, kind)
    found = sparse_decode_bwd(grad, values, indices, weight, backend=backend)
    truth = sparse_decode_bwd_reference(grad, values, indices, weight)
    found += sparse_encode_bwd(found[0], values, indices, x, 9, backend=backend)
    truth += sparse_encode_bwd_reference(truth[0], values, indices, x, 9)
    for mine, theirs in zip(found, truth, strict=True):
        assert relative_error(mine, theirs) < 1e-14
    if kind == "dead":
        assert not found[1].any()
        assert not found[2].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slot_with_value_zero_passes_no_gradient_to_the_encoder(backend, generator):
    slots, values, indices, _, x = _inputs(30, 6, 8, 3, generator)
    slots = draw(generator, 30, 3)
    silenced = torch.where(values > 0, slots, 1e9)
    for mine, theirs in zip(
        sparse_encode_bwd(silenced, values, indices, x, 8, backend=backend),
        sparse_encode_bwd(slots, values, indices, x, 8, backend=backend),
        strict=True,
    ):
        assert (mine == theirs).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch_has_zero_gradients(backend):
    empty, indices = torch.zeros(0, 4), torch.zeros(0, 2, dtype=torch.int64)
    dvalues, dweight = sparse_decode_bwd(
        empty, torch.zeros(0, 2), indices, torch.ones(5, 4), backend=backend
    )
    assert dvalues.shape == (0, 2)
    assert dweight.shape == (5, 4)
    assert not dweight.any()
    for gradient in sparse_encode_bwd(
        dvalues, dvalues, indices, torch.zeros(0, 4), 5, backend=backend
    ):
        assert not gradient.any()


def test_int32_indices_views_and_a_given_order_give_the_same(generator):
    grad, values, indices, weight, x = _inputs(20, 6, 30, 4, generator)
    order = csc_from_indices(indices, 30)
    expected = sparse_decode_bwd(grad, values, indices, weight, backend="eager")
    strided = (t.T.contiguous().T for t in (grad, values, indices.int(), weight))
    found = sparse_decode_bwd(*strided, order, backend="eager")
    expected += sparse_encode_bwd(values, values, indices, x, 30, backend="eager")
    found += sparse_encode_bwd(values, values, indices.int(), x.flip(0).flip(0), 30, order)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_two_runs_give_the_same_bits(generator):
    grad, values, indices, weight, x = _inputs(200, 9, 20, 6, generator, dtype=torch.float32)
    runs = [
        sparse_decode_bwd(grad, values, indices, weight, backend="eager")
        + sparse_encode_bwd(grad[:, :6].contiguous(), values, indices, x, 20, backend="eager")
        for _ in range(2)
    ]
    for first, second in zip(*runs, strict=True):
        assert (first == second).all()


def test_the_private_product_of_torch_equals_gather_and_multiply(generator):
    grad, _, indices, weight, _ = _inputs(33, 19, 12, 5, generator, dtype=torch.float32)
    for kind in (torch.int32, torch.int64):
        fast = slot_products(grad, indices.to(kind), weight)
        slow = slot_products_chunked(grad, indices.to(kind), weight)
        torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("size", [1, 3, 16, 1000])
def test_heavy_latents_are_cut_into_chunks_that_cover_them_once(size, generator):
    _, indices = code(150, 40, 4, generator)
    order = csc_from_indices(indices, 40)
    heavy = heavy_chunks(order.offsets, 600, size)
    counts = order.offsets.diff().tolist()
    expected = [j for j, c in enumerate(counts) if c > size for _ in range(-(-c // size))]
    used = int(heavy.starts[-1])
    assert heavy.latents[:used].tolist() == expected
    assert used <= len(heavy.latents) == 2 * 600 // size


def _decode_op(**named):
    given = {"grad": torch.zeros(4, 3), "values": torch.zeros(4, 2), "indices": None}
    given |= {"weight": torch.zeros(5, 3), **named}
    if given["indices"] is None:
        given["indices"] = torch.zeros(4, 2, dtype=torch.int64)
    return sparse_decode_bwd(**given)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"grad": torch.zeros(4, 2)}, r"grad is \[4, 2\], expected \[n = 4, d = 3\]"),
        ({"values": torch.zeros(4, 1)}, r"indices is \[4, 2\], expected \[n = 4, k = 1\]"),
        ({"values": torch.zeros(4, 2).double()}, "values is float64 and grad float32"),
        ({"indices": torch.zeros(4, 2)}, "indices is float32; it takes int32 or int64"),
        ({"indices": torch.full((4, 2), 5)}, r"indices run from 5 to 5, outside 0\.\.4"),
        ({"indices": torch.full((4, 2), -1)}, "indices run from -1 to -1"),
        ({"weight": torch.zeros(0, 3)}, "m = 0, it must be at least 1"),
        ({"weight": torch.zeros(5, 3, device="meta")}, "weight is on meta and grad on cpu"),
        ({"backend": "triton"}, 'backend "triton" needs a GPU'),
        ({"backend": "fast"}, "backend 'fast' is none of"),
    ],
)
def test_decode_gradients_refuse_what_does_not_fit(named, message):
    with pytest.raises(KernelError, match=message):
        _decode_op(**named)


def test_encode_gradients_refuse_what_does_not_fit():
    values, indices = torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.int64)
    with pytest.raises(KernelError, match="n_latents = 0"):
        sparse_encode_bwd(values, values, indices, torch.zeros(4, 3), 0)
    with pytest.raises(KernelError, match=r"values is \[4, 2\], expected \[n = 5, k\]"):
        sparse_encode_bwd(values, values, indices, torch.zeros(5, 3), 9)
    with pytest.raises(KernelError, match="indices run from 9 to 9"):
        sparse_encode_bwd(values, values, indices + 9, torch.zeros(4, 3), 9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_registrations_pass_opcheck(backend, generator):
    grad, values, indices, weight, x = _inputs(6, 5, 8, 3, generator)
    order = csc_from_indices(indices, 8)
    given = (grad, values, indices, *order, weight, backend)
    torch.library.opcheck(torch.ops.interp.sparse_decode_bwd.default, given)
    given = (values, values, indices, *order, x, 8, backend)
    torch.library.opcheck(torch.ops.interp.sparse_encode_bwd.default, given)
