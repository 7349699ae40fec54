"""Selection and the TopK encoder on the torch backends: ties, backends, registration, refusals."""

import sys

import pytest
import torch
from interp_kernels import (
    KernelError,
    checking_values,
    encode_topk,
    encode_topk_reference,
    select_topk,
    select_topk_reference,
    using_backend,
)
from interp_kernels._fused_topk import kept_per_tile, pack_keys, unpack_keys
from interp_kernels.encode_topk import _select_branch_free
from torch._subclasses.fake_tensor import FakeTensorMode

BACKENDS = ["dense", "eager"]
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def _inputs(n, d, m, generator, dtype=torch.float64):
    shapes = ((n, d), (m, d), (m,))
    floats = [torch.randn(*s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
    return [tensor.requires_grad_() for tensor in floats]


@pytest.mark.parametrize("select", [select_topk, _select_branch_free])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "k"), [(1, 1), (7, 7), (97, 3), (1003, 10), (33000, 5)])
def test_selection_equals_a_stable_sort_with_and_without_ties(m, k, dtype, select, generator):
    for pre in (
        torch.randn(9, m, generator=generator),
        torch.randint(-2, 3, (9, m), generator=generator).float(),
        torch.randn(9, m, generator=generator).relu() - 0.0,
    ):
        pre = pre.to(dtype)
        values, indices = select(pre, k)
        expected, places = select_topk_reference(pre, k)
        assert (indices == places).all()
        assert (values == expected).all()


@pytest.mark.parametrize("select", [select_topk, _select_branch_free])
def test_an_equal_value_in_a_group_outside_is_found(select):
    # 3 is the smallest selected value and stands in more groups than are looked at.
    pre = torch.zeros(2, 1000)
    pre[0, ::9] = 3
    pre[1, 999], pre[1, 500:700] = 4, 3
    indices = select(pre, 4)[1]
    assert indices.tolist() == [[0, 9, 18, 27], [999, 500, 501, 502]]


@pytest.mark.parametrize("select", [select_topk, _select_branch_free])
def test_nan_is_the_largest_and_zeros_of_both_signs_are_equal(select):
    pre = torch.zeros(1, 500)
    pre[0, 1::2] = -0.0
    assert select(pre, 3)[1].tolist() == [[0, 1, 2]]
    pre[0, 400] = torch.tensor(-1, dtype=torch.int32).view(torch.float32)
    values, indices = select(pre, 2)
    assert indices.tolist() == [[400, 0]]
    assert values[0, 0].isnan()


def test_keys_sort_like_their_values_and_come_back():
    values = torch.tensor([[-torch.inf, -1.5, 0.0, 1e-30, 2.0, torch.inf]])
    keys = pack_keys(values, torch.arange(6))
    assert (keys.diff() > 0).all()
    assert torch.equal(unpack_keys(keys)[0], values)
    assert unpack_keys(keys)[1].tolist() == [list(range(6))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "d", "m", "k"), [(1, 1, 1, 1), (17, 13, 63, 5), (600, 5, 90, 2)])
