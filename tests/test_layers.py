"""Arrows point one way: which module may import which, read from the sources, not from a run."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import interp

ROOT = Path(__file__).resolve().parents[1]

# Frozen records that travel from layer to layer: any layer may name them.
NOUNS = {"HookPoint", "Generation", "Encoding", "Rows", "Statistics", "DoseResponse"}

# A part (longest prefix of the importing module) -> the parts that it may import, beside itself and
# `interp.errors`. A new module must find its place here.
MAY_IMPORT: dict[str, set[str]] = {
    "interp_kernels": set(),
    "interp.errors": set(),
    "interp.stats": set(),
    "interp.geometry": {"interp_kernels", "interp.stats"},
    "interp.models": set(),
    "interp.zoo": {"interp.models"},
    "interp.assets": {"interp.models"},
    # The only module that sees models, zoo and assets.
    "interp.loading": {"interp.models", "interp.zoo", "interp.assets"},
    "interp.store": set(),
    # The only bridge from models to the store; the images that it encodes come from the zoo.
    "interp.harvest": {"interp.models", "interp.store", "interp.zoo"},
    # The package's __init__ lifts the names of the modules that also see the store.
    "interp.sae": {
        "interp_kernels",
        "interp.sae.train",
        "interp.sae.joined",
        "interp.sae.many",
        "interp.sae.evaluate",
        "interp.sae.evaluate_joined",
        "interp.sae.shares",
    },
    "interp.sae.train": {"interp_kernels", "interp.sae", "interp.sae.joined", "interp.store"},
    "interp.sae.joined": {"interp.sae", "interp.store"},
    "interp.sae.evaluate_joined": {"interp.sae", "interp.sae.joined", "interp.store"},
    "interp.sae.shares": {"interp.sae", "interp.sae.joined", "interp.sae.evaluate_joined"},
    "interp.sae.many": {"interp_kernels", "interp.sae", "interp.sae.train", "interp.store"},
    "interp.sae.evaluate": {"interp_kernels", "interp.sae", "interp.store"},
    "interp.sae.sweep": {
        "interp.sae",
        "interp.sae.train",
        "interp.sae.many",
        "interp.sae.evaluate",
        "interp.store",
    },
    "interp.features": {"interp.sae", "interp.store"},
    # The only part that sees both models and SAEs.
    "interp.interventions": {"interp.models", "interp.sae", "interp.store", "interp.stats"},
    # The only module that sees both store and geometry.
    "interp.alignment": {
        "interp.store",
        "interp.geometry",
        "interp.stats",
        "interp.sae",
        "interp.features",
    },
    # One call: captures what has to be captured, compares, reads and writes.
    "interp.studies": {
        "interp.models",
        "interp.loading",
        "interp.zoo",
        "interp.store",
        "interp.harvest",
        "interp.geometry",
        "interp.stats",
        "interp.alignment",
        "interp.dashboards",
    },
    # Figures from data, never from models.
    "interp.dashboards": {
        "interp.store",
        "interp.features",
        "interp.alignment",
        "interp.sae",
        "interp.atlas.record",
    },
    # The record of an atlas is plain data, which pages read too.
    "interp.atlas.codec": set(),
    "interp.atlas.files": {"interp.atlas.codec"},
    "interp.atlas.record": {"interp.atlas.files"},
    "interp.atlas": {
        "interp.models",
        "interp.loading",
        "interp.zoo",
        "interp.stats",
        "interp.interventions",
        "interp.atlas.codec",
        "interp.atlas.files",
        "interp.atlas.record",
    },
}

# These see the public API only, and each other's parts as listed.
OUTSIDE: dict[str, set[str]] = {
    "interp.doctor": set(),
    "interp.demo": {"interp.demo_matches", "interp.demo_report"},
    "interp.demo_matches": {"interp.demo_report"},
    "interp.demo_report": set(),
    "interp.reference": set(),
    "interp.cli": {"interp.demo", "interp.doctor"},
    "interp.__main__": {"interp.cli"},
    "benchmarks": {"benchmarks"},
    "analyses": {"analyses"},
}
PUBLIC = (
    "interp",
    "interp.atlas",
    "interp.alignment.matching",
    "interp.alignment",
    "interp.assets",
    "interp.studies",
    "interp.zoo",
    "interp.geometry",
    "interp.stats",
    "interp.interventions",
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

# Seconds each: imported inside the functions that need them.
HEAVY = {
    "datasets",
    "diffusers",
    "numba",
    "pandas",
    "PIL",
    "plotly",
    "pyarrow",
    "scipy",
    "sklearn",
    "transformer_lens",
    "transformers",
    "umap",
    "wandb",
}
# jaxtyping only annotates.
KERNELS_IMPORT = {"torch", "triton", "jaxtyping", "interp_kernels"} | set(sys.stdlib_module_names)


class Import(NamedTuple):
    """One imported name: `from module import name`, or `import module` with name ""."""

    module: str
    name: str
    line: int
    at_top: bool


def _modules(*folders: str) -> dict[str, Path]:
    found = {}
    for folder in folders:
        base = ROOT / "kernels" if folder == "interp_kernels" else ROOT
        for path in sorted((base / folder).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


LIBRARY = _modules("interp", "interp_kernels")
EVERYTHING = LIBRARY | _modules("benchmarks", "analyses")


def _walk(tree: ast.AST, at_top: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether importing the module runs it."""
    for node in ast.iter_child_nodes(tree):
        yield node, at_top
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from ((child, False) for child in ast.walk(node) if child is not node)
            continue
        yield from _walk(node, at_top and not inside)


