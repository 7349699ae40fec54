"""Ops that only select: thresholds, the largest of a batch, nearest rows; see `benchmarks.ops`."""

from collections.abc import Callable
from typing import Any

import torch
from interp_kernels import (
    batch_topk,
    batch_topk_reference,
    encode_threshold,
    knn_topk,
    knn_topk_reference,
)
from torch import Tensor

# At d = 1280, some fifteen of 65536 pre-activations of the drawn data are above it.
THETA = 0.07
NEIGHBORS = 5
# A pre-activation this close to the threshold, relatively, may fall on either side.
NEAR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def _threshold(c: Any, backend: str | None) -> list[Tensor]:
    code = encode_threshold(c.x, c.encoder, c.bias, THETA, backend=backend)
    rows = torch.arange(len(c.x), device=c.x.device).repeat_interleave(
        code.offsets.diff(), output_size=len(code.values)
    )
    dense = c.x.new_zeros(len(c.x), len(c.encoder))
    dense[rows, code.indices.long()] = code.values.detach()
    return [dense]


def _threshold_reference(c: Any, got: list[Tensor]) -> list[Tensor]:
    pre, near = c.x @ c.encoder.T + c.bias, NEAR[got[0].dtype] * THETA
    found = got[0] != 0
    kept = torch.where((pre - THETA).abs() <= near, found, pre > THETA)
    return [pre * kept]


def _batch(c: Any, backend: str | None) -> list[Tensor]:
    pre = c.x @ c.encoder.T + c.bias
    code, smallest = batch_topk(pre, c.shape.n * c.shape.k, backend=backend)
    return [code.values, smallest, code.offsets, code.indices, pre]


def _batch_reference(c: Any, got: list[Tensor]) -> list[Tensor]:
    code, smallest = batch_topk_reference(got[-1], c.shape.n * c.shape.k)
    return [code.values, smallest, code.offsets, code.indices, got[-1]]


def _neighbors(c: Any, backend: str | None) -> list[Tensor]:
    return [knn_topk(c.x, NEIGHBORS, backend=backend)[0]]


def _neighbors_reference(c: Any, _got: list[Tensor]) -> list[Tensor]:
    return [knn_topk_reference(c.x, NEIGHBORS)[0]]


SELECTING: dict[str, tuple[Callable[..., list[Tensor]], Callable[..., list[Tensor]], str]] = {
    "encode_threshold": (_threshold, _threshold_reference, "code"),
    "batch_topk": (_batch, _batch_reference, "values smallest offsets latents pre"),
    "knn_topk": (_neighbors, _neighbors_reference, "distances"),
}
