"""AuxK and the counters of silent latents."""

import pytest
import torch
from interp_kernels import (
    KernelError,
    auxk,
    auxk_reference,
    dead_update_,
    dead_update_reference,
)

from tests.kernels.backward_cases import code, draw

BACKENDS = ["dense", "eager"]


def _inputs(n, d, m, generator, dtype=torch.float64):
    shapes = ((n, d), (n, d), (m, d), (m,), (m, d))
    x, residual, encoder, bias, decoder = (draw(generator, *s, dtype=dtype) for s in shapes)
    dead = torch.rand(m, generator=generator) < 0.4
    dead[-1] = True
    return [x, residual, encoder, bias, decoder], dead


def _grads(loss, given):
    return torch.autograd.grad(loss, given[2:])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("capacity", [None, "all"])
@pytest.mark.parametrize(("n", "d", "m", "aux_k"), [(1, 1, 1, 1), (17, 9, 30, 4), (5, 3, 12, 50)])
def test_loss_and_gradients_equal_dense_autograd(n, d, m, aux_k, capacity, backend, generator):
    given, dead = _inputs(n, d, m, generator)
    for tensor in given[2:]:
        tensor.requires_grad_()
    limit = m if capacity == "all" else None
    found = auxk(*given, dead, aux_k, capacity=limit, backend=backend)
    truth = auxk_reference(*given, dead, aux_k)
    torch.testing.assert_close(found.loss, truth)
    expected = _grads(3 * truth, given)
    for mine, theirs in zip(_grads(3 * found.loss, given), expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    rows = (found.encoder, found.bias, found.decoder)
    for compact, theirs in zip(rows, expected, strict=True):
        torch.testing.assert_close(3 * compact, theirs[found.latents])


def test_gradient_reaches_the_encoder_rows_of_every_dead_latent_and_no_other(generator):
    given, dead = _inputs(64, 9, 30, generator)
    for tensor in given[2:]:
        tensor.requires_grad_()
    for gradient in _grads(auxk(*given, dead, 4).loss, given):
        size = gradient.reshape(30, -1).abs().sum(1)
        assert (size[dead] > 0).all()
        assert not size[~dead].any()


def test_a_full_house_serves_the_lowest_dead_latents(generator):
    given, dead = _inputs(20, 4, 30, generator)
    found = auxk(*given, dead, 3, capacity=5)
    lowest = dead.nonzero().flatten()[:5]
    assert (found.latents == lowest).all()
    served = torch.zeros_like(dead).index_fill(0, lowest, True)
    torch.testing.assert_close(found.loss, auxk_reference(*given, served, 3))


@pytest.mark.parametrize("capacity", [None, 0, 12])
def test_no_dead_latent_means_no_loss_and_no_gradient(capacity, generator):
    given, dead = _inputs(20, 4, 12, generator)
    for aux_k in (3, 40):
        found = auxk(*given, torch.zeros_like(dead), aux_k, capacity=capacity)
        assert float(found.loss) == 0
        assert not any(bool(rows.any()) for rows in (found.encoder, found.bias, found.decoder))


def test_an_empty_batch_has_no_loss(generator):
    given, dead = _inputs(0, 4, 12, generator)
    found = auxk(*given, dead, 3)
    assert float(found.loss) == 0
    assert not found.encoder.any()


def test_auxk_passes_gradcheck_in_float64(generator):
    given, dead = _inputs(6, 3, 9, generator)
    parameters = [tensor.requires_grad_() for tensor in given[2:]]
    assert torch.autograd.gradcheck(
        lambda *p: auxk(*given[:2], *p, dead, 2, capacity=9).loss, parameters
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_registrations_pass_opcheck(backend, generator):
    given, dead = _inputs(6, 3, 9, generator)
    torch.library.opcheck(torch.ops.interp.auxk.default, (*given, dead, 2, 5, backend))
    values, indices = code(6, 9, 3, generator)
    silent = torch.arange(9)
    torch.library.opcheck(torch.ops.interp.dead_update_.default, (silent, values, indices, backend))


def test_auxk_refuses_what_does_not_fit(generator):
    given, dead = _inputs(6, 3, 9, generator)
    with pytest.raises(KernelError, match=r"capacity = 10 is not in 0\.\.9"):
        auxk(*given, dead, 2, capacity=10)
    with pytest.raises(KernelError, match="aux_k = 0, it must be at least 1"):
        auxk(*given, dead, 0)
    with pytest.raises(KernelError, match=r"dead is torch\.int64 on cpu, not bool"):
        auxk(*given, dead.long(), 2)
    with pytest.raises(KernelError, match=r"residual is \[5, 3\], expected \[n = 6, d = 3\]"):
        auxk(given[0], given[1][:5], *given[2:], dead, 2)


@pytest.mark.parametrize("kind", ["zipf", "one", "dead"])
@pytest.mark.parametrize(("n", "m", "k"), [(0, 4, 2), (1, 1, 1), (40, 70, 3)])
def test_counters_equal_those_of_a_dense_code(n, m, k, kind, generator):
    values, indices = code(n, m, k, generator, kind=kind)
    for dtype in (torch.int32, torch.int64):
        silent = torch.arange(m, dtype=dtype)
        expected = dead_update_reference(silent, values, indices)
        dead_update_(silent, values, indices.to(dtype))
        assert (silent == expected).all()


def test_counters_refuse_what_does_not_fit():
    values, indices = torch.ones(2, 2), torch.full((2, 2), 7)
    with pytest.raises(KernelError, match=r"indices run from 7 to 7, outside 0\.\.4"):
        dead_update_(torch.zeros(5, dtype=torch.int64), values, indices)
    with pytest.raises(KernelError, match="silent is float32"):
        dead_update_(torch.zeros(9), values, indices)
