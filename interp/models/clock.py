"""Which call of the network is running: the key of every row, kept by pre-hooks on the root."""

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from interp.errors import PointError
from interp.models.ports import bound_arguments


class Facts(NamedTuple):
    """What one call's arguments say.

    Attributes:
        batch: size of the root's batch, guidance halves included.
        t: the scheduler's timestep as the root receives it; None where there is none.
        frame: height and width of the root's input; None where it is not an image.
    """

    batch: int
    t: float | None = None
    frame: tuple[int, int] | None = None


class Interest(NamedTuple):
    """Who reads or edits: names of points, at which calls (None is all), and whether it edits."""

    names: tuple[str, ...]
    calls: Container[int] | None
    edits: bool


class Clock:
    """Counts the calls of a network while somebody reads or edits.

    A call begins when a clock module runs that has already run in the present call: the denoiser
    has one clock module (its root), an autoencoder two (encoder and decoder).

    Attributes:
        call: index of the present call in this generation, from 0; -1 before the first.
        t, log_snr: noise level of the present call, None where there is none.
        batch: size of the root's batch in the present call.
        known: number of samples that are being made; None where the user runs the host.
        frame: height and width of the root's input.
        interests: who reads or edits now.
        around: contexts that every run is made in; each is a function of the batch.
    """

    def __init__(self) -> None:
        self.watchers = 0
        self.interests: list[Interest] = []
        self.around: list[Callable[[Any], AbstractContextManager[Any]]] = []
        self.begin(None)

    def begin(self, known: int | None, first: int = 0) -> None:
        """Start a generation of `known` samples whose first call has the index `first`."""
        self.known, self.call, self.first = known, first - 1, first
        self.batch = 0
        self.t: float | None = None
        self.log_snr: float | None = None
        self.frame: tuple[int, int] | None = None
        self._ran: set[str] = set()

    @contextmanager
    def making(self, batch: Any, known: int, first: int = 0) -> Iterator[None]:
        """Count from `first` for `known` samples; afterwards the number of samples is as before."""
        before = self.known
        self.begin(known, first)
        try:
            with ExitStack() as stack:
                for around in self.around:
                    stack.enter_context(around(batch))
                yield
        finally:
            self.known = before

    @contextmanager
    def concerning(
        self, names: Iterable[str], calls: Container[int] | None, *, edits: bool
    ) -> Iterator[None]:
        """Say for the length of the context who reads or edits, so that nobody skips its points."""
        interest = Interest(tuple(names), calls, edits)
        self.interests.append(interest)
        try:
            yield
        finally:
            self.interests = [other for other in self.interests if other is not interest]

    def tick(self, name: str, facts: Facts, log_snr: float | None) -> None:
        """Note that the clock module `name` is about to run."""
        if not self._ran or name in self._ran:
            self.call += 1
            self._ran = set()
        self._ran.add(name)
        self.batch, self.t, self.frame = facts.batch, facts.t, facts.frame
        self.log_snr = log_snr

    @property
    def factor(self) -> int:
        """How many times the root's batch exceeds the known one (2 under guidance)."""
        if not self.known or not self.batch:
            return 1
        if self.batch % self.known:
            raise PointError(
                f"the root runs a batch of {self.batch} for {self.known} samples; slicing and "
                "tiling split batches: turn them off"
            )
        return self.batch // self.known

    @contextmanager
    def watch(
        self,
        modules: dict[str, nn.Module],
        facts: Callable[[str, dict[str, Any]], Facts],
        log_snr: Callable[[float | None], float | None],
    ) -> Iterator[None]:
        """Keep the clock's hooks for the length of the context; nested contexts share them."""
        handles = []
        self.watchers += 1
        try:
            for name, module in modules.items() if self.watchers == 1 else ():

                def hook(module: nn.Module, args: tuple, kwargs: dict, name: str = name) -> None:
                    found = facts(name, bound_arguments(module, args, kwargs))
                    self.tick(name, found, log_snr(found.t))

                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            yield
        finally:
            self.watchers -= 1
            if not self.watchers:
                self.begin(None)
            for handle in handles:
                handle.remove()


def timestep_of(value: Any) -> float | None:
    """Return a timestep argument as a number: None, a number, or a tensor of equal numbers.

    Raises:
        PointError: the samples of one batch are at different timesteps.
    """
    if value is None:
        return None
    if not isinstance(value, Tensor):
        return float(value)
    if hasattr(value, "fake_mode"):
        return None
    flat = value.detach().reshape(-1)
    if not bool(torch.all(flat == flat[0])):
        raise PointError(f"one call at several timesteps: {flat.unique().tolist()[:4]}")
    return float(flat[0])
