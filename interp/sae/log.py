"""The run's log: one JSON object per line, whole lines only."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interp.errors import SAEError
from interp.sae.atomic import write_atomic

LOG = "log.jsonl"
# What must be finite in a line.
LOSSES = ("fvu", "aux", "penalty")


class Log:
    """Appends to `log.jsonl`; lines after the resumed step are dropped and made again.

    Attributes:
        followers: trackers, called with each line once it is written (`interp.sae.trackers`).
    """

    followers: tuple[Callable[[str, Mapping[str, Any]], None], ...] = ()

    def __init__(self, directory: Path, step: int) -> None:
        self.path = directory / LOG
        kept = [line for line in read_log(directory) if line["step"] <= step] if step else []
        write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, line: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            SAEError: the losses are not finite; the disk is full or not writable.
        """
        wrong = {name: line[name] for name in LOSSES if not math.isfinite(line.get(name, 0.0))}
        if wrong:
            found = ", ".join(f"{name} = {value}" for name, value in wrong.items())
            raise SAEError(
                f"step {line['step']}: {found}: the training has diverged at lr = {line.get('lr')};"
                " train again with a lower lr and resume=False (--fresh)"
            )
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise SAEError(f"cannot write {self.path}: {error}") from error
        for follower in self.followers:
            follower("line", line)


def read_log(directory: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's log; a last line that a crash cut short is left out."""
    path = directory / LOG
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
