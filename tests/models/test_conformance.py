"""Every family keeps the same promises, on tiny random networks of the real classes."""

from collections import Counter, defaultdict
from typing import Any

import pytest
import torch
from cases import CASES, Case, mode_of, names_of, run
from torch import Tensor, nn

from interp.errors import PointError
from interp.models import FAMILIES, HookPoint, Model, editing, from_rows, probe, reading, to_rows

# Their pipelines take seconds.
SLOW = ("animate", "bridge", "video")


@pytest.fixture(
    params=[pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CASES],
    scope="module",
)
def case(request: pytest.FixtureRequest) -> Case:
    case = CASES[request.param]
    _ = case.build().points
    return case


@pytest.fixture
def model(case: Case) -> Model:
    return case.build()


def test_every_family_has_a_case() -> None:
    assert {case.family for case in CASES.values()} == set(FAMILIES)


def test_the_case_is_of_its_family(case: Case, model: Model) -> None:
    assert type(model) is FAMILIES[case.family]


def test_points_are_ordered_by_depth_and_survive_json(model: Model) -> None:
    points = list(model.points.values())
    assert [p.depth for p in points] == sorted(p.depth for p in points)
    assert all(0 <= p.depth <= 1 for p in points)
    assert all(HookPoint.from_dict(p.as_dict()) == p for p in points)


class Manual:
    """Plain hooks on modules: what went in and out, by path, in order."""

    def __init__(self, root: nn.Module, paths: set[str]) -> None:
        self.inputs: dict[str, list] = defaultdict(list)
        self.outputs: dict[str, list] = defaultdict(list)
        self.handles = []
        for path in paths:
            module = root.get_submodule(path)

            def before(m: nn.Module, args: tuple, kwargs: dict, path: str = path) -> None:
                self.inputs[path].append((args, dict(kwargs)))

            def after(m: nn.Module, args: tuple, out: Any, path: str = path) -> None:
                self.outputs[path].append(out)

            self.handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            self.handles.append(module.register_forward_hook(after))

    def value(self, model: Model, name: str, k: int) -> Tensor:
        """The k-th value of a point, found independently of the library's ports."""
        site = model.sites[name]

        def given() -> Any:
            args, kwargs = self.inputs[site.module][k]
            if site.argument in kwargs:
                return kwargs[site.argument]
            if site.argument in ("w", "res_hidden_states_tuple"):
                return args[1]
            return args[0] if args else next(iter(kwargs.values()))

        if site.port == "input":
            value = given()
            return value if site.item is None else value[site.item]
        out = self.outputs[site.module][k]
        if not isinstance(out, Tensor):
            out = out[site.item or 0]
        return out - given() if site.port == "delta" else out

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def test_reading_every_point_equals_plain_hooks_bit_for_bit(case: Case, model: Model) -> None:
    names = names_of(model)
    manual = Manual(model.root, {site.module for site in model.sites.values()})
    try:
        with reading(model, names) as reader:
            run(case, model)
    finally:
        manual.remove()
    seen: Counter[str] = Counter()
    for read in reader.calls:
        expected = manual.value(model, read.point, seen[read.point])
        value = read.value
        if model.conditional_first and read.factor == 2:
            value = torch.cat(value.chunk(2)[::-1])
        assert torch.equal(value.reshape(expected.shape), expected), read.point
        seen[read.point] += 1
    assert set(seen) == set(names)


def test_widths_grids_and_layouts_are_true(case: Case, model: Model) -> None:
    with reading(model, names_of(model)) as reader:
        run(case, model)
    for read in reader.calls:
        point = model.points[read.point]
        rows = to_rows(read.value, point)
        assert rows.shape[0] == 2 * read.factor or mode_of(model) == "reference"
        assert rows.shape[2] == point.width
        assert rows.shape[1] == torch.Size(read.grid).numel(), read.point
        assert len(read.grid) == len(point.grid)
        assert torch.equal(from_rows(rows, point, read.value), read.value)


def test_the_identity_edit_leaves_the_output_bit_equal(case: Case, model: Model) -> None:
    before = run(case, model)
    with editing(model, {name: lambda rows, call: rows for name in names_of(model)}):
        after = run(case, model)
    assert len(before) == len(after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.slow
def test_an_edit_of_any_block_reaches_the_output(case: Case, model: Model) -> None:
    # One forward pass where that is enough.
    mode = "encode" if "encode" in model.capabilities else "reference"
    before = run(case, model, mode)
    for name in model.points_in(mode) if mode == "encode" else model.points:
        point = model.points[name]
        if point.kind != "resid" or (point.stream == "text" and model.family != "bridge"):
            continue
        with editing(model, {name: lambda rows, call: rows.flip(2) + 1}):
            after = run(case, model, mode)
        assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), name


@pytest.mark.slow
def test_shapes_alone_find_the_same_points(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FAKE_ABOVE", 0)
    _, points = probe.discover(model)
    assert points == model.points


def test_no_hook_is_left_behind_even_after_an_exception(case: Case, model: Model) -> None:
    def boom(read: Any) -> None:
        raise RuntimeError("stop")

    def hooks() -> list[int]:
        # Bridges have hooks of their own.
        modules = [m for _, m in model.root.named_modules()]
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]

    names, before = names_of(model), hooks()
    with pytest.raises(RuntimeError, match="stop"), reading(model, names, callback=boom):
        run(case, model)
    with editing(model, {names[0]: lambda rows, call: rows}), reading(model, names):
        run(case, model)
    assert hooks() == before
    assert model.clock.watchers == 0


def test_an_unknown_point_names_the_closest(model: Model) -> None:
    name = next(reversed(model.points))
    with pytest.raises(PointError, match=f"closest: .*{name}"), reading(model, [name + "x"]):
        pass
    with pytest.raises(PointError, match="closest"), editing(model, {name + "x": lambda r, c: r}):
        pass


def test_a_point_that_never_fires_is_an_error(model: Model) -> None:
    name = next(iter(model.points))
    with pytest.raises(PointError, match="never fired"), reading(model, [name]):
        pass
    with pytest.raises(PointError, match="no edit took place"):  # noqa: SIM117
        with editing(model, {name: lambda rows, call: rows}):
            pass


def test_running_leaves_the_global_random_state_alone(case: Case, model: Model) -> None:
    before = torch.get_rng_state()
    run(case, model)
    assert torch.equal(before, torch.get_rng_state())


def test_the_identity_of_a_model_is_plain_and_stable(model: Model) -> None:
    identity = model.identity()
    assert identity == model.identity()
    assert len(identity["weights_sha256"]) == 64
    assert identity["class"] == type(model.root).__name__
