"""What the modules of a plain run returned, and in what order: the material of prefix reuse."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from interp.errors import InputError, PointError
from interp.models.clock import Interest
from interp.models.copies import Opaque, copied, n_bytes, tensors_in
from interp.models.model import Model
from interp.models.points import Site

Forward = Callable[..., Any]
# (path, the module's own forward, args, kwargs) -> output.
Override = Callable[[str, Forward, tuple, dict[str, Any]], Any]


class Run(NamedTuple):
    """One run of a module within a call.

    Attributes:
        path: of the module; a network beside the root has its name in angle brackets.
        nth: how many runs of this module came before in the call.
        start, stop: places among the call's events.
        seconds: what it took, the runs inside included.
        top: whether no other recorded module was running.
    """

    path: str
    nth: int
    start: int
    stop: int
    seconds: float
    top: bool


@dataclass
class Page:
    """One call of a record.

    Attributes:
        call: its index; the one below the first holds what ran before it, such as text encoders.
        t, log_snr: its noise level.
        whole: whether runs inside the top ones were recorded, and places of points.
        runs: in order of start.
        outputs: by place in `runs`; only what some edit can need.
        events: point -> place at which an edit of it takes effect first.
    """

    call: int
    t: float | None
    log_snr: float | None
    whole: bool
    runs: list[Run] = field(default_factory=list)
    outputs: dict[int, Any] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)

    def within(self, index: int) -> Iterator[int]:
        """Places of the runs inside a run."""
        for i in range(index + 1, len(self.runs)):
            if self.runs[i].start > self.runs[index].stop:
                return
            yield i


@final
class Record:
    """A plain run of one batch, as far as edits can use it again; made by `recording`.

    Attributes:
        model: whose run it was.
        names: the points whose edits it serves.
        batch: what was made; None until the run is over.
        pages: calls by index.
        first: index of the first call.
        seconds: what the whole run took: processor time of the thread on a CPU, which neither
            other processes nor a stopped process count in, and synchronized time on a GPU.
    """

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        self.model, self.names = model, tuple(names)
        self.batch: Any = None
        self.pages: dict[int, Page] = {}
        self.first = 0
        self.seconds = 0.0
        self.weights: tuple = ()

    @property
    def nbytes(self) -> int:
        """Bytes that the kept outputs hold."""
        return sum(
            n_bytes(output) for page in self.pages.values() for output in page.outputs.values()
        )

    def clear(self) -> None:
        """Let go of everything; the record can no longer be replayed."""
        self.batch, self.pages = None, {}

    def first_edit(self, interests: Sequence[Interest]) -> tuple[int, int] | None:
        """Return (call, place) before which no edit changes anything; None: none ever does."""
        edits = [interest for interest in interests if interest.edits]
        for call, page in sorted(self.pages.items()):
            active = [n for one in edits if _has(one.calls, call) for n in one.names]
            sites = self.model.sites
            active = [n for n in active if call == 0 or sites[n].calls != "first"]
            if call >= self.first and active:
                # A place that was not recorded may be any: nothing of this call is used again.
                return call, min(page.events.get(name, -1) for name in active)
        return None


def _has(calls: Container[int] | None, call: int) -> bool:
    return calls is None or call in calls


@contextmanager
def recording(
    model: Model, points: Sequence[str] | None = None, *, calls: Container[int] | None = None
) -> Iterator[Record]:
    """Record the one run of `generate` or `encode` that is made in the context.

    Kept are the outputs of the root at all calls, and at `calls` those of the outermost modules
    that end before one of `points` can be edited: copies, in memory until the record is dropped.
    Modules that write to their arguments, draw from a global generator or set an attribute of
    theirs leave more behind than an output: they are not kept, and always run.

        with recording(model, ["mid_block.resnets.1"], calls=[7]) as record:
            plain = model.generate(batch)
        with replaying(model, record), editing(model, edits, calls=range(7, 10)):
            edited = model.generate(batch)

    Args:
        model: the model, of which nothing is edited meanwhile.
        points: those that will be edited; None is all. The fewer, the smaller the record.
        calls: the first calls of the edits that will come, 0 for an edit of all calls; None is
            all, which keeps blocks of every call.

    Raises:
        PointError: a point does not exist, or the network is compiled.
        InputError: something is edited meanwhile, or there is no run or more than one.
    """
    # Found before the run: finding them is a run of its own.
    every = tuple(model.points)
    names = every if points is None else tuple(dict.fromkeys(points))
    for name in names:
        model.point(name)
    record = Record(model, names)
    recorder = _Recorder(record, calls)
    with ExitStack() as stack:
        stack.enter_context(model.watching())
        stack.enter_context(overriding(modules_around(model, names), recorder.run))
        model.clock.around.append(recorder.recording)
        stack.callback(model.clock.around.remove, recorder.recording)
        yield record
    if record.batch is None:
        raise InputError("nothing was recorded: make one batch in the context")


def modules_around(model: Model, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return, by path, the modules that may end before a point: its own, and all beside its owners.

    Networks beside the root (text encoders) are there as "<name>".
    """
    modules = dict(model.root.named_modules())
    owners = {""}
    for site in (model.sites[name] for name in names):
        for path in (site.module, *site.also):
            parts = path.split(".")
            owners |= {".".join(parts[:i]) for i in range(len(parts))}
    found = {}
    for path, module in modules.items():
        parent = path.rpartition(".")[0]
        # Lists are never called: their members' owner is the module that holds the list.
        while parent and type(modules[parent]) in (nn.ModuleList, nn.ModuleDict):
            parent = parent.rpartition(".")[0]
        if not path or parent in owners:
            found[path] = module
    inside = {id(module) for module in modules.values()}
    for name, module in model.components().items():
        if id(module) not in inside:
            found[f"<{name}>"] = module
    return found


