"""From a path or a hub id to a folder on this machine."""

import re
from pathlib import Path

from interp.errors import SAEError

# owner/name and perhaps a folder in it; a path that starts with ., / or ~ is never one.
HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/(.+))?")
# What SAEs are made of; a repository may hold much else.
PATTERNS = ("*.json", "*.safetensors", "*.pt", "*.pth")


def resolve(path: str | Path, revision: str | None, local: str | Path | None) -> Path:
    """Return the file or folder that a path or a hub id names.

    Args:
        path: what exists here, or owner/name[/folder].
        revision: branch, tag or commit on the hub.
        local: a folder in place of the hub.

    Raises:
        SAEError: neither a path that exists nor a hub id that can be reached.
    """
    place = Path(path).expanduser()
    if local is None and place.exists():
        return place
    match = HUB_ID.fullmatch(str(path))
    if match is None or ".." in Path(str(path)).parts:
        raise SAEError(f"there is no file or folder {path}, and it is no hub id (owner/name)")
    repo, folder = match[1], match[2] or ""
    root = Path(local) / repo if local is not None else fetch(repo, folder, revision)
    if not (root / folder).exists():
        raise SAEError(f"there is no {folder or repo} in {root if folder else local}")
    return root / folder


def fetch(repo: str, folder: str = "", revision: str | None = None) -> Path:
    """Download a repository of the hub, or a folder of it, into the hub's cache.

    Raises:
        SAEError: no such repository, no network, or a private one.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    inside = f"{folder}/" if folder else ""
    patterns = [inside + pattern for pattern in PATTERNS]
    # A file may be named itself.
    patterns += [folder] if folder else []
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError, HFValidationError) as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise SAEError(
            f"there is no file or folder {repo} here, and it cannot be fetched from the hub: {why}"
        ) from error
