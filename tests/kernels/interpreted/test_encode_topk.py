"""The fused encoder and its certificate against float64, interpreted on a CPU."""

import pytest
import torch
from interp_kernels import encode_topk, encode_topk_reference
from interp_kernels._fused_topk import fused_keys, unpack_keys

# n, d, m, k: one of everything, one tile, several tiles with a remainder, all latents.
SIZES = [(1, 1, 1, 1), (5, 7, 33, 3), (3, 37, 300, 20), (2, 5, 131, 131)]


def _inputs(n, d, m, generator, dtype=torch.float32):
    x, weight, bias = (torch.randn(*s, generator=generator) for s in ((n, d), (m, d), (m,)))
    return [tensor.to(dtype) for tensor in (x, weight, bias)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", SIZES)
def test_the_fused_encoder_equals_float64(size, dtype, generator):
    *shape, k = size
    inputs = _inputs(*shape, generator, dtype)
    values, indices = encode_topk(*inputs, k, backend="triton")
    expected, places = encode_topk_reference(*(t.double() for t in inputs), k)
    tolerance = {torch.float32: 2e-6, torch.float16: 2e-3}[dtype]
    assert values.dtype == dtype
    assert (values - expected).norm() <= tolerance * expected.norm()
    # Sums of fp16 products are exact to rounding in fp32, so the same latents are chosen.
    assert (indices.sort(dim=1).values == places.sort(dim=1).values).all()


def test_whole_numbers_tie_and_the_lower_latent_wins(generator):
    x = torch.randint(-2, 3, (6, 4), generator=generator).float()
    weight = torch.randint(-2, 3, (300, 4), generator=generator).float()
    bias = torch.zeros(300)
    for k, keep in ((7, None), (7, 4), (50, 4), (300, 4)):
        values, indices = unpack_keys(fused_keys(x, weight, bias, k, keep=keep))
        exact, places = (x @ weight.T).sort(dim=1, descending=True, stable=True)
        assert (indices == places[:, :k]).all()
        assert (values == exact[:, :k]).all()


def test_rows_without_certificate_are_computed_again(generator):
    # The large entries all lie in one tile: every third latent of three tiles.
    x, weight, bias = _inputs(5, 6, 384, generator)
    bias[::3] += 100
    expected, places = encode_topk_reference(x, weight, bias, 20)
    values, indices = unpack_keys(fused_keys(x, weight, bias, 20, keep=4))
    assert (indices == places).all()
    torch.testing.assert_close(values, expected)


def test_entries_of_the_same_group_are_not_allowed(generator):
    x, weight, bias = _inputs(4, 6, 150, generator)
    own = torch.arange(4, dtype=torch.int32)
    other = torch.randint(4, (150,), generator=generator, dtype=torch.int32)
    masked = (x @ weight.T + bias).masked_fill(own[:, None] == other, -torch.inf)
    for keep in (None, 4):
        keys = fused_keys(x, weight, bias, 9, (own, other), keep=keep)
        assert (unpack_keys(keys)[1] == masked.topk(9, dim=1).indices).all()
    none = fused_keys(x, weight, bias, 9, (own * 0, other * 0), keep=4)
    assert (none == -(1 << 63)).all()


def test_chunks_of_rows_and_two_runs_give_the_same_bits(generator, monkeypatch):
    inputs = _inputs(150, 4, 20, generator)
    whole = encode_topk(*inputs, 3, backend="triton")
    monkeypatch.setattr("interp_kernels._fused_topk.BUDGET", 1)
    for mine, again in zip(whole, encode_topk(*inputs, 3, backend="triton"), strict=True):
        assert torch.equal(mine, again)


def test_the_gradient_reaches_rows_weight_and_bias(generator):
    inputs = [t.requires_grad_() for t in _inputs(6, 5, 40, generator)]
    grad = torch.randn(6, 4, generator=generator)
    found = torch.autograd.grad(encode_topk(*inputs, 4, backend="triton")[0], inputs, grad)
    truth = torch.autograd.grad(encode_topk_reference(*inputs, 4)[0], inputs, grad)
    for mine, theirs in zip(found, truth, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_nan_reaches_the_door_and_an_empty_batch_is_empty(generator):
    x, weight, bias = _inputs(3, 4, 20, generator)
    x[1, 2] = torch.nan
    with pytest.raises(ValueError, match="1 of 3 rows are NaN or inf, the first is row 1"):
        encode_topk(x, weight, bias, 3, backend="triton")
    assert encode_topk(x[:0], weight, bias, 3, backend="triton")[0].shape == (0, 3)