@contextmanager
def overriding(modules: Mapping[str, nn.Module], override: Override) -> Iterator[None]:
    """Put `override` in the place of the modules' `forward`; their hooks fire as before.

    Raises:
        PointError: a module is compiled, and would not notice.
    """
    with ExitStack() as stack:
        for path, module in modules.items():
            if getattr(module, "_compiled_call_impl", None) or hasattr(module, "_orig_mod"):
                raise PointError(f"{path or 'the root'} is compiled: its runs cannot be recorded")
            if isinstance(module, torch.jit.ScriptModule):
                continue
            _override(stack, path, module, override)
        yield


def _override(stack: ExitStack, path: str, module: Any, override: Override) -> None:
    own = module.forward
    # Offloading libraries put a forward of their own on the instance.
    before = module.__dict__.get("forward")

    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return override(path, own, args, kwargs)

    def restore() -> None:
        if before is None:
            del module.forward
        else:
            module.forward = before

    module.forward = forward
    stack.callback(restore)


def weights_state(model: Model) -> tuple:
    """Return what changes when a parameter or buffer is replaced or written to."""
    networks = model.components().values()
    tensors = [t for net in networks for t in (*net.parameters(), *net.buffers())]
    return tuple((t.data_ptr(), _version(t)) for t in tensors)


