"""Followers of a training run: wandb, trackio, TensorBoard, or any callable.

A tracker is called as tracker(event, values):

    tracker("start", {"run": name, "folder": path, "config": settings, "step": 0})
    tracker("line", {"step": 50, "fvu": 0.31, ...})     each line of log.jsonl, after it is written
    tracker("finish", {"ok": True})                     also where the run ends by an error

The log stays the truth: it is complete without any tracker, and a tracker that raises stops the
run, which a rerun continues from its checkpoint. A continued run starts its trackers again, with
the step that it continues from. An example:

    def tell(event, values):
        if event == "line":
            print(values["step"], values["fvu"])

    train(store, config, point=point, out="run", trackers=[tell, TensorBoard()])
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, final

from interp.errors import SAEError
from interp.sae.log import Log

__all__ = ["TRACKERS", "TensorBoard", "Tracker", "Trackio", "Wandb", "make_tracker"]

Tracker = Callable[[str, Mapping[str, Any]], None]


@contextmanager
def following(
    log: Log, trackers: Sequence[Tracker], config: Mapping[str, Any], step: int
) -> Iterator[Log]:
    """Let trackers follow a run's log for the length of the context.

    Args:
        log: the run's log.
        trackers: each is called as the module's docstring says.
        config: the settings, JSON values.
        step: what the run continues from, 0 at its beginning.

    Raises:
        SAEError: a tracker is not callable.
    """
    for tracker in trackers:
        if not callable(tracker):
            raise SAEError(f"tracker {tracker!r} cannot be called as tracker(event, values)")
    folder = log.path.parent
    begin = {"run": folder.name, "folder": str(folder), "config": dict(config), "step": step}
    started: list[Tracker] = []
    try:
        for tracker in trackers:
            started.append(tracker)
            tracker("start", begin)
        log.followers = tuple(trackers)
        yield log
    except BaseException as error:
        _finish(started, ok=False, after=error)
        raise
    finally:
        log.followers = ()
    _finish(started, ok=True)


def _finish(trackers: Sequence[Tracker], *, ok: bool, after: BaseException | None = None) -> None:
    """Tell every tracker the end; after a failed run, theirs becomes a note of the run's own."""
    try:
        with ExitStack() as every:
            for tracker in reversed(trackers):
                every.callback(tracker, "finish", {"ok": ok})
    except Exception as late:
        if after is None:
            raise
        after.add_note(f"a tracker failed too, at its end: {late!r}")
        raise after from None


def make_tracker(name: str, *, project: str = "interp") -> Tracker:
    """Return the tracker of a service.

    Args:
        name: a key of `TRACKERS`.
        project: under which the runs stand (TensorBoard has none).

    Returns:
        The tracker.

    Raises:
        SAEError: no such tracker, or its package is not installed.
    """
    if name not in TRACKERS:
        raise SAEError(f"no tracker {name!r}; there are {', '.join(TRACKERS)}")
    return TRACKERS[name](project=project)


def _package(name: str, module: str) -> Any:
    """Import an optional package.

    Raises:
        SAEError: it is not installed; names the command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SAEError(
            f"the tracker {name} needs a package that is not here ({error}): "
            f"python -m pip install 'interp[{name}]'"
        ) from error


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in line.items() if isinstance(value, int | float)}


@final
class Wandb:
    """Weights & Biases; offline unless asked otherwise, in the folder `wandb` of the run.

    Args:
        project: its name there.
        mode: "offline", "online" or "disabled"; `wandb sync FOLDER` uploads offline runs.
    """

    def __init__(self, *, project: str = "interp", mode: str = "offline") -> None:
        self.library = _package("wandb", "wandb")
        self.project, self.mode = project, mode
        self.run: Any = None

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        """Follow one event."""
        if event == "start":
            # A child process would otherwise read the terminal of the training.
            quiet = self.library.Settings(console="off", silent=True)
            self.run = self.library.init(
                project=self.project,
                name=values["run"],
                dir=values["folder"],
                config=dict(values["config"]),
                mode=self.mode,
                settings=quiet,
            )
        elif event == "line":
            self.run.log(_numbers(values), step=values["step"])
        elif self.run is not None:
            self.run.finish(exit_code=0 if values["ok"] else 1)


@final
class Trackio:
    """trackio, which keeps runs in a database of this machine; `trackio show` opens them.

    Args:
        project: its name there.
    """

    def __init__(self, *, project: str = "interp") -> None:
        self.library = _package("trackio", "trackio")
        self.project = project
        self.run: Any = None

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        """Follow one event."""
        if event == "start":
            settings = dict(values["config"])
            self.run = self.library.init(
                project=self.project, name=values["run"], config=settings, resume="allow"
            )
        elif event == "line":
            self.run.log(_numbers(values), step=values["step"])
        elif self.run is not None:
            self.run.finish()


@final
class TensorBoard:
    """Files that TensorBoard reads, in the folder `tensorboard` of the run.

    Args:
        project: unused; TensorBoard has folders only.
    """

    def __init__(self, *, project: str = "interp") -> None:
        self.library = _package("tensorboard", "torch.utils.tensorboard")
        self.writer: Any = None

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        """Follow one event."""
        if event == "start":
            folder = Path(values["folder"]) / "tensorboard"
            # What an interrupted run wrote past its checkpoint is hidden from there on.
            self.writer = self.library.SummaryWriter(folder, purge_step=values["step"] + 1)
            table = "\n".join(f"    {k} = {v}" for k, v in values["config"].items())
            self.writer.add_text("config", table)
        elif event == "line":
            for name, number in _numbers(values).items():
                if name != "step":
                    self.writer.add_scalar(f"train/{name}", number, values["step"])
        elif self.writer is not None:
            self.writer.close()


TRACKERS: dict[str, Callable[..., Tracker]] = {
    "wandb": Wandb,
    "trackio": Trackio,
    "tensorboard": TensorBoard,
}
