"""What the ops promise about memory, waiting and cost, shown without a GPU.

Fake tensors hold no values: code that looks at one raises, so what passes waits for no device.
"""

import math
import sys

import pytest
import torch
from interp_kernels import decode_loss, encode_topk, sparse_decode
from interp_kernels._fused_topk import fused_keys
from interp_kernels.encode_topk import _encode_chunks, _select_branch_free
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


def _module(name):
    return sys.modules[f"interp_kernels.{name}"]


class Largest(TorchDispatchMode):
    """The most elements that one result of an operation had."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, torch.Tensor):
                # An expanded view holds no memory of its own.
                held = [n for n, step in zip(one.shape, one.stride(), strict=True) if step]
                self.elements = max(self.elements, math.prod(held))
        return out


def _no_kernels(monkeypatch):
    """Host code of the Triton paths without its launches."""
    for name in ("_fused_topk", "batch_topk", "sparse_decode", "decode_loss"):
        monkeypatch.setattr(_module(name), "launch", lambda *_, **__: None)


def test_selection_waits_for_nothing_on_a_gpu():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        with FakeTensorMode():
            values, indices = _select_branch_free(torch.empty(6, 5000, dtype=dtype), 32)
            assert values.shape == indices.shape == (6, 32)


def test_the_triton_paths_wait_for_nothing(monkeypatch):
    _no_kernels(monkeypatch)
    with FakeTensorMode():
        x, weight, bias = torch.empty(300, 8), torch.empty(5000, 8), torch.empty(5000)
        assert fused_keys(x, weight, bias, 32).shape == (300, 32)
        assert _module("batch_topk")._launch(torch.empty(300, 50), 900).shape == (900,)
        code = torch.empty(300, 4), torch.empty(300, 4, dtype=torch.int64)
        assert _module("sparse_decode")._launch(*code, weight, None).shape == (300, 8)
        assert _module("decode_loss")._launch(*code, weight, x[0], x)[0].shape == ()
        ids = torch.empty(300, dtype=torch.int32)
        assert _module("knn_topk")._triton(x, x, ids, ids, 5, "euclidean")[0].shape == (300, 5)


@pytest.mark.parametrize("n", [1000, 4000])
def test_memory_of_the_fused_encoder_does_not_grow_with_rows_times_latents(n, monkeypatch):
    _no_kernels(monkeypatch)
    monkeypatch.setattr(_module("_fused_topk"), "BUDGET", 1 << 16)
    with FakeTensorMode(), Largest() as seen:
        fused_keys(torch.empty(n, 8), torch.empty(5000, 8), torch.empty(5000), 4)
    # 64 scratch rows of 5000; the candidates of 128 rows; n m would be 5 and 20 million.
    assert seen.elements <= 64 * 5000


def test_memory_of_the_eager_encoder_is_that_of_a_chunk(monkeypatch):
    monkeypatch.setattr(_module("encode_topk"), "CHUNK", 1)
    with Largest() as seen:
        _encode_chunks(torch.randn(2000, 4), torch.randn(300, 4), torch.zeros(300), 3)
    assert seen.elements <= 256 * 300


def test_neighbors_never_hold_all_pairs(monkeypatch, generator):
    monkeypatch.setattr(_module("knn_topk"), "ROWS", 64)
    monkeypatch.setattr(_module("knn_topk"), "SLAB", 64 * 50)
    x = torch.randn(600, 4, generator=generator)
    ids = torch.arange(600, dtype=torch.int32)
    with Largest() as seen:
        _module("knn_topk")._eager(x, x, ids, ids, 5, "euclidean")
    assert seen.elements <= 64 * 50


def test_the_flop_counter_counts_active_latents():
    values, indices = torch.ones(7, 3), torch.zeros(7, 3, dtype=torch.int64)
    weight, bias = torch.ones(200, 5), torch.ones(200)
    with FlopCounterMode(display=False) as counter:
        encode_topk(torch.ones(7, 5), weight, bias, 3)
        sparse_decode(values, indices, weight)
        decode_loss(values, indices, weight, torch.ones(5), torch.ones(7, 5))
    assert counter.get_total_flops() == 2 * 7 * 5 * 200 + 2 * (2 * 7 * 3 * 5)
