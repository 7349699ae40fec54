"""The API reference has an entry for every public name, made from the docstrings alone."""

import importlib
import re
from pathlib import Path

import pytest

from interp.reference import MODULES, markdown, names, signature, write_reference
from tests.test_layers import PUBLIC


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    written = write_reference(tmp_path_factory.mktemp("reference"))
    return {path.stem: path.read_text() for path in written}


def test_every_public_module_has_a_page() -> None:
    assert set(MODULES) == set(PUBLIC)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_an_entry_with_words(name: str, pages: dict[str, str]) -> None:
    parts = re.split(r"^## (.+)$", pages[name], flags=re.MULTILINE)[1:]
    entries = dict(zip(parts[::2], parts[1::2], strict=True))
    assert list(entries) == names(importlib.import_module(name))
    for entry, text in entries.items():
        without_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        assert without_code.strip(), f"{name}.{entry} has a signature and no words"


@pytest.mark.slow
def test_every_link_of_the_index_leads_to_a_heading(pages: dict[str, str]) -> None:
    links = re.findall(r"\]\(([\w.]+)\.md(?:#([\w-]+))?\)", pages["index"])
    assert len(links) > 100
    for page, anchor in links:
        headings = re.findall(r"^## (.+)$", pages[page], re.MULTILINE)
        assert not anchor or anchor in {re.sub(r"[^\w-]", "", h.lower()) for h in headings}


def test_no_page_names_a_folder_or_an_address_in_memory(pages: dict[str, str]) -> None:
    assert not [name for name, text in pages.items() if re.search(r"0x[0-9a-f]{6}", text)]


def test_sections_become_lists_and_code_stays_code() -> None:
    text = (
        "Do it.\n\n    y = x + 1\n\nArgs:\n    x: a number\n        of things.\n    y, z: two.\n\n"
    )
    text += "Returns:\n    The sum.\n\nMore."
    assert markdown(text).splitlines() == [
        "Do it.",
        "",
        "    y = x + 1",
        "",
        "**Args**",
        "",
        "- `x`: a number",
        "  of things.",
        "- `y, z`: two.",
        "",
        "**Returns**",
        "",
        "  The sum.",
        "",
        "More.",
    ]


def test_a_long_signature_has_a_line_for_each_argument() -> None:
    def short(x: int, *, y: str = "a") -> bool: ...

    assert signature("short", short) == "short(x: int, *, y: str = 'a') -> bool"

    def long(first_argument: int, second_argument: str, third_argument: float = 0.5) -> Path: ...

    assert signature("long", long).splitlines()[1] == "    first_argument: int,"
