"""Find a model's points by running it once: which sites fire, in what order, with what shapes."""

import dataclasses
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from interp.errors import PointError
from interp.models.clock import Clock
from interp.models.model import Model
from interp.models.points import HookPoint, Site
from interp.models.ports import argument, pick
from interp.models.rows import grid_of, infer_layout

# Above this the reference pass runs on shapes alone: SDXL's real one takes a minute on a laptop.
FAKE_ABOVE = 100_000_000


class Record(NamedTuple):
    """What one site showed: place in the order, shape after unfolding, grid, delta or not."""

    order: int
    layout: str
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    delta: bool


def unfold(value: Tensor, site: Site, clock: Clock) -> Tensor:
    """Undo what the host folded into the batch axis.

    Raises:
        PointError: the leading axis is no multiple of the root's batch.
    """
    n = clock.batch or value.shape[0]
    if site.fold and value.shape[0] % n == 0:
        return value.unflatten(0, (n, -1))
    if value.shape[0] != n:
        raise PointError(
            f"{site.name}: leading axis {value.shape[0]} is not the root's batch {n}; "
            "slicing and tiling split batches: turn them off"
        )
    return value


def discover(model: Model) -> tuple[dict[str, Site], dict[str, HookPoint]]:
    """Return the sites that fire at the reference input, and their points, in order.

    Raises:
        PointError: two sites share a name, or none fires.
    """
    sites = [*model.list_sites(), *(_extra_site(model.root, path) for path in model.extra)]
    names = [site.name for site in sites]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise PointError(f"{model.name}: two sites share a name: {twice[:4]}")
    records = _run(model, sites)
    if not records:
        raise PointError(f"{model.name}: no site fired at the reference input")
    alive: dict[str, Site] = {}
    points: dict[str, HookPoint] = {}
    last = max(record.order for record in records.values()) or 1
    for site in sorted(
        (s for s in sites if s.name in records), key=lambda s: records[s.name].order
    ):
        record = records[site.name]
        _add(alive, points, site, record, record.order / last)
        if site.delta and record.delta:
            changes = {"name": f"{site.name}:delta", "port": "delta", "kind": "delta"}
            delta = dataclasses.replace(site, **changes, delta=False)
            _add(alive, points, delta, record, record.order / last)
    return alive, points


def _add(alive: dict, points: dict, site: Site, record: Record, depth: float) -> None:
    width = record.shape[record.layout.index("c")]
    alive[site.name] = dataclasses.replace(site, layout=record.layout)
    points[site.name] = HookPoint(
        name=site.name,
        module=site.module,
        stream=site.stream,
        kind=site.kind,
        width=width,
        grid=record.grid,
        layout=record.layout,
        depth=round(depth, 6),
    )


def _extra_site(root: nn.Module, path: str) -> Site:
    if path not in dict(root.named_modules()):
        raise PointError(f"extra point {path!r} is not a module of {type(root).__name__}")
    return Site(path, path, kind="contrib")


def _run(model: Model, sites: list[Site]) -> dict[str, Record]:
    records: dict[str, Record] = {}
    n_parameters = sum(p.numel() for p in model.root.parameters())
    with ExitStack() as stack:
        model.refuse_compiled()
        clock = model.clock
        clock.begin(1)
        # Without noise levels, which need numbers: the pass may run on shapes alone.
        watch = clock.watch(model.clock_modules(), model.facts, lambda t: None)
        stack.enter_context(watch)
        for site in sites:
            module = model.root.get_submodule(site.module)
            for handle in _listen(module, site, clock, records):
                stack.callback(handle.remove)
        stack.enter_context(torch.no_grad())
        # The pass must not touch the caller's random state.
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if n_parameters > FAKE_ABOVE:
            from torch._subclasses.fake_tensor import FakeTensorMode

            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        model.run_reference()
    model.clock.begin(None)
    return records


def _listen(module: nn.Module, site: Site, clock: Clock, records: dict[str, Record]) -> list:
    def note(value: Any, delta: bool) -> None:
        if not isinstance(value, Tensor) or not value.is_floating_point() or site.name in records:
            return
        value = unfold(value, site, clock)
        layout = site.layout or infer_layout(site.name, value.ndim - bool(site.fold), site.fold)
        shape = tuple(value.shape)
        grid = grid_of(shape, layout, square=site.square, frame=clock.frame)
        records[site.name] = Record(len(records), layout, shape, grid, delta)

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        try:
            given = argument(module, site, args, kwargs)
        except PointError:
            # The host left an optional argument out: there is no such site here.
            return
        note(None if given is None else pick(given, site), False)

    def after(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        value = pick(output, site)
        start = argument(module, site, args, kwargs) if site.delta else None
        shape = None if value is None else value.shape
        note(value, isinstance(start, Tensor) and start.shape == shape)

    if site.port == "input":
        return [module.register_forward_pre_hook(before, with_kwargs=True)]
    return [module.register_forward_hook(after, with_kwargs=True)]
