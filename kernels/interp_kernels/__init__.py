"""Kernels of sparse autoencoders: pure functions that import torch and triton only."""

from interp_kernels.csc import CSC, csc_from_indices, scatter_rows, scatter_rows_reference
from interp_kernels.encode_topk import encode_topk, encode_topk_reference, select_topk
from interp_kernels.sparse_decode import sparse_decode, sparse_decode_reference

__all__ = [
    "CSC",
    "csc_from_indices",
    "encode_topk",
    "encode_topk_reference",
    "scatter_rows",
    "scatter_rows_reference",
    "select_topk",
    "sparse_decode",
    "sparse_decode_reference",
]