def _imports(tree: ast.AST) -> list[Import]:
    found = []
    for node, at_top in _walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, "", node.lineno, at_top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += [Import(module, alias.name, node.lineno, at_top) for alias in node.names]
    return found


IMPORTS = {name: _imports(ast.parse(path.read_text())) for name, path in EVERYTHING.items()}


def _part(module: str, table: dict[str, set[str]]) -> str | None:
    """The longest prefix of the module that is a key of the table."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in table:
            return ".".join(parts[:end])
    return None


def _target(one: Import) -> str:
    """The module that an import reaches: `from interp import features` reaches the submodule."""
    inner = f"{one.module}.{one.name}"
    return inner if inner in EVERYTHING else one.module


def _inside(one: Import) -> bool:
    return one.module.split(".")[0] in {
        "interp",
        "interp_kernels",
        "benchmarks",
        "analyses",
        "tests",
    }


def _public(module: str) -> list[str]:
    """`__all__` of a public module, read without importing it."""
    for node in ast.parse(EVERYTHING[module].read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return ast.literal_eval(node.value)  # pyright: ignore
    return []


def _allowed(importer: str, one: Import) -> bool:
    home, target = _part(importer, MAY_IMPORT), _target(one)
    assert home is not None
    if one.name in NOUNS or target == "interp.errors":
        return True
    if target.startswith(f"{importer}."):
        # A package gathers the names of its own modules.
        return True
    if target == "interp":
        # The package itself offers every layer; a part names the layer that it needs.
        return one.name == "__version__"
    part = _part(target, MAY_IMPORT)
    return part is not None and (part == home or part in MAY_IMPORT[home])


@pytest.mark.parametrize("module", [m for m in LIBRARY if m != "interp"])
def test_a_module_has_a_place_in_the_table(module: str) -> None:
    assert _part(module, MAY_IMPORT) or _part(module, OUTSIDE), (
        f"{module} is in no part: add it to MAY_IMPORT with what it may import"
    )


@pytest.mark.parametrize("module", [m for m in LIBRARY if _part(m, MAY_IMPORT)])
def test_a_module_imports_only_the_layers_below(module: str) -> None:
    wrong = [
        f"line {one.line}: {module} -> {_target(one)} ({one.name})"
        for one in IMPORTS[module]
        if _inside(one) and not _allowed(module, one)
    ]
    assert not wrong, "\n".join(wrong)


def _not_public(importer: str, one: Import) -> str | None:
    """Why an import from outside is not one of a public name, or None."""
    if one.module in PUBLIC and one.name in _public(one.module):
        # A function may have the name of its own module, as encode_topk has.
        return None
    target = _target(one)
    part = _part(importer, OUTSIDE)
    assert part is not None
    if any(target == own or target.startswith(own + ".") for own in (part, *OUTSIDE[part])):
        return None
    if target == "interp.errors":
        return None
    if target in PUBLIC:
        if one.name in ("", target.rpartition(".")[2]) or one.name in _public(target):
            return None
        return f"{one.name!r} is not in {target}.__all__"
    return f"{target} is not public"


def _attributes(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """`alias.name` for every public module that the file imported whole: (module, name)."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {a.asname or a.name: a.name for a in node.names if a.name in PUBLIC}
        elif isinstance(node, ast.ImportFrom) and node.module:
            aliases |= {
                a.asname or a.name: f"{node.module}.{a.name}"
                for a in node.names
                if f"{node.module}.{a.name}" in PUBLIC
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (alias := ast.unparse(node.value)) in aliases:
            yield aliases[alias], node.attr


@pytest.mark.parametrize("module", [m for m in EVERYTHING if _part(m, OUTSIDE)])
def test_what_stands_outside_uses_public_names_only(module: str) -> None:
    wrong = [
        f"line {one.line}: {reason}"
        for one in IMPORTS[module]
        if _inside(one) and (reason := _not_public(module, one))
    ]
    wrong += [
        f"{owner}.{name}"
        for owner, name in _attributes(ast.parse(EVERYTHING[module].read_text()))
        if name not in _public(owner) and f"{owner}.{name}" not in PUBLIC
    ]
    assert not wrong, f"{module}: {wrong}"


@pytest.mark.parametrize("module", [m for m in PUBLIC if m in EVERYTHING])
def test_a_public_module_lists_its_names(module: str) -> None:
    if module != "interp_kernels":
        assert _public(module), f"{module} has no __all__, so nothing outside may use it"


@pytest.mark.parametrize("module", LIBRARY)
def test_nothing_heavy_is_imported_at_the_top(module: str) -> None:
    wrong = [
        f"line {one.line}: {one.module}"
        for one in IMPORTS[module]
        if one.at_top and one.module.split(".")[0] in HEAVY
    ]
    assert not wrong, f"import inside the function that needs it: {wrong}"


@pytest.mark.parametrize("module", _modules("interp_kernels"))
def test_kernels_import_torch_and_triton_only(module: str) -> None:
    wrong = [one for one in IMPORTS[module] if one.module.split(".")[0] not in KERNELS_IMPORT]
    assert not wrong


@pytest.mark.parametrize("module", EVERYTHING)
def test_imports_are_absolute_and_none_is_a_star(module: str) -> None:
    assert not [one for one in IMPORTS[module] if one.module.startswith(".") or one.name == "*"]


@pytest.mark.parametrize("module", LIBRARY)
def test_the_library_imports_no_tests_benchmarks_or_analyses(module: str) -> None:
    outer = {"tests", "benchmarks", "analyses"}
    assert not [one for one in IMPORTS[module] if one.module.split(".")[0] in outer]


def test_the_folder_kernels_is_no_package() -> None:
    # An importable top-level `kernels` would hide Hugging Face's, which diffusers imports.
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "kernels.py").exists()


def test_the_table_names_every_public_home() -> None:
    assert all(_part(home, MAY_IMPORT) for home in interp._HOME.values())


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("interp.geometry.measures", "from interp.store import open_store"),
        ("interp.store.reader", "from interp.models.unet import UNet"),
        ("interp.dashboards.page", "from interp.models import load"),
        ("interp.sae.topk", "from interp.store import ActivationStore"),
        ("interp.sae.topk", "from interp import features"),
        ("interp.sae.topk", "from interp import train"),
    ],
)
def test_an_arrow_that_points_up_is_seen(importer: str, line: str) -> None:
    assert not any(_allowed(importer, one) for one in _imports(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "from interp.models import Adapter",
        "from interp.sae.train import train",
        "from interp import features",
        "from interp.geometry import _center",
    ],
)
def test_a_private_name_used_outside_is_seen(line: str) -> None:
    assert all(_not_public("benchmarks.store", one) for one in _imports(ast.parse(line)))


def test_an_import_for_types_alone_is_not_at_the_top() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    import plotly\nimport torch\n")
    assert [one.at_top for one in _imports(tree)] == [False, True]
