"""Sparse-autoencoder and neighbor kernels: pure functions on tensors that import torch and triton only."""
