"""Sparse decode, its fused loss, latent-major order: torch backends, registration, refusals."""

import pytest
import torch
from interp_kernels import (
    KernelError,
    csc_from_topk,
    decode_loss,
    decode_loss_reference,
    sparse_decode,
    sparse_decode_reference,
)
from interp_kernels.csc import csc_from_topk_reference
from torch._subclasses.fake_tensor import FakeTensorMode

SIZES = [(1, 1, 1, 1), (5, 3, 9, 7), (17, 5, 63, 37), (0, 2, 4, 3)]
BACKENDS = ["dense", "eager"]


def _inputs(n, k, m, d, generator, dtype=torch.float64):
    indices = torch.randint(m, (n, k), generator=generator)
    shapes = [(n, k), (m, d), (d,), (n, d)]
    floats = [torch.randn(*s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
    return indices, [tensor.requires_grad_() for tensor in floats]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES[:3])
def test_loss_and_error_equal_the_dense_twin_in_values_and_gradients(size, backend, generator):
    indices, (values, *rest) = _inputs(*size, generator)
    inputs = (values, *rest)
    results = []
    for function in (lambda *a: decode_loss(*a, backend=backend), decode_loss_reference):
        loss, error = function(values, indices, *rest)
        objective = loss * 3 + error.sin().sum()
        results.append((loss, error, *torch.autograd.grad(objective, inputs)))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_gradient_alone_equals_the_twin(backend, generator):
    indices, (values, weight, offset, target) = _inputs(6, 3, 8, 5, generator)
    for wanted in (values, weight, offset):
        inputs = [t.detach().requires_grad_(t is wanted) for t in (values, weight, offset)]
        [wanted] = [t for t in inputs if t.requires_grad]
        out = sparse_decode(inputs[0], indices, *inputs[1:], backend=backend)
        twin = sparse_decode_reference(inputs[0], indices, *inputs[1:])
        found = torch.autograd.grad((out * target.detach()).sum(), wanted)
        torch.testing.assert_close(
            found, torch.autograd.grad((twin * target.detach()).sum(), wanted)
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch_has_loss_zero_and_gradients_zero(backend, generator):
    indices, (values, weight, offset, target) = _inputs(*SIZES[3], generator)
    loss, error = decode_loss(values, indices, weight, offset, target, backend=backend)
    assert loss == 0
    assert error.shape == (0, 3)
    assert (torch.autograd.grad(loss, weight)[0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_low_precision_stays_within_twice_the_error_of_plain_torch(backend, dtype, generator):
    indices, (values, *rest) = _inputs(9, 4, 30, 21, generator, dtype)
    rest = [tensor.detach() for tensor in rest]
    truth = decode_loss_reference(values.double(), indices, *(t.double() for t in rest))[1]
    mine = decode_loss(values, indices, *rest, backend=backend)[1]
    twin = decode_loss_reference(values, indices, *rest)[1]
    assert mine.dtype == dtype
    assert (mine - truth).norm() <= 2 * (twin - truth).norm() + 1e-6 * truth.norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_passes_opcheck_and_gradcheck(backend, generator):
    indices, (values, *rest) = _inputs(4, 3, 6, 5, generator)
    torch.library.opcheck(
        torch.ops.interp.sparse_decode.default, (values, indices, rest[0], rest[1], backend)
    )
    torch.library.opcheck(torch.ops.interp.decode_loss.default, (values, indices, *rest, backend))
    assert torch.autograd.gradcheck(
        lambda v, *others: decode_loss(v, indices, *others, backend=backend), (values, *rest)
    )


@pytest.mark.slow
def test_compiled_without_a_break_it_gives_the_same(generator):
    indices, (values, *rest) = _inputs(4, 3, 60, 5, generator, torch.float32)
    compiled = torch.compile(decode_loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (4, 3):
        given = (values.detach()[:rows], indices[:rows], *rest[:2], rest[2].detach()[:rows])
        mine, plain = compiled(*given), decode_loss(*given)
        torch.testing.assert_close(mine, plain)
        found = torch.autograd.grad(mine[0], rest[0])
        torch.testing.assert_close(found, torch.autograd.grad(plain[0], rest[0]))


def test_fake_tensors_pass_with_the_right_shapes():
    with FakeTensorMode():
        values, weight, target = torch.empty(6, 2), torch.empty(9, 5), torch.empty(6, 5)
        indices = torch.empty(6, 2, dtype=torch.int32)
        loss, error = decode_loss(values, indices, weight, torch.empty(5), target)
        assert loss.shape == ()
        assert error.shape == sparse_decode(values, indices, weight).shape == (6, 5)


def test_strided_and_expanded_views_give_the_same(generator):
    indices, floats = _inputs(6, 3, 8, 5, generator)
    values, weight, offset, target = (tensor.detach() for tensor in floats)
    plain = decode_loss(values, indices, weight, offset, target)
    strided = (tensor.T.contiguous().T for tensor in (values, indices, weight))
    # One number stands for the whole vector: stride 0.
    flat = offset[:1].expand(5)
    found = decode_loss(*strided, flat, target)[1]
    torch.testing.assert_close(found, plain[1] + offset - flat)


def test_latent_major_order_equals_its_twin(generator):
    indices = torch.randint(7, (20, 3), generator=generator, dtype=torch.int32)
    for given in (indices, indices.long(), indices[:0]):
        mine, twin = csc_from_topk(given, 9), csc_from_topk_reference(given, 9)
        assert all(torch.equal(a, b) for a, b in zip(mine, twin, strict=True))


def _broken(**changes):
    given = {
        "values": torch.ones(4, 2),
        "indices": torch.zeros(4, 2, dtype=torch.int64),
        "weight": torch.ones(6, 3),
        "offset": torch.ones(3),
        "target": torch.ones(4, 3),
    } | changes
    return decode_loss(**given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": torch.full((4, 2), 6)}, r"indices run from 6 to 6, outside 0..5"),
        ({"indices": torch.full((4, 2), -1)}, r"indices run from -1 to -1"),
        ({"indices": torch.zeros(4, 2)}, r"indices is float32; it takes int32 or int64"),
        ({"indices": torch.zeros(4, 3).int()}, r"indices is \[4, 3\], expected \[n = 4, k = 2\]"),
        ({"values": torch.ones(4, 2).int()}, r"values is int32"),
        ({"weight": torch.ones(6, 3).half()}, r"weight is float16 and values float32"),
        ({"weight": torch.ones(6, 3, device="meta")}, r"weight is on meta and values on cpu"),
        ({"weight": torch.ones(0, 3)}, r"m = 0"),
        ({"weight": torch.ones(6, 0)}, r"d = 0"),
        ({"target": torch.ones(4, 4)}, r"target is \[4, 4\], expected \[n = 4, d = 3\]"),
        ({"offset": torch.ones(2)}, r"offset is \[2\], expected \[d = 3\]"),
        ({"backend": "cuda"}, r"backend 'cuda' is none of auto, dense, eager, triton"),
        ({"backend": "triton"}, r"needs a GPU and the tensors are on cpu"),
    ],
)
def test_bad_input_is_refused_with_the_numbers(changes, message):
    with pytest.raises(KernelError, match=message):
        _broken(**changes)


@pytest.mark.parametrize("bad", [-1, 9])
def test_an_index_out_of_range_is_refused_by_the_order(bad):
    with pytest.raises(KernelError, match=f"from {min(bad, 1)} to {max(bad, 1)}, outside 0..8"):
        csc_from_topk(torch.tensor([[bad, 1]]), 9)
