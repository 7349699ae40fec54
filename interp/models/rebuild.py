"""The untrained twin of a network: the same architecture with fresh weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from interp.errors import InputError


def rebuild(network: nn.Module, seed: int) -> nn.Module:
    """Return the same architecture with fresh weights, a function of `seed` alone.

    From the config where there is one (diffusers, transformers), else a copy in which every
    module with `reset_parameters` is reset. The caller's random state stays as it was.

    Raises:
        InputError: a module has parameters but neither config nor `reset_parameters`.
    """
    with fresh_state(seed):
        config: Any = getattr(network, "config", None)
        cls: Any = type(network)
        if hasattr(cls, "from_config") and config is not None and hasattr(config, "items"):
            fresh = cls.from_config(config)
        elif config is not None and hasattr(config, "to_diff_dict"):
            fresh = cls(config)
        else:
            fresh = _reset(network)
    return fresh.to(next(network.parameters()).dtype).eval()


@contextmanager
def fresh_state(seed: int) -> Iterator[None]:
    """Seed the CPU's global random state for the length of the context; then it is as before."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which also seeds every accelerator.
        torch.default_generator.manual_seed(seed)
        yield


def _reset(network: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(network)
    for path, module in fresh.named_modules():
        reset: Any = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
        elif next(module.parameters(recurse=False), None) is not None:
            raise InputError(
                f"{path or 'the root'} ({type(module).__name__}) has parameters but no "
                "reset_parameters(): define it, or build the untrained network yourself"
            )
    return fresh
