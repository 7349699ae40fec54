"""What the documents show is run; what they link to exists; what is public says what it returns.

Fenced blocks of README.md are run by this convention, in a comment on the line before the block:

    <!-- run -->        the block runs, in a folder of its own; `python` blocks share one namespace
    <!-- run: quick --> the same, and is small enough for every test run (< 1 s)

A `python` block without a comment is compiled, and what it imports from `interp` must be public. In
a `bash` block, marked or not, each `interp COMMAND` must be a command that exists.
"""

import ast
import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import interp

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


class Block(NamedTuple):
    """A fenced block: its language, the comment before it, its text and its line."""

    language: str
    mark: str
    text: str
    line: int


FENCE = re.compile(
    r"(?:^<!-- *(?P<mark>run[^>]*?) *-->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def _blocks(text: str) -> list[Block]:
    return [
        Block(m["language"], m["mark"] or "", m["text"], text.count("\n", 0, m.start()) + 1)
        for m in FENCE.finditer(text)
    ]


BLOCKS = _blocks(README.read_text()) if README.exists() else []
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language in ("bash", "sh", "console")]
FUNCTIONS = [name for name in interp.__all__ if name[0].islower()]


def _run(command: list[str], folder: Path) -> None:
    bin_folder = str(Path(sys.executable).parent)
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_the_marked_python_blocks_of_the_readme_run_in_order(tmp_path: Path) -> None:
    code = "\n".join(block.text for block in PYTHON if block.mark)
    assert code, "README.md shows no Python example that is run: mark one with <!-- run -->"
    _run([sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code], tmp_path)


@pytest.mark.slow
def test_the_marked_shell_blocks_of_the_readme_run(tmp_path: Path) -> None:
    for block in SHELL:
        if block.mark == "run":
            folder = tmp_path / f"line-{block.line}"
            folder.mkdir()
            _run(["bash", "-euo", "pipefail", "-c", block.text], folder)


def test_the_quick_shell_blocks_of_the_readme_run(tmp_path: Path) -> None:
    for block in SHELL:
        if block.mark == "run: quick":
            _run(["bash", "-euo", "pipefail", "-c", block.text], tmp_path)


def test_the_python_blocks_use_public_names_only() -> None:
    nodes = [node for block in PYTHON for node in ast.walk(ast.parse(block.text))]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "interp":
            module = importlib.import_module(node.module or "")
            assert {alias.name for alias in node.names} <= set(module.__all__)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "interp":
            assert hasattr(interp, node.attr), f"interp.{node.attr}"


@pytest.mark.slow
def test_every_command_that_the_readme_names_exists() -> None:
    named = {
        match[1]
        for block in SHELL
        for match in re.finditer(r"(?:^|[\s;&|])interp ([a-z][a-z-]*)", block.text)
    }
    done = subprocess.run(
        [sys.executable, "-m", "interp", "--help"], capture_output=True, text=True, check=True
    )
    assert not {name for name in named if not re.search(rf"\b{name}\b", done.stdout)}


def _documents() -> list[Path]:
    folders = ("interp", "kernels", "benchmarks", "analyses", "tests")
    inner = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.md"))]
    return sorted(ROOT.glob("*.md")) + inner


def _anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    bare = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in bare}


@pytest.mark.parametrize("path", _documents(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)[^)]*\)", text)
    links += re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    broken = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = path if not file else path.parent / file
        known = target.exists() and (
            not anchor or target.suffix != ".md" or anchor in _anchors(target.read_text())
        )
        if not known:
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_says_what_it_takes_returns_and_raises(name: str) -> None:
    function = inspect.unwrap(getattr(interp, name))
    text = inspect.getdoc(function) or ""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function)))
    arguments = [p for p in inspect.signature(function).parameters if p not in ("args", "kwargs")]
    returns = inspect.signature(function).return_annotation
    raises = any(isinstance(node, ast.Raise) for node in ast.walk(tree))
    assert text, f"{name} has no docstring"
    assert not [a for a in arguments if not re.search(rf"\b{a}\b", text)], "arguments not named"
    if returns not in (None, "None"):
        assert re.search(r"\b(returns?|yields?)\b", text, re.IGNORECASE)
    if raises:
        assert re.search(r"\b(raises?|refuses?)\b|Error", text)


@pytest.mark.parametrize("name", [n for n in interp.__all__ if n[0].isupper()])
def test_a_public_class_has_a_docstring_of_its_own(name: str) -> None:
    text = getattr(interp, name).__doc__ or ""
    # A dataclass without one gets its signature.
    assert text
    assert not text.startswith(f"{name}(")


def _with_examples() -> list[str]:
    names = []
    for base, folder in ((ROOT, "interp"), (ROOT / "kernels", "interp_kernels")):
        for path in sorted((base / folder).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            if ">>> " in path.read_text():
                names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def test_the_examples_in_docstrings_are_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for module in _with_examples():
        for test in finder.find(importlib.import_module(module), module):
            runner.run(test)
    assert runner.failures == 0


def test_the_convention_is_read() -> None:
    text = "<!-- run -->\n```python\na = 1\n```\n\n```bash\nls\n```\n"
    text += "<!-- run: quick -->\n```bash\nx\n```\n"
    assert [(b.language, b.mark, b.text) for b in _blocks(text)] == [
        ("python", "run", "a = 1\n"),
        ("bash", "", "ls\n"),
        ("bash", "run: quick", "x\n"),
    ]
