"""The eager path against its readable twins: values, gradients, ties, odd sizes."""

import pytest
import torch
from interp_kernels import (
    csc_from_indices,
    encode_topk,
    encode_topk_reference,
    scatter_rows,
    scatter_rows_reference,
    select_topk,
    sparse_decode,
    sparse_decode_reference,
)

SIZES = [(1, 1, 1, 1), (3, 5, 7, 7), (17, 13, 63, 5), (64, 37, 100, 1)]


def _inputs(n, d, m, generator):
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight, bias = draw(n, d), draw(m, d), draw(m)
    return [tensor.requires_grad_() for tensor in (x, weight, bias)]


@pytest.mark.parametrize(("n", "d", "m", "k"), SIZES)
def test_encode_equals_its_dense_twin_in_values_and_gradients(n, d, m, k, generator):
    inputs = _inputs(n, d, m, generator)
    values, indices = encode_topk(*inputs, k)
    expected, places = encode_topk_reference(*inputs, k)
    assert (indices == places).all()
    torch.testing.assert_close(values, expected)
    grad = torch.randn(n, k, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad(values, inputs, grad)
    for mine, theirs in zip(found, torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(("n", "d", "m", "k"), SIZES)
def test_decode_equals_its_dense_twin_in_values_and_gradients(n, d, m, k, generator):
    values = torch.rand(n, k, generator=generator, dtype=torch.float64).requires_grad_()
    indices = torch.randint(m, (n, k), generator=generator)
    weight = torch.randn(m, d, generator=generator, dtype=torch.float64).requires_grad_()
    out = sparse_decode(values, indices, weight)
    expected = sparse_decode_reference(values, indices, weight)
    torch.testing.assert_close(out, expected)
    grad = torch.randn(n, d, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad(out, (values, weight), grad)
    for mine, theirs in zip(
        found, torch.autograd.grad(expected, (values, weight), grad), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_single_precision_stays_within_twice_the_twin_error(generator):
    exact = _inputs(32, 40, 128, generator)
    single = [tensor.detach().float().requires_grad_() for tensor in exact]
    grad = torch.randn(32, 8, generator=generator, dtype=torch.float64)
    truth = torch.autograd.grad(encode_topk_reference(*exact, 8)[0], exact, grad)
    twin = torch.autograd.grad(encode_topk_reference(*single, 8)[0], single, grad.float())
    mine = torch.autograd.grad(encode_topk(*single, 8)[0], single, grad.float())
    for a, b, c in zip(mine, twin, truth, strict=True):
        assert (a - c).abs().max() <= 2 * (b - c).abs().max() + 1e-6


def test_gradcheck_passes_in_float64(generator):
    x, weight, bias = _inputs(4, 3, 9, generator)
    indices = torch.randint(9, (4, 2), generator=generator)
    values = torch.rand(4, 2, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: encode_topk(*a, 3)[0], (x, weight, bias))
    assert torch.autograd.gradcheck(lambda v, w: sparse_decode(v, indices, w), (values, weight))


def test_a_selected_entry_below_zero_is_zero_and_passes_no_gradient(generator):
    x, weight, _ = _inputs(6, 4, 10, generator)
    bias = torch.full((10,), -100.0, dtype=torch.float64, requires_grad=True)
    values, _ = encode_topk(x, weight, bias, 3)
    assert (values == 0).all()
    for gradient in torch.autograd.grad(values.sum(), (x, weight, bias)):
        assert (gradient == 0).all()


def test_ties_go_to_the_lower_latent():
    pre = torch.tensor([[1.0, 3, 3, 3, 0], [5, 5, 5, 5, 5], [0, 1, 2, 3, 4]])
    values, indices = select_topk(pre, 2)
    assert indices.tolist() == [[1, 2], [0, 1], [4, 3]]
    assert values.tolist() == [[3, 3], [5, 5], [4, 3]]


def test_all_latents_selected_are_ordered_and_lower_first():
    assert select_topk(torch.zeros(2, 3), 3)[1].tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_scatter_equals_its_dense_twin_with_repeated_and_missing_latents(generator, dtype):
    indices = torch.randint(5, (40, 3), generator=generator).to(dtype)
    weights = torch.randn(40, 3, generator=generator)
    rows = torch.randn(40, 6, generator=generator)
    out = scatter_rows(indices, weights, rows, 9)
    torch.testing.assert_close(out, scatter_rows_reference(indices, weights, rows, 9))
    assert (out[5:] == 0).all()


def test_an_empty_batch_has_zero_gradients():
    weight = torch.ones(4, 3, requires_grad=True)
    values, indices = encode_topk(torch.zeros(0, 3), weight, torch.zeros(4), 2)
    assert values.shape == indices.shape == (0, 2)
    assert scatter_rows(indices, values, torch.zeros(0, 3), 4).abs().sum() == 0


def test_latent_major_order_lists_each_latent_in_row_order():
    order = csc_from_indices(torch.tensor([[2, 0], [2, 2], [1, 0]]), 4)
    assert order.offsets.tolist() == [0, 2, 3, 6, 6]
    assert order.positions.tolist() == [1, 5, 4, 0, 2, 3]


def test_non_contiguous_inputs_give_the_same(generator):
    x, weight, bias = (tensor.detach() for tensor in _inputs(8, 6, 20, generator))
    expected = encode_topk(x, weight, bias, 4)
    strided = encode_topk(x.T.contiguous().T, weight.T.contiguous().T, bias, 4)
    torch.testing.assert_close(strided[0], expected[0])


def test_the_same_input_gives_the_same_bits(generator):
    inputs = [tensor.detach().float().requires_grad_() for tensor in _inputs(64, 8, 40, generator)]

    def run():
        values, indices = encode_topk(*inputs, 5)
        out = sparse_decode(values, indices, inputs[1])
        return torch.autograd.grad(out.square().sum(), inputs)

    for first, second in zip(run(), run(), strict=True):
        assert (first == second).all()
