"""Everything a run needs to go on as if it had not stopped: one file, whole or absent."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import SAEError
from interp.sae.atomic import write_atomic
from interp.sae.sharded_checkpoint import load_shards, newest_shards, remove_shards, step_of

CHECKPOINT = "checkpoint.pt"
_VERSION = 1


def save_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint atomically.

    Args:
        directory: the run's.
        state: tensors and plain values in dicts and lists.
    """
    buffer = io.BytesIO()
    torch.save({"version": _VERSION, **state}, buffer)
    write_atomic(directory / CHECKPOINT, buffer.getvalue())
    remove_shards(directory)


def load_checkpoint(directory: Path) -> dict[str, Any] | None:
    """Read the run's newest checkpoint; None where there is none.

    One of several ranks (`interp.sae.sharded_checkpoint`) is read whole; a file is read with
    torch's tensors-only unpickler.

    Raises:
        SAEError: the checkpoint is damaged or of another version.
    """
    path, folder = directory / CHECKPOINT, newest_shards(directory)
    state = _read(path) if path.exists() else None
    if folder is None or (state is not None and state["step"] >= step_of(folder)):
        return state
    state = load_shards(folder)
    return {**state, "optimizer": list(state["optimizer"].values())}


def remove_checkpoints(directory: Path) -> None:
    """Remove the run's checkpoints, of one process and of several."""
    (directory / CHECKPOINT).unlink(missing_ok=True)
    remove_shards(directory)


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch reports damage as RuntimeError, UnpicklingError, EOFError, KeyError ... by place.
        raise SAEError(f"{path} is damaged ({error}); delete it to start the run again") from error
    if not isinstance(state, dict) or state.get("version") != _VERSION:
        raise SAEError(f"{path} is of another version; delete it to start the run again")
    return state


def optimizer_state(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    """Moments and step counts, one dict per parameter."""
    return [dict(optimizer.state[p]) for group in optimizer.param_groups for p in group["params"]]


def restore_optimizer(optimizer: torch.optim.Optimizer, state: list[dict[str, Tensor]]) -> None:
    """Put `optimizer_state` back."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter, values in zip(parameters, state, strict=True):
        optimizer.state[parameter] = {
            name: value.to(parameter.device, copy=True) for name, value in values.items()
        }
