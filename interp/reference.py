"""The API reference, written from the docstrings: one page of Markdown per public module.

Usage: python -m interp.reference [--out FOLDER]
"""

import argparse
import ast
import importlib
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Every module whose `__all__` may be used from outside.
MODULES = (
    "interp",
    "interp.studies",
    "interp.alignment",
    "interp.alignment.matching",
    "interp.assets",
    "interp.zoo",
    "interp.geometry",
    "interp.stats",
    "interp.interventions",
    "interp.atlas",
    "interp.dashboards",
    "interp.store",
    "interp.sae",
    "interp.sae.cards",
    "interp.sae.formats",
    "interp.sae.synthetic",
    "interp.sae.distributed",
    "interp.sae.metrics",
    "interp.sae.sweep",
    "interp.sae.trackers",
    "interp_kernels",
)
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Source")
# What dataclasses and named tuples write where nobody did.
MADE = re.compile(r"^(Alias for field number|\w+\(.*\)$)")


def write_reference(out: str | Path) -> list[Path]:
    """Write index.md and one page per public module.

    Args:
        out: folder of the pages; pages of that name are replaced.

    Returns:
        Their paths, the index first.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    index, written = ["# API reference\n"], []
    for name in MODULES:
        module = importlib.import_module(name)
        path = folder / f"{name}.md"
        path.write_text(page(module), encoding="utf-8")
        written.append(path)
        index.append(f"- [{name}]({path.name}): {_first_line(module)}")
        index += [f"  - [{entry}]({path.name}#{anchor(entry)})" for entry in names(module)]
    (folder / "index.md").write_text("\n".join(index) + "\n", encoding="utf-8")
    return [folder / "index.md", *written]


def names(module: ModuleType) -> list[str]:
    """Return the public names of a module, sorted without regard to case."""
    return sorted((n for n in module.__all__ if n != "__version__"), key=str.lower)


def anchor(name: str) -> str:
    """Return the anchor that a heading of this name gets in rendered Markdown."""
    return re.sub(r"[^\w-]", "", name.lower())


def page(module: ModuleType) -> str:
    """Return the page of one module: its docstring, then every public name."""
    parts = [f"# {module.__name__}", markdown(inspect.getdoc(module) or "")]
    for name in names(module):
        parts += [f"## {name}", *entry(name, getattr(module, name))]
    return "\n\n".join(part for part in parts if part) + "\n"


def entry(name: str, value: Any) -> Iterator[str]:
    """Yield the paragraphs of one public name: signature, docstring, fields, methods."""
    if typing.get_origin(value) is not None:
        yield f"A type: `{_tidy(inspect.formatannotation(value))}`."
        return
    if not callable(value):
        kind = type(value).__name__
        keys = ", ".join(f"`{key}`" for key in value) if isinstance(value, dict) else ""
        yield f"A {kind}" + (f" with the keys {keys}." if keys else ".")
        return
    yield code(signature(name, value))
    text = inspect.getdoc(value) or ""
    yield markdown("" if MADE.match(text) else text)
    if inspect.isclass(value):
        yield from _members(value)


def signature(name: str, value: Any) -> str:
    """Return "name(argument: type = default) -> type", one argument a line where it is long."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    text = _tidy(f"{name}{found}")
    if len(text) <= 88:
        return text
    lines = [f"    {one}," for one in map(str, found.parameters.values())]
    end = text[text.rindex(")") :] if found.return_annotation is inspect.Signature.empty else ""
    end = end or f") -> {inspect.formatannotation(found.return_annotation)}"
    whole = "\n".join([f"{name}(", *lines, end])
    return _tidy(whole)


def _tidy(text: str) -> str:
    """Return code without the homes of common types, and without addresses in memory."""
    text = text.replace("collections.abc.", "").replace("typing.", "")
    return re.sub(r"<(?:function |class )?([\w.]+)[^<>]* at 0x[0-9a-f]+>", r"\1", text)


def _members(value: type) -> Iterator[str]:
    fields = [f"- `{field}`: {text}" for field, text in field_docs(value).items()]
    if fields:
        yield "\n".join(fields)
    for name, member in vars(value).items():
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        text = inspect.getdoc(plain)
        if name.startswith("_") or not text or MADE.match(text):
            continue
        if isinstance(plain, property):
            yield f"**`.{name}`** {markdown(text)}"
        elif inspect.isfunction(plain):
            yield code(signature(f".{name}", plain))
            yield markdown(text)


def field_docs(value: type) -> dict[str, str]:
    """Return field -> the string that stands below it in the class's source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    except (OSError, TypeError):
        return {}
    body, found = getattr(tree.body[0], "body", []), {}
    for one, after in itertools.pairwise(body):
        if not isinstance(one, ast.AnnAssign) or not isinstance(after, ast.Expr):
            continue
        if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            words = inspect.cleandoc(after.value.value).replace("\n", " ")
            found[ast.unparse(one.target)] = words
    return found


def code(text: str) -> str:
    """Return a fenced block."""
    return f"```python\n{text}\n```"


def markdown(text: str) -> str:
    """Return a docstring as Markdown: sections become lists, indented lines stay code."""
    lines, in_section = [], False
    for line in text.splitlines():
        title = line.removesuffix(":")
        item = re.match(r"^ {4}(\*{0,2}[\w., *\"]+): (.*)$", line) if in_section else None
        if line.endswith(":") and title in SECTIONS:
            lines += [f"**{title}**", ""]
            in_section = True
        elif item:
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif in_section and line.startswith("    "):
            # A continued item, or a section of plain text.
            lines.append(f"  {line.strip()}")
        else:
            in_section = in_section and not line
            lines.append(line)
    return "\n".join(lines)


def _first_line(module: ModuleType) -> str:
    return (inspect.getdoc(module) or "").partition("\n")[0]


def main() -> None:
    """Write the pages and print the path of the index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reference"))
    print(write_reference(parser.parse_args().out)[0])


if __name__ == "__main__":
    main()
