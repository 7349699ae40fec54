"""The backward kernels in the interpreter against dense float64, in single and half precision."""

import pytest
import torch
from interp_kernels import (
    Extra,
    auxk,
    auxk_reference,
    dead_update_,
    dead_update_reference,
    fused_bwd_adam,
    fused_bwd_adam_reference,
    project_adam_renorm_,
    project_adam_renorm_reference,
    sparse_decode_bwd,
    sparse_decode_bwd_reference,
    sparse_encode_bwd,
    sparse_encode_bwd_reference,
)

from tests.kernels.backward_cases import clone, code, draw, relative_error, weights

# n, d, m, k, kind: the first latent of the second has about 350 of 1600 slots, that of the third
# all 520: both are cut into chunks.
CASES = [(7, 37, 19, 3, "zipf"), (400, 20, 23, 4, "zipf"), (130, 17, 11, 4, "one")]
CASES += [(9, 5, 6, 2, "dead"), (0, 5, 6, 2, "zipf")]
BOUND = {torch.float32: 1e-6, torch.float16: 2e-3}
LR, STEP = torch.tensor(1e-2), torch.tensor(3.0)


def _inputs(n, d, m, k, kind, dtype, generator):
    values, indices = code(n, m, k, generator, kind=kind)
    grad, x = draw(generator, n, d, dtype=dtype), draw(generator, n, d, dtype=dtype)
    return grad, values.to(dtype), indices, x


@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize(("n", "d", "m", "k", "kind"), CASES)
def test_decode_and_encode_gradients(n, d, m, k, kind, dtype, generator):
    grad, values, indices, x = _inputs(n, d, m, k, kind, dtype, generator)
    weight, slots = draw(generator, m, d, dtype=dtype), draw(generator, n, k, dtype=dtype)
    found = sparse_decode_bwd(grad, values, indices.int(), weight, backend="triton")
    truth = sparse_decode_bwd_reference(grad, values, indices, weight)
    found += sparse_encode_bwd(slots, values, indices, x, m, backend="triton")
    truth += sparse_encode_bwd_reference(slots, values, indices, x, m)
    for mine, theirs in zip(found, truth, strict=True):
        assert mine.dtype == dtype
        assert relative_error(mine, theirs) < BOUND[dtype]


@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize(("n", "d", "m", "k", "kind"), CASES)
def test_the_fused_update(n, d, m, k, kind, dtype, generator):
    grad, values, indices, z = _inputs(n, d, m, k, kind, dtype, generator)
    state, moments = weights(m, d, generator)
    b_dec = draw(generator, d)
    truth = fused_bwd_adam_reference(grad, values, indices, z, state, moments, b_dec, float(LR), 3)
    state, *moments = clone((state, *moments), torch.float32)
    copies = (torch.empty(m, d, dtype=torch.float16), torch.empty(m, d, dtype=torch.float16))
    back = fused_bwd_adam(
        grad, values, indices, z, state, tuple(moments), b_dec.float(), LR, STEP, copies=copies,
        backend="triton",
    )  # fmt: skip
    for mine, theirs in zip((state, *moments), truth[:3], strict=True):
        for one, other in zip(mine, theirs, strict=True):
            # Rows are read in 16 bits, but sums and weights are not: no rounding is added.
            assert relative_error(one, other) < 1e-6
    assert relative_error(back, truth[3]) < 1e-6
    for copy, weight in zip(copies, state[:2], strict=True):
        assert (copy == weight.half()).all()


def test_the_fused_update_of_a_stack_with_extra_gradients(generator):
    n, d, m, k, members = 12, 9, 10, 3, 2
    values, indices = code(members * n, m, k, generator)
    indices = indices + m * torch.arange(members).repeat_interleave(n)[:, None]
    grad, z, b_dec = (draw(generator, *s) for s in ((24, d), (24, d), (members, d)))
    state, moments = weights(members * m, d, generator)
    latents = torch.tensor([19, 2, 13])
    extra = Extra(latents, draw(generator, 3, d), draw(generator, 3, d), draw(generator, 3))
    found = []
    for backend, dtype in (("eager", torch.float64), ("triton", torch.float32)):
        mine, *both = clone((state, *moments), dtype)
        given = (grad.to(dtype), values.to(dtype), indices, z.to(dtype), mine, tuple(both))
        back = fused_bwd_adam(
            *given, b_dec.to(dtype), LR, STEP, backend=backend,
            extra=Extra(latents, *(t.to(dtype) for t in extra[1:])),
        )  # fmt: skip
        found.append([*mine, *both[0], *both[1], back])
    for truth, mine in zip(*found, strict=True):
        assert relative_error(mine, truth) < 1e-6


def test_two_runs_give_the_same_bits(generator):
    grad, values, indices, z = _inputs(400, 20, 23, 4, "zipf", torch.float32, generator)
    state, moments = weights(23, 20, generator)
    runs = []
    for _ in range(2):
        mine, *both = clone((state, *moments), torch.float32)
        b_dec = torch.ones(20)
        fused_bwd_adam(
            grad, values, indices, z, mine, tuple(both), b_dec, LR, STEP, backend="triton"
        )
        runs.append([*mine, *both[0], *both[1]])
    assert all((a == b).all() for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("unit_rows", [True, False])
@pytest.mark.parametrize("dtype", list(BOUND))
def test_the_row_optimizer(unit_rows, dtype, generator):
    state, moments = weights(9, 21, generator)
    grad = draw(generator, 9, 21, dtype=dtype)
    given = (state.decoder, grad, moments[0].decoder, moments[1].decoder)
    truth = project_adam_renorm_reference(*given, float(LR), 3, unit_rows=unit_rows)
    weight, first, second = (t.float() for t in (given[0], given[2], given[3]))
    copy = torch.empty(9, 21, dtype=torch.float16)
    project_adam_renorm_(
        weight, grad, first, second, LR, STEP, unit_rows=unit_rows, copy=copy, backend="triton"
    )
    for mine, theirs in zip((weight, first, second), truth, strict=True):
        assert relative_error(mine, theirs) < 1e-6
    assert (copy == weight.half()).all()


@pytest.mark.parametrize("kind", ["zipf", "one", "dead"])
def test_the_counters(kind, generator):
    values, indices = code(40, 70, 3, generator, kind=kind)
    silent = torch.arange(70)
    expected = dead_update_reference(silent, values, indices)
    dead_update_(silent, values.half(), indices.int(), backend="triton")
    assert (silent == expected).all()


def test_auxk_through_the_kernels(generator):
    shapes = ((30, 9), (30, 9), (40, 9), (40,), (40, 9))
    given = [draw(generator, *shape, dtype=torch.float32) for shape in shapes]
    dead = torch.arange(40) % 3 == 0
    exact = [t.double().requires_grad_(at > 1) for at, t in enumerate(given)]
    truth = auxk_reference(*exact, dead, 2)
    found = auxk(*given, dead, 2, capacity=20, backend="triton")
    assert relative_error(found.loss, truth.detach()) < 1e-6
    expected = torch.autograd.grad(truth, exact[2:])
    for mine, theirs in zip((found.encoder, found.bias, found.decoder), expected, strict=True):
        assert relative_error(mine, theirs[found.latents]) < 1e-6
