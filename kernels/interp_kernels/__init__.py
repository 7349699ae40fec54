"""Kernels of sparse autoencoders: pure functions that import torch and triton only."""

from interp_kernels._backend import (
    AotCase,
    Backend,
    KernelError,
    checking_values,
    resolve,
    using_backend,
)
from interp_kernels.auxk import AuxK, auxk, auxk_reference
from interp_kernels.batch_topk import batch_topk, batch_topk_reference
from interp_kernels.csc import (
    CSC,
    CSR,
    csc_from_indices,
    csc_from_topk,
    csc_from_topk_reference,
    scatter_rows,
    scatter_rows_reference,
)
from interp_kernels.dead_update import dead_update_, dead_update_reference
from interp_kernels.decode_loss import decode_loss, decode_loss_reference
from interp_kernels.encode_threshold import encode_threshold, encode_threshold_reference
from interp_kernels.encode_topk import (
    encode_topk,
    encode_topk_reference,
    select_topk,
    select_topk_reference,
)
from interp_kernels.fused_bwd_adam import Extra, Weights, fused_bwd_adam, fused_bwd_adam_reference
from interp_kernels.knn_topk import knn_topk, knn_topk_reference
from interp_kernels.project_adam_renorm import project_adam_renorm_, project_adam_renorm_reference
from interp_kernels.sparse_decode import sparse_decode, sparse_decode_reference
from interp_kernels.sparse_decode_bwd import sparse_decode_bwd, sparse_decode_bwd_reference
from interp_kernels.sparse_encode_bwd import sparse_encode_bwd, sparse_encode_bwd_reference

__all__ = [
    "CSC",
    "CSR",
    "AotCase",
    "AuxK",
    "Backend",
    "Extra",
    "KernelError",
    "Weights",
    "auxk",
    "auxk_reference",
    "batch_topk",
    "batch_topk_reference",
    "checking_values",
    "csc_from_indices",
    "csc_from_topk",
    "csc_from_topk_reference",
    "dead_update_",
    "dead_update_reference",
    "decode_loss",
    "decode_loss_reference",
    "encode_threshold",
    "encode_threshold_reference",
    "encode_topk",
    "encode_topk_reference",
    "fused_bwd_adam",
    "fused_bwd_adam_reference",
    "knn_topk",
    "knn_topk_reference",
    "project_adam_renorm_",
    "project_adam_renorm_reference",
    "resolve",
    "scatter_rows",
    "scatter_rows_reference",
    "select_topk",
    "select_topk_reference",
    "sparse_decode",
    "sparse_decode_bwd",
    "sparse_decode_bwd_reference",
    "sparse_decode_reference",
    "sparse_encode_bwd",
    "sparse_encode_bwd_reference",
    "using_backend",
]