class _Recorder:
    """The state of a run that is being recorded."""

    def __init__(self, record: Record, calls: Container[int] | None) -> None:
        self.record, self.calls = record, calls
        self.armed = False
        # Runs that are open, and time that recording itself took.
        self.open: list[tuple[Page, int]] = []
        self.lost = 0.0
        self.place = 0
        self.counts = Counter[tuple[int, str]]()
        self.starts, self.stops = _ports(record)
        self.inside = {
            path: tuple(module.modules())
            for path, module in modules_around(record.model, record.names).items()
        }

    @contextmanager
    def recording(self, batch: Any) -> Iterator[None]:
        """Arm for one run."""
        model = self.record.model
        edited = [name for one in model.clock.interests if one.edits for name in one.names]
        if edited or self.record.pages:
            what = f"{edited[0]} is edited" if edited else "a second run"
            raise InputError(f"{what} in recording(): it takes one plain run")
        self.armed, begin = True, self._now()
        try:
            yield
        finally:
            self.armed = False
            self.open.clear()
        self.record.seconds = self._now() - begin - self.lost
        self.record.batch, self.record.weights = batch, weights_state(model)
        _drop_unneeded(self.record)

    def run(self, path: str, own: Forward, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run a module and keep what it returned."""
        if not self.armed:
            return own(*args, **kwargs)
        page = self._page()
        if self.open and not page.whole:
            return own(*args, **kwargs)
        enter = self._now()
        index = self._start(page, path)
        given = [(t, _version(t)) for t in tensors_in((args, kwargs))]
        state = self._state(path)
        self.open.append((page, index))
        begin, lost = self._now(), self.lost
        self.lost += begin - enter
        output = own(*args, **kwargs)
        end = self._now()
        self.open.pop()
        self._stop(page, index, end - begin - (self.lost - lost - (begin - enter)))
        unchanged = self._page() is page and _are_same(state, self._state(path))
        if unchanged and _is_function(given, output):
            try:
                page.outputs[index] = copied(output)
            except Opaque:
                page.outputs.pop(index, None)
        self.lost += self._now() - end
        return output

    def _page(self) -> Page:
        clock, pages = self.record.model.clock, self.record.pages
        if clock.call not in pages:
            self.record.first = clock.first
            whole = clock.call >= clock.first and _has(self.calls, clock.call)
            pages[clock.call] = Page(clock.call, clock.t, clock.log_snr, whole)
        return pages[clock.call]

    def _start(self, page: Page, path: str) -> int:
        nth = self.counts[page.call, path]
        self.counts[page.call, path] += 1
        page.runs.append(Run(path, nth, self.place, self.place, 0.0, not self.open))
        for name in self.starts.get(path, ()):
            page.events.setdefault(name, self.place)
        self.place += 1
        return len(page.runs) - 1

    def _stop(self, page: Page, index: int, seconds: float) -> None:
        run = page.runs[index]._replace(stop=self.place, seconds=seconds)
        page.runs[index] = run
        # Before the module's own end counts: with this run's output, those inside serve no edit
        # but one that comes between them.
        latest = max(page.events.values(), default=-1)
        for i in page.within(index):
            if page.runs[i].stop > latest:
                page.outputs.pop(i, None)
        for name in self.stops.get(run.path, ()):
            page.events.setdefault(name, self.place)
        self.place += 1

    def _state(self, path: str) -> list[Any]:
        """What a run can leave behind beside its output: random states, attributes of modules."""
        attributes = [value for module in self.inside[path] for value in vars(module).values()]
        return [*_random_states(self.record.model.device), *attributes]

    def _now(self) -> float:
        device = self.record.model.device
        if device.type == "cpu":
            return time.thread_time()
        torch.accelerator.synchronize(device)
        return time.perf_counter()


def _ports(record: Record) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Points by the path at whose start, and at whose stop, an edit of them takes effect."""
    model = record.model
    first: dict[int, str] = {}
    for path, module in model.root.named_modules():
        first.setdefault(id(module), path)
    starts: dict[str, list[str]] = {}
    stops: dict[str, list[str]] = {}
    for name in record.names:
        site: Site = model.sites[name]
        for path in (site.module, *site.also):
            known = first[id(model.root.get_submodule(path))]
            (starts if site.port == "input" else stops).setdefault(known, []).append(name)
    return starts, stops


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; 0 where nobody counts."""
    return 0 if tensor.is_inference() else tensor._version


def _is_function(given: list[tuple[Tensor, int]], output: Any) -> bool:
    """Whether a module left its arguments alone and returned none of them."""
    if any(t.is_inference() or t._version != version for t, version in given):
        return False
    storages = {t.untyped_storage().data_ptr() for t, _ in given}
    return all(t.untyped_storage().data_ptr() not in storages for t in tensors_in(output))


def _random_states(device: torch.device) -> list[Any]:
    """States of the global generators that a module may draw from."""
    states: list[Any] = [torch.get_rng_state().numpy().tobytes()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device).numpy().tobytes())
    return states


def _are_same(before: list[Any], after: list[Any]) -> bool:
    """Whether a state is what it was: the same objects, or equal plain values."""
    if len(before) != len(after):
        return False
    plain = (bytes, str, bool, int, float)
    return all(
        x is y or (type(x) is type(y) and type(x) in plain and x == y)
        for x, y in zip(before, after, strict=True)
    )


def _drop_unneeded(record: Record) -> None:
    """Drop outputs that come after every place at which an edit can be the first."""
    last = (-1, -1)
    for call, page in record.pages.items():
        if page.whole and page.events:
            last = max(last, (call, max(page.events.values())))
    for call, page in record.pages.items():
        for i in list(page.outputs):
            if (call, page.runs[i].stop) > last:
                del page.outputs[i]
