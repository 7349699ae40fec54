"""The public names: few, lazy, stable under imports of every submodule."""

import importlib
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import interp

HEAVY = (
    "diffusers",
    "transformers",
    "transformer_lens",
    "plotly",
    "umap",
    "sklearn",
    "pyarrow",
    "PIL",
)

# Imports of submodules that run a program are not imports of a library.
PROGRAMS = {"interp.__main__"}

WALK = """
import importlib, pkgutil, interp
before = {{name: getattr(interp, name) for name in interp.__all__}}
names = {{m.name for m in pkgutil.walk_packages(interp.__path__, "interp.")}} - {programs!r}
modules = [importlib.import_module(name) for name in sorted(names)]
changed = [name for name, value in before.items() if getattr(interp, name) is not value]
assert not changed, f"importing submodules replaced {{changed}}"
import types
inner = [
    f"{{m.__name__}}.{{name}}"
    for m in modules
    for name in getattr(m, "__all__", ())
    if isinstance(getattr(m, name), types.ModuleType)
]
assert not inner, f"public names that are modules: {{inner}}"
print(len(names))
"""

TIMING = """
import time, torch
start = time.perf_counter()
import interp
print(time.perf_counter() - start)
"""

LOADED = """
import sys, interp
heavy = {heavy!r}
print([name for name in heavy if name in sys.modules])
"""


def test_at_most_thirty_public_names_sorted_without_repeats() -> None:
    assert len(interp.__all__) <= 30
    assert len(set(interp.__all__)) == len(interp.__all__)


@pytest.mark.parametrize("name", interp.__all__)
def test_every_public_name_resolves_to_what_it_is_called(name: str) -> None:
    value = getattr(interp, name)
    if name != "__version__":
        assert value.__name__ == name
    assert name in dir(interp)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'lod'.*'load'"):
        _ = interp.lod  # pyright: ignore


def test_type_checkers_see_the_same_names_as_python(root: Path) -> None:
    source = (root / "interp" / "__init__.py").read_text()
    block = source[source.index("if TYPE_CHECKING:") : source.index("__all__")]
    pairs = {
        (name.strip(), module)
        for module, names in re.findall(r"from (\S+) import (.+)", block)
        for name in names.split(",")
    }
    assert pairs == set(interp._HOME.items())
    assert set(interp.__all__) == set(interp._HOME) | {"__version__"}


def test_no_public_name_is_the_name_of_a_submodule() -> None:
    modules = {module.name for module in pkgutil.iter_modules(interp.__path__)}
    assert not modules & set(interp.__all__)


@pytest.mark.slow
def test_importing_every_submodule_leaves_every_public_name_as_it_was(
    python: Callable[..., str],
) -> None:
    assert int(python(WALK.format(programs=PROGRAMS))) > 10


@pytest.mark.slow
def test_import_adds_less_than_fifteen_hundredths_of_a_second_to_torch(
    python: Callable[..., str],
) -> None:
    # The best of three: a busy machine only ever adds.
    assert min(float(python(TIMING)) for _ in range(3)) < 0.15


@pytest.mark.slow
def test_import_leaves_the_heavy_libraries_alone(python: Callable[..., str]) -> None:
    assert python(LOADED.format(heavy=HEAVY)) == "[]"


@pytest.mark.slow
def test_public_functions_import_without_the_heavy_libraries(python: Callable[..., str]) -> None:
    code = "import interp\n[getattr(interp, n) for n in interp.__all__]\n"
    assert python(code + LOADED.format(heavy=HEAVY)) == "[]"


def test_the_version_is_one(root: Path) -> None:
    cited = re.search(r"^version: (\S+)$", (root / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert cited[1] == interp.__version__
    assert f"## {interp.__version__}" in (root / "CHANGELOG.md").read_text()


def test_the_module_runs_as_a_command() -> None:
    assert importlib.util.find_spec("interp.__main__") is not None
