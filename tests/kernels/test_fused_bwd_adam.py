"""The fused step of the kernels against autograd and torch's Adam, in float64 and below."""

import pytest
import torch
import torch.nn.functional as F
from interp_kernels import (
    Extra,
    KernelError,
    Weights,
    csc_from_indices,
    fused_bwd_adam,
    fused_bwd_adam_reference,
    project_adam_renorm_,
    project_adam_renorm_reference,
)
from interp_kernels._fused_eager import add_extra, dense_update, eager_update

from interp.sae.losses import normalize_rows_, project_gradient_
from tests.kernels.backward_cases import SIZES, clone, code, draw, relative_error, weights

BACKENDS = ["eager", "dense"]
LR = torch.tensor(1e-2)
STEP = torch.tensor(3.0)


def _case(n, d, m, k, generator, kind="zipf"):
    values, indices = code(n, m, k, generator, kind=kind)
    state, moments = weights(m, d, generator)
    return draw(generator, n, d), values, indices, draw(generator, n, d), state, moments


def _run(case, b_dec, dtype=torch.float64, backend="eager", **named):
    grad, values, indices, z, state, moments = case
    state, *moments = clone((state, *moments), dtype)
    rows = (t.to(dtype) for t in (grad, values))
    back = fused_bwd_adam(
        *rows, indices, z.to(dtype), state, tuple(moments), b_dec.to(dtype), LR, STEP,
        backend=backend, **named,
    )  # fmt: skip
    return [*state, *moments[0], *moments[1], back]


