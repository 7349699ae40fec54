"""Putting the files of one shard in place so that a killed process leaves a valid store.

The protocol is in `format.md`, "Writing".
"""

import errno
import fcntl
import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

from interp.errors import StoreError
from interp.store.files import (
    FileEntry,
    disk_full,
    inside,
    read_text,
    shard_stem,
    sync,
    sync_all,
    write_all,
    write_atomic,
    write_file,
)
from interp.store.manifest import Manifest, ShardEntry

# A file system without locks: writers of the same shard then write the same bytes over each other.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_COPY_BYTES = 4 << 20
# The folder asked for is a file or lies in one, or may not be written.
_FORBIDDEN = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS)


def start_store(path: Path, manifest: Manifest) -> None:
    """Create the folders and `manifest.json`, or check that the ones that exist are of this recipe.

    Any number of processes may do this at once: all write the same bytes.

    Raises:
        StoreError: the folder holds something else, or the disk is full.
    """
    file = path / "manifest.json"
    if file.exists():
        found = Manifest.decode(read_text(file), str(file))
        if found.hash != manifest.hash:
            raise StoreError(
                f"{path} holds another store (hash {found.hash[:12]}, not {manifest.hash[:12]})"
            )
        return
    ours = {"tmp", "manifest.json"}
    if path.exists() and any(child.name not in ours for child in path.iterdir()):
        raise StoreError(f"{path} exists and is not an activation store; choose another folder")
    temporary = path / "tmp" / f"manifest-{os.getpid()}.json"
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, manifest.encode(), temporary)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise explain(error, path, "the manifest") from error


def finished_shards(path: Path, manifest: Manifest) -> list[int]:
    """Return the shards whose manifest entry exists."""
    names = {file.name for file in (path / "shards").glob("*.json")}
    return [n for n in range(manifest.n_shards) if f"{shard_stem(n)}.json" in names]


def clean_store(path: Path, manifest: Manifest) -> None:
    """Remove locks and leftovers of killed processes, once every shard is finished."""
    if len(finished_shards(path, manifest)) == manifest.n_shards:
        shutil.rmtree(path / "tmp", ignore_errors=True)


def explain(error: OSError, path: Path, what: str) -> Exception:
    """Return the error to raise: a `StoreError` where the disk is full or the folder forbidden."""
    if error.errno in _FORBIDDEN:
        return StoreError(
            f"{what} of {path} cannot be written: {error.strerror}; choose a folder that is one, "
            "and in which you may write"
        )
    if not disk_full(error):
        return error
    return StoreError(
        f"the disk is full ({error.strerror}) while writing {what} of {path}; "
        "finished shards are valid: free some space and run the same command to continue"
    )


class Staging:
    """The temporary folder of one shard, locked, and the names that its files will get."""

    def __init__(self, path: Path, shard: int) -> None:
        self.path = path
        self.shard = shard
        self.folder = path / "tmp" / shard_stem(shard)
        self._moves: dict[str, str] = {}
        self._lock = _lock(path / "tmp", shard)
        # What a killed process left behind; the lock says that it is gone.
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def place(self, temporary: str, relative: str) -> None:
        """Say where a file of the folder goes."""
        self._moves[temporary] = relative

    def write(self, relative: str, data: bytes) -> FileEntry:
        """Write one small file."""
        temporary = relative.replace("/", "-")
        self.place(temporary, relative)
        return write_file(self.folder / temporary, data)

    def copy(self, source: Path, relative: str, skip: int = 0) -> FileEntry:
        """Copy one file; the digest is that of the bytes after the first `skip`."""
        temporary = relative.replace("/", "-")
        self.place(temporary, relative)
        digest, size = hashlib.sha256(), 0
        with source.open("rb") as reading, (self.folder / temporary).open("xb") as writing:
            head = reading.read(skip)
            write_all(writing.fileno(), head)
            while piece := reading.read(_COPY_BYTES):
                write_all(writing.fileno(), piece)
                digest.update(piece)
                size += len(piece)
        return FileEntry(len(head) + size, digest.hexdigest())

    def publish(self, entry: ShardEntry) -> None:
        """Make all files durable, rename them and make that durable; then the manifest entry."""
        sync_all(self.folder / temporary for temporary in self._moves)
        folders = sorted({str(Path(relative).parent) for relative in self._moves.values()})
        for folder in [*folders, "shards"]:
            inside(self.path, folder).mkdir(parents=True, exist_ok=True)
        for temporary, relative in self._moves.items():
            (self.folder / temporary).replace(inside(self.path, relative))
        parents = {str(Path(folder).parent) for folder in folders}
        sync_all(self.path / folder for folder in sorted({*folders, *parents, "."}))
        target = inside(self.path, f"shards/{shard_stem(self.shard)}.json")
        write_atomic(target, entry.encode(), self.folder / "entry")

    def close(self) -> None:
        """Remove the folder and release the lock; harmless when repeated."""
        if self._lock < 0:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        # The lock file stays: removing it would let two later writers lock different inodes.
        os.close(self._lock)
        self._lock = -1


def _lock(folder: Path, shard: int) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{shard_stem(shard)}.lock"
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise StoreError(
            f"shard {shard} of {folder.parent} is being written by another process; give each "
            "process its own shards (rank=, world= or shards=)"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(fd)
            raise
    return fd