def test_values_and_gradients_equal_the_dense_twin(n, d, m, k, backend, generator, monkeypatch):
    # Small chunks: the eager backend goes through several.
    monkeypatch.setattr(sys.modules["interp_kernels.encode_topk"], "CHUNK", 1)
    inputs = _inputs(n, d, m, generator)
    grad = torch.randn(n, k, generator=generator, dtype=torch.float64)
    values, indices = encode_topk(*inputs, k, backend=backend)
    expected, places = encode_topk_reference(*inputs, k)
    assert (indices == places).all()
    torch.testing.assert_close(values, expected)
    found = torch.autograd.grad(values, inputs, grad)
    for mine, theirs in zip(found, torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_gradients_stay_within_twice_the_error_of_plain_torch(
    dtype, backend, generator
):
    inputs = _inputs(12, 9, 70, generator, dtype)
    grad = torch.randn(12, 4, generator=generator).to(dtype)
    values, indices = encode_topk(*inputs, 4, backend=backend)
    mine = torch.autograd.grad(values, inputs, grad)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    results = []
    for given, seed in ((inputs, grad), (exact, grad.double())):
        pre = torch.nn.functional.linear(*given)
        results.append(torch.autograd.grad(pre.gather(1, indices).relu(), given, seed))
    for a, b, c in zip(mine, *results, strict=True):
        assert (a - c).norm() <= 2 * (b - c).norm() + 1e-6 * c.norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_passes_opcheck_and_gradcheck(backend, generator):
    inputs = _inputs(4, 3, 9, generator)
    torch.library.opcheck(torch.ops.interp.encode_topk.default, (*inputs, 3, backend))
    torch.library.opcheck(torch.ops.interp.select_topk.default, (inputs[1], 2))
    assert torch.autograd.gradcheck(lambda *a: encode_topk(*a, 3, backend=backend)[0], inputs)
    assert torch.autograd.gradcheck(lambda a: select_topk(a, 2)[0], inputs[1])


@pytest.mark.slow
def test_compiled_without_a_break_it_gives_the_same(generator):
    inputs = _inputs(5, 4, 200, generator, torch.float32)
    compiled = torch.compile(encode_topk, fullgraph=True, backend="aot_eager")
    for name in ("dense", "eager"):
        with using_backend(name):
            values, indices = compiled(*inputs, 3)
            plain, places = encode_topk(*inputs, 3)
            assert torch.equal(indices, places)
            torch.testing.assert_close(
                torch.autograd.grad(values.square().sum(), inputs),
                torch.autograd.grad(plain.square().sum(), inputs),
            )


def test_fake_tensors_pass_with_the_right_shapes():
    with FakeTensorMode():
        values, indices = encode_topk(torch.empty(6, 3), torch.empty(9, 3), torch.empty(9), 2)
        assert values.shape == indices.shape == (6, 2)
        assert indices.dtype == torch.int64


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_runs_give_the_same_bits(backend, generator):
    inputs = _inputs(64, 8, 400, generator, torch.float32)

    def run():
        values, _ = encode_topk(*inputs, 5, backend=backend)
        return torch.autograd.grad(values.square().sum(), inputs)

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_enough_candidates_are_kept_that_rows_rarely_fail():
    assert kept_per_tile(65536, 32) == 8
    assert kept_per_tile(8192, 160) == 16
    assert kept_per_tile(128, 128) == 128
    assert kept_per_tile(1 << 20, 1) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 10}, r"k = 10 is not in 1..9"),
        ({"k": 0}, r"k = 0 is not in 1..9"),
        ({"x": torch.ones(4, 4)}, r"x is \[4, 4\], expected \[n, d = 3\]"),
        ({"x": torch.ones(3)}, r"x is \[3\]"),
        ({"x": torch.ones(4, 3).long()}, r"x is int64; it takes float32"),
        ({"bias": torch.ones(8)}, r"bias is \[8\], expected \[m = 9\]"),
        ({"bias": torch.ones(9).double()}, r"bias is float64 and x float32"),
        ({"weight": torch.ones(0, 3)}, r"n_latents = 0"),
        ({"weight": torch.ones(9, 0)}, r"d = 0"),
        ({"weight": torch.ones(9, 3, device="meta")}, r"weight is on meta and x on cpu"),
        ({"x": torch.full((4, 3), torch.nan)}, r"4 of 4 rows are NaN or inf, the first is row 0"),
        ({"weight": torch.full((9, 3), torch.inf)}, r"4 of 4 rows .* look for NaN, inf"),
        ({"x": torch.full((4, 3), -torch.inf)}, r"4 of 4 rows"),
        ({"backend": "triton"}, r"needs a GPU"),
    ],
)
def test_bad_input_is_refused_with_the_numbers(changes, message):
    given = {"x": torch.ones(4, 3), "weight": torch.ones(9, 3), "bias": torch.ones(9), "k": 2}
    with pytest.raises(KernelError, match=message):
        encode_topk(**(given | changes))


def test_checking_values_is_a_context():
    with checking_values(), pytest.raises(KernelError, match="1 of 1 rows"):
        encode_topk(torch.full((1, 1), torch.nan), torch.ones(1, 1), torch.ones(1), 1)