def _truth(case, b_dec):
    groups = fused_bwd_adam_reference(*case, b_dec, float(LR), 3)
    return [*groups[0], *groups[1], *groups[2], groups[3]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-7), (torch.float32, 1e-6)], ids=str
)
@pytest.mark.parametrize(("n", "d", "m", "k"), SIZES)
def test_the_fused_update_equals_the_unfused_one_in_float64(
    n, d, m, k, dtype, bound, backend, generator
):
    case, b_dec = _case(n, d, m, k, generator), draw(generator, d)
    found = _run(case, b_dec, dtype, backend)
    for mine, theirs in zip(found, _truth(case, b_dec), strict=True):
        assert relative_error(mine, theirs) < bound


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["one", "dead"])
def test_one_latent_everywhere_and_none_anywhere(kind, backend, generator):
    case, b_dec = _case(50, 9, 11, 4, generator, kind), draw(generator, 9)
    for mine, theirs in zip(_run(case, b_dec, backend=backend), _truth(case, b_dec), strict=True):
        assert relative_error(mine, theirs) < 1e-7


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_update_equals_autograd_and_the_adam_of_torch(backend, generator):
    n, d, m, k = 40, 9, 30, 4
    parameters = [torch.nn.Parameter(t) for t in weights(m, d, generator)[0]]
    decoder, encoder, bias = parameters
    b_dec, z = torch.nn.Parameter(draw(generator, d)), draw(generator, n, d)
    optimizer = torch.optim.Adam([*parameters, b_dec], lr=0.02, betas=(0.9, 0.99))
    state = Weights(*(p.detach().clone() for p in parameters))
    moments = tuple(Weights(*(torch.zeros_like(p) for p in parameters)) for _ in range(2))
    for step in range(1, 4):
        pre = (z - b_dec) @ encoder.T + bias
        indices = pre.topk(k).indices
        values = pre.gather(1, indices).relu()
        estimate = torch.zeros_like(pre).scatter(1, indices, values) @ decoder + b_dec
        optimizer.zero_grad()
        (estimate - z).square().sum(1).mean().backward()
        grad = 2 / n * (estimate - z).detach()
        back = fused_bwd_adam(
            grad, values.detach(), indices, z, state, moments, b_dec.detach(),
            torch.tensor(0.02), torch.tensor(float(step)), backend=backend,
        )  # fmt: skip
        torch.testing.assert_close(grad.sum(0) - back, b_dec.grad)
        project_gradient_(decoder)
        optimizer.step()
        normalize_rows_(decoder)
        for mine, theirs in zip(state, parameters, strict=True):
            # The learning rate of the kernels is a single-precision number.
            torch.testing.assert_close(mine, theirs.detach(), rtol=0, atol=1e-8 * step)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stack_is_updated_as_its_members_apart(backend, generator):
    cases = [_case(20, 6, 14, 3, generator) for _ in range(3)]
    b_dec = draw(generator, 3, 6)
    parts = [_run(case, b, backend=backend) for case, b in zip(cases, b_dec, strict=True)]
    grads, values, indices, rows, states, moments = zip(*cases, strict=True)

    def joined(groups):
        return Weights(*(torch.cat(members) for members in zip(*groups, strict=True)))

    shifted = torch.cat([one + 14 * s for s, one in enumerate(indices)])
    pair = tuple(joined(members) for members in zip(*moments, strict=True))
    stacked = (torch.cat(grads), torch.cat(values), shifted, torch.cat(rows), joined(states), pair)
    whole = _run(stacked, b_dec, backend=backend)
    for name, mine in enumerate(whole):
        theirs = [part[name] for part in parts]
        theirs = torch.stack(theirs) if name == len(whole) - 1 else torch.cat(theirs)
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_extra_gradients_are_added_before_the_update_and_spare_b_dec(backend, generator):
    case, b_dec = _case(30, 5, 16, 3, generator), draw(generator, 5)
    latents = torch.tensor([14, 2, 9])
    extra = Extra(latents, draw(generator, 3, 5), draw(generator, 3, 5), draw(generator, 3))
    # What a dead latent has: no slots of its own, so that only the extra gradient moves it.
    case[1].masked_fill_(torch.isin(case[2], latents), 0)
    found = _run(case, b_dec, backend=backend, extra=extra)
    plain = _truth(case, b_dec)
    torch.testing.assert_close(found[-1], plain[-1])
    _, _, _, _, state, moments = case
    spare = torch.ones(16, dtype=torch.bool).index_fill(0, latents, False)
    for mine, theirs in zip(found[:3], plain[:3], strict=True):
        torch.testing.assert_close(mine[spare], theirs[spare], rtol=0, atol=1e-9)
    grads = (extra.decoder, extra.encoder - extra.bias[:, None] * b_dec, extra.bias)
    for part, grad in enumerate(grads):
        given = (state[part], moments[0][part], moments[1][part])
        w, a, b = (t[latents] for t in given)
        unit = part == 0
        truth = project_adam_renorm_reference(w, grad, a, b, float(LR), 3, unit_rows=unit)
        torch.testing.assert_close(found[part][latents], truth[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_working_copies_follow_the_weights(backend, generator):
    case, b_dec = _case(30, 5, 16, 3, generator), draw(generator, 5)
    copies = tuple(torch.full((16, 5), torch.nan, dtype=torch.bfloat16) for _ in range(2))
    found = _run(case, b_dec, torch.float32, backend, copies=copies)
    for copy, weight in zip(copies, found[:2], strict=True):
        assert (copy == weight.bfloat16()).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch_still_decays_the_moments(backend, generator):
    case, b_dec = _case(0, 5, 6, 2, generator), draw(generator, 5)
    for mine, theirs in zip(_run(case, b_dec, backend=backend), _truth(case, b_dec), strict=True):
        assert relative_error(mine, theirs) < 1e-7


def test_a_row_of_zeros_stays_zero_and_finite(generator):
    weight = torch.zeros(3, 4)
    moments = torch.zeros(3, 4), torch.zeros(3, 4)
    project_adam_renorm_(weight, torch.zeros(3, 4), *moments, LR, torch.tensor(1.0))
    assert not weight.any()


@pytest.mark.parametrize("unit_rows", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_row_optimizer_equals_its_float64_twin(unit_rows, dtype, generator):
    weight = F.normalize(draw(generator, 17, 13), dim=1)
    grad, first = draw(generator, 17, 13), draw(generator, 17, 13)
    second = draw(generator, 17, 13).square() + 0.1
    truth = project_adam_renorm_reference(
        weight, grad, first, second, float(LR), 3, unit_rows=unit_rows
    )
    found = [t.to(dtype, copy=True) for t in (weight, first, second)]
    copy = torch.empty(17, 13, dtype=torch.float16)
    project_adam_renorm_(
        found[0], grad.to(dtype), *found[1:], LR, STEP, unit_rows=unit_rows, copy=copy
    )
    for mine, theirs in zip(found, truth, strict=True):
        assert relative_error(mine, theirs) < 1e-6
    assert (copy == found[0].half()).all()


@pytest.mark.parametrize("update", [eager_update, dense_update])
def test_the_stock_updates_off_the_cpu_ask_for_no_number(update, generator, monkeypatch):
    # torch has the fused Adam for real devices only.
    monkeypatch.setattr(f"{update.__module__}.adam_", lambda *_: None)
    # Tensors of the meta device have no numbers: whatever asks for one fails.
    grad, values, indices, z, state, moments = _case(12, 5, 8, 3, generator)
    b_dec, latents = draw(generator, 2, 5), torch.tensor([1, 6])
    extra = Extra(latents, *(draw(generator, *s) for s in ((2, 5), (2, 5), (2,))))
    order = csc_from_indices(indices, 8)

    def away(tensors):
        return type(tensors)(*(t.to("meta") for t in tensors))

    given = (grad, z, values) if update is eager_update else (grad, z, values, indices)
    given = [t.to("meta") for t in given] + ([away(order)] if update is eager_update else [])
    adam = (LR.to("meta"), STEP.to("meta"), (0.9, 0.99), 1e-8)
    groups = (away(group) for group in (state, *moments))
    assert update(*given, *groups, b_dec.to("meta"), away(extra), adam).shape == (2, 5)


def test_extra_gradients_off_the_cpu_add_the_same(generator):
    grads = Weights(draw(generator, 4, 5), draw(generator, 4, 5), draw(generator, 4))
    latents = torch.tensor([9, 5, 2])
    extra = Extra(latents, *(draw(generator, *s) for s in ((3, 5), (3, 5), (3,))))
    expected = [t.clone() for t in grads]
    for mine, more in zip(expected, extra[1:], strict=True):
        mine[1] += more[1]
    for on_cpu in (True, False):
        found = Weights(*(t.clone() for t in grads))
        add_extra(found, extra, 4, on_cpu=on_cpu)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_two_runs_give_the_same_bits(generator):
    case, b_dec = _case(300, 9, 20, 6, generator), draw(generator, 9)
    first, second = (_run(case, b_dec, torch.float32) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def _given(generator):
    case = _case(8, 5, 6, 2, generator)
    return [*case, draw(generator, 5), LR, STEP]


@pytest.mark.parametrize(
    ("at", "change", "message"),
    [
        (0, lambda t: t[:, :4], r"grad is \[8, 4\], expected \[n = 8, d = 5\]"),
        (2, lambda t: t + 6, r"indices run from 6 to \d+, outside 0\.\.5"),
        (3, lambda t: t.float(), "z is float32 and grad float64"),
        (4, lambda w: w._replace(bias=w.bias[:5]), r"bias is \[5\], expected \[6\]"),
        (4, lambda w: w._replace(encoder=w.encoder.bfloat16()), "keep 16-bit numbers in the"),
        (4, lambda w: w._replace(encoder=w.encoder.T.contiguous().T), "must be contiguous"),
        (6, lambda t: t.expand(4, 5), "6 latents and 8 rows are no stack of 4"),
        (7, lambda t: t[None], r"lr is torch.float32 \[1\]"),
        (8, lambda t: t * 0, "step = 0.0, the first step is 1"),
    ],
)
def test_what_does_not_fit_is_refused(at, change, message, generator):
    given = _given(generator)
    given[at] = change(given[at])
    with pytest.raises(KernelError, match=message):
        fused_bwd_adam(*given)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_registrations_pass_opcheck(backend, generator):
    grad, values, indices, z, state, moments = _case(6, 5, 8, 3, generator)
    order = csc_from_indices(indices, 8)
    lists = [list(state), list(moments[0]), list(moments[1])]
    rest = ([], draw(generator, 1, 5), LR, STEP, [], [0.9, 0.99], 1e-8, backend)
    given = (grad, values, indices, *order, z, *lists, *rest)
    torch.library.opcheck(torch.ops.interp.fused_bwd_adam.default, given)
    weight, first, second = state.decoder, moments[0].decoder, moments[1].decoder
    given = (weight, grad[:1].expand(8, 5).contiguous(), first, second, LR, STEP, None)
    torch.library.opcheck(
        torch.ops.interp.project_adam_renorm_.default, (*given, True, 0.9, 0.99, 1e-8, backend)
    )
