"""The tracked tree is small, and names no machine."""

import re
from pathlib import Path

import pytest

MIB = 1024**2

# A folder of somebody's machine, at the start of a path. Tests may speak of such folders.
MACHINE = re.compile(r"(?<![\w./~$}-])/(?:work|root|tmp|mnt|home/\w+|Users/\w+)(?=[/\s\"'`)]|$)")
# Where packages come from is the machine's business: an address of a registry or of a mirror.
REGISTRY = re.compile(
    r"https?://[^\s/\"']*(?:pypi|pythonhosted|npmjs|yarnpkg|deb\.|crates|artifact|nexus|mirror)"
    r"|--(?:extra-)?index-url|--find-links"
)


def _text(path: Path) -> str | None:
    """The file's text, or None where it is not text."""
    data = path.read_bytes()
    if b"\0" in data[:8192]:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


@pytest.fixture(scope="module")
def texts(root: Path, tracked: list[Path]) -> dict[str, str]:
    read = {path.as_posix(): _text(root / path) for path in tracked}
    return {name: text for name, text in read.items() if text is not None}


def test_no_file_is_larger_than_6_mib(root: Path, tracked: list[Path]) -> None:
    sizes = {path.as_posix(): (root / path).stat().st_size for path in tracked}
    assert not {name: size for name, size in sizes.items() if size > 6 * MIB}


def test_the_tree_is_smaller_than_60_mib(root: Path, tracked: list[Path]) -> None:
    assert sum((root / path).stat().st_size for path in tracked) < 60 * MIB


def _found(texts: dict[str, str], pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts.items()
        if not name.startswith("tests/")
        for number, line in enumerate(text.splitlines(), 1)
        # Longer lines are data or minified code.
        if len(line) < 2000 and pattern.search(line)
    ]


def test_no_source_names_a_folder_of_a_machine(texts: dict[str, str]) -> None:
    assert not _found(texts, MACHINE)


def test_no_file_names_a_registry(texts: dict[str, str]) -> None:
    assert not _found(texts, REGISTRY)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".whl", ".pyc"])
def test_no_pickles_and_no_builds_are_tracked(tracked: list[Path], ending: str) -> None:
    assert not [path for path in tracked if path.suffix == ending]


@pytest.mark.parametrize("line", ["open('/tmp/x')", "cd /root", "out = /home/someone/data"])
def test_a_machines_folder_is_seen(line: str) -> None:
    assert MACHINE.search(line)


@pytest.mark.parametrize(
    "line",
    ["/".join(("a", "work", "b")), "frame/root", "https://x.org/" + "work/1", "and/or", "/rooted"],
)
def test_other_slashes_are_not_taken_for_one(line: str) -> None:
    assert not MACHINE.search(line)
