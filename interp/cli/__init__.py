"""The `interp` command: each sub-command is a frozen dataclass that calls the public API."""

from interp.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
