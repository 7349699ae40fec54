"""The backward ops inside larger graphs: compiled whole, checked by gradcheck, counted in FLOPs."""

import pytest
import torch
from interp_kernels import (
    auxk,
    csc_from_indices,
    sparse_decode,
    sparse_decode_bwd,
    sparse_encode_bwd,
)
from torch.utils.flop_counter import FlopCounterMode

from tests.kernels.backward_cases import code, draw

N, D, M, K = 12, 5, 9, 3


def _inputs(generator):
    values, indices = code(N, M, K, generator)
    order = csc_from_indices(indices, M)
    grad, weight, x = (draw(generator, *s) for s in ((N, D), (M, D), (N, D)))
    return grad, values, indices, weight, x, order


def test_the_ops_compile_into_one_graph_with_the_same_numbers(generator):
    grad, values, indices, weight, x, order = _inputs(generator)
    dead = torch.arange(M) % 2 == 0

    def whole(grad, values, indices, weight, x):
        dvalues, d_dec = sparse_decode_bwd(grad, values, indices, weight, order, backend="eager")
        d_enc, bias = sparse_encode_bwd(dvalues, values, indices, x, M, order, backend="eager")
        found = auxk(x, grad, d_enc, bias, weight, dead, 2, capacity=6, backend="dense")
        return d_dec, d_enc, bias, found.loss

    given = (grad, values, indices, weight, x)
    compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")
    for mine, theirs in zip(compiled(*given), whole(*given), strict=True):
        assert (mine == theirs).all()


@pytest.mark.parametrize("backend", ["eager", "dense"])
def test_gradcheck_passes_through_the_ops(backend, generator):
    _, values, indices, weight, _, order = _inputs(generator)

    class Decode(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values, weight):
            ctx.save_for_backward(values, weight)
            return sparse_decode(values, indices, weight)

        @staticmethod
        def backward(ctx, grad):  # type: ignore[override]
            values, weight = ctx.saved_tensors
            return sparse_decode_bwd(grad, values, indices, weight, order, backend=backend)

    parameters = (values.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(Decode.apply, parameters)


def test_the_work_counted_is_that_of_the_active_slots(generator):
    grad, values, indices, weight, x, _ = _inputs(generator)
    with FlopCounterMode(display=False) as counter:
        sparse_decode_bwd(grad, values, indices, weight, backend="eager")
    assert counter.get_total_flops() == 4 * N * K * D
    with FlopCounterMode(display=False) as counter:
        sparse_encode_bwd(values, values, indices, x, M, backend="eager")
    assert counter.get_total_flops() == 2 * N * K * D
