"""Hooks on one site: find the tensor in what a module takes or returns, and put another there."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.errors import PointError
from interp.models.points import Site

Visit = Callable[[Tensor], Tensor | None]


def _signature(cls: type) -> inspect.Signature:
    # The instance's forward may be wrapped (offload hooks); the class's signature is the truth.
    return inspect.signature(cls.forward)


def bound_arguments(module: nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Return the call's arguments by name, from the class's own `forward`."""
    signature = _signature(type(module))
    bound = signature.bind_partial(module, *args, **kwargs).arguments
    bound.pop(next(iter(signature.parameters)), None)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound.update(bound.pop(parameter.name, {}))
    return bound


def _locate(module: nn.Module, site: Site, args: tuple, kwargs: dict) -> tuple[str, Any]:
    """Return ("args", index) or ("kwargs", name) of the site's argument."""
    names = [p for p in _signature(type(module)).parameters if p != "self"]
    name = site.argument or (names[0] if names else "")
    if name in kwargs:
        return "kwargs", name
    index = names.index(name) if name in names else 0
    if index < len(args) and (name in names or not site.argument):
        return "args", index
    raise PointError(f"{site.name}: {site.module or 'root'} was called without {name!r}")


def pick(value: Any, site: Site) -> Tensor | None:
    """Return the site's tensor out of a module's output or argument; None where it is absent."""
    if isinstance(value, Tensor) and site.item is None:
        return value
    if site.item is None and isinstance(value, (tuple, list)) and len(value) == 1:
        return value[0]
    if isinstance(site.item, int) and isinstance(value, (tuple, list)):
        return value[site.item] if site.item < len(value) else None
    if isinstance(site.item, int) and isinstance(value, Tensor) and site.item == 0:
        return value
    name = site.item if isinstance(site.item, str) else "sample"
    if hasattr(value, name) and not isinstance(value, Tensor):
        return getattr(value, name)
    outputs: Any = value
    if isinstance(site.item, int) and hasattr(outputs, "to_tuple"):
        return outputs.to_tuple()[site.item]
    if value is None:
        return None
    raise PointError(f"{site.name}: {type(value).__name__} of {site.module!r} has no {site.item!r}")


def put(value: Any, site: Site, new: Tensor) -> Any:
    """Return `value` with the site's tensor replaced; structure and type are kept."""
    if isinstance(value, Tensor):
        return new
    index = 0 if site.item is None else site.item
    if isinstance(value, (tuple, list)) and isinstance(index, int):
        items = [*value[:index], new, *value[index + 1 :]]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    changed: Any = copy.copy(value)
    name = site.item if isinstance(site.item, str) else "sample"
    if isinstance(site.item, int):
        name = list(changed.keys())[site.item]
    setattr(changed, name, new)
    return changed


def argument(module: nn.Module, site: Site, args: tuple, kwargs: dict) -> Any:
    """Return the site's argument of a call."""
    where, key = _locate(module, site, args, kwargs)
    return (kwargs if where == "kwargs" else args)[key]


def attach(module: nn.Module, site: Site, visit: Visit) -> list[RemovableHandle]:
    """Register `visit` at a site; what it returns (unless None) replaces the host's tensor."""
    if site.port == "input":
        return [module.register_forward_pre_hook(_input_hook(site, visit), with_kwargs=True)]
    if site.port == "delta":
        return _attach_delta(module, site, visit)

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        value = pick(output, site)
        new = None if value is None else visit(value)
        return None if value is None or new is None else put(output, site, _placed(new, value))

    return [module.register_forward_hook(hook, with_kwargs=True)]


def _placed(new: Tensor, host: Tensor) -> Tensor:
    """Return `new` with the host's shape and strides: kernels, and so the last bit, follow them."""
    new = new.reshape(host.shape)
    # Even the stride of an axis of length 1 decides whether a map counts as channels-last.
    return new if new.stride() == host.stride() else torch.empty_like(host).copy_(new)


def _input_hook(site: Site, visit: Visit) -> Callable:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        where, key = _locate(module, site, args, kwargs)
        given = (kwargs if where == "kwargs" else args)[key]
        value = pick(given, site)
        new = None if value is None else visit(value)
        if value is None or new is None:
            return None
        changed = put(given, site, _placed(new, value))
        if where == "kwargs":
            return args, {**kwargs, key: changed}
        return (*args[:key], changed, *args[key + 1 :]), kwargs

    return hook


def _attach_delta(module: nn.Module, site: Site, visit: Visit) -> list[RemovableHandle]:
    before: list[Tensor] = []

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
        # A copy: the block may change its argument in place before it returns.
        before[:] = [argument(module, site, args, kwargs).detach().clone()]

    def leave(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        value, start = pick(output, site), before.pop()
        if value is None:
            return None
        delta = value - start
        new = visit(delta)
        if new is None:
            return None
        new = _placed(new, delta)
        # in + (out - in) rounds: where the edit left the delta alone, the host's own bits stay.
        return put(output, site, _placed(torch.where(new == delta, value, start + new), value))

    return [
        module.register_forward_pre_hook(enter, with_kwargs=True),
        module.register_forward_hook(leave, with_kwargs=True),
    ]
