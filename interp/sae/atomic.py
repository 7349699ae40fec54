"""Files that are either whole or absent."""

import os
from pathlib import Path

from interp.errors import SAEError


def write_atomic(path: Path, payload: bytes) -> None:
    """Write beside the target, flush, rename: a crash leaves the old file or the new one.

    Raises:
        SAEError: the disk is full or not writable; the old file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SAEError(f"cannot write {path} ({len(payload)} bytes): {error}") from error
