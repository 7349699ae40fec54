"""The kernels of `sparse_decode` and `decode_loss` against float64, interpreted on a CPU."""

import pytest
import torch
from interp_kernels import decode_loss, sparse_decode, using_backend
from interp_kernels.decode_loss import decode_loss_reference
from interp_kernels.sparse_decode import sparse_decode_reference

# n, k, m, d: a remainder in every tile, more than one block of columns, one of everything.
SIZES = [(1, 1, 1, 1), (5, 3, 9, 7), (3, 20, 33, 37), (2, 9, 17, 530)]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3}


def _inputs(n, k, m, d, dtype, generator):
    indices = torch.randint(m, (n, k), generator=generator, dtype=torch.int32)
    floats = [(n, k), (m, d), (d,), (n, d)]
    values, weight, offset, target = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in floats
    )
    return values, indices, weight, offset, target


def _close(found, expected, dtype):
    error = (found.double() - expected).norm() / expected.norm().clamp_min(1e-9)
    assert error < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_decode_equals_float64(size, dtype, generator):
    values, indices, weight, offset, _ = _inputs(*size, dtype, generator)
    wide = (values.double(), indices, weight.double())
    out = sparse_decode(values, indices, weight, backend="triton")
    assert out.dtype == dtype
    _close(out, sparse_decode_reference(*wide), dtype)
    out = sparse_decode(values, indices.long(), weight, offset, backend="triton")
    _close(out, sparse_decode_reference(*wide, offset.double()), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_loss_and_error_equal_float64(size, dtype, generator):
    values, indices, *rest = _inputs(*size, dtype, generator)
    loss, error = decode_loss(values, indices, *rest, backend="triton")
    truth = decode_loss_reference(values.double(), indices, *(t.double() for t in rest))
    assert loss.dtype == torch.float32
    _close(loss, truth[0], dtype)
    _close(error, truth[1], dtype)


def test_gradients_equal_float64(generator):
    values, indices, *rest = _inputs(6, 4, 11, 13, torch.float32, generator)
    single = [t.requires_grad_() for t in (values, *rest)]
    exact = [t.detach().double().requires_grad_() for t in single]
    with using_backend("triton"):
        loss, error = decode_loss(single[0], indices, *single[1:])
        found = torch.autograd.grad(loss + error.sin().sum(), single)
    loss, error = decode_loss_reference(exact[0], indices, *exact[1:])
    for mine, truth in zip(
        found, torch.autograd.grad(loss + error.sin().sum(), exact), strict=True
    ):
        _close(mine, truth, torch.float32)


def test_two_runs_give_the_same_bits_and_an_empty_batch_is_empty(generator):
    given = _inputs(4, 5, 12, 40, torch.float32, generator)
    first, second = (decode_loss(*given, backend="triton") for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    values, indices, weight, offset, target = given
    loss, error = decode_loss(values[:0], indices[:0], weight, offset, target[:0], backend="triton")
    assert loss == 0
    assert error.shape == (0, 40)
