"""The style that a machine can hold: sizes, nesting, docstrings, no prints, no global draws."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("interp", "kernels", "benchmarks", "analyses", "tests")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
SOURCES = [path for path in FILES if path.relative_to(ROOT).parts[0] in ("interp", "kernels")]
PROGRAMS = ("interp/cli", "interp/demo", "interp/__main__.py")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Block = ast.If | ast.For | ast.While | ast.With | ast.Try | ast.Match


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _length(function: Function) -> int:
    """Lines of a function without its docstring: documentation is never too long."""
    last = function.end_lineno or function.lineno
    first = function.body[0]
    text = 0
    if ast.get_docstring(function) is not None:
        text = (first.end_lineno or first.lineno) - first.lineno + 1
    return last - function.lineno + 1 - text


def _depth(node: ast.AST) -> int:
    """The deepest nesting of blocks; `elif` continues its `if`."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda | ast.ClassDef):
            continue
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        step = int(isinstance(child, Block) and not chained)
        deepest = max(deepest, step + _depth(child))
    return deepest


def _positional(function: Function) -> int:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return len([name for name in names if name not in ("self", "cls")])


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def _is_kernel(path: Path) -> bool:
    return path.relative_to(ROOT).parts[0] == "kernels"


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_a_file_has_at_most_400_lines(path: Path) -> None:
    # A kernel file holds reference, kernels, launchers and registration of one operation.
    limit = 500 if _is_kernel(path) else 400
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_a_function_has_at_most_40_lines_and_three_levels(path: Path) -> None:
    limit = 120 if _is_kernel(path) else 40
    functions = list(_functions(_tree(path)))
    assert not {f.name: _length(f) for f in functions if _length(f) > limit}
    assert not {f.name: _depth(f) for f in functions if _depth(f) > 3}


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_a_function_takes_at_most_seven_positional_arguments(path: Path) -> None:
    # Launchers and kernels pass pointers, sizes and strides.
    if not _is_kernel(path):
        functions = _functions(_tree(path))
        assert not {f.name: n for f in functions if (n := _positional(f)) > 7}


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_a_config_has_at_most_fifteen_fields(path: Path) -> None:
    classes = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.ClassDef)]
    for node in classes:
        fields = [line for line in node.body if isinstance(line, ast.AnnAssign)]
        if node.name.endswith("Config") or node.name in ("Generation", "Encoding", "Rows"):
            assert len(fields) <= 15, f"{node.name} has {len(fields)} fields"


def _undocumented(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None and not _is_overload(node):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node, f"{node.name}.")


def _is_overload(node: Function | ast.ClassDef) -> bool:
    return any(
        ast.unparse(mark).split(".")[-1] in ("overload", "setter") for mark in node.decorator_list
    )


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_what_is_public_has_a_docstring(path: Path) -> None:
    tree = _tree(path)
    assert ast.get_docstring(tree), "the module has no docstring"
    assert not list(_undocumented(tree))


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_the_library_prints_nothing(path: Path) -> None:
    # A module that also runs as a program may print in its `main`.
    body = _tree(path).body
    if "__main__" in path.read_text():
        body = [node for node in body if getattr(node, "name", "") != "main"]
    calls = [node for top in body for node in ast.walk(top) if isinstance(node, ast.Call)]
    if not _id(path).startswith(PROGRAMS):
        assert not [node.lineno for node in calls if _called(node) in ("print", "pprint")]


# Calls that draw from or seed a generator of the whole process.
SEEDS = {"torch.manual_seed", "torch.random.manual_seed", "torch.seed", "np.random.seed"}
SEEDS |= {
    "numpy.random.seed",
    "random.seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
}
# What of `np.random` makes a generator of its own.
OWN = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox", "RandomState"}


def _global_draws(tree: ast.AST, forked: bool = False) -> Iterator[int]:
    """Lines that touch a global generator; inside `torch.random.fork_rng()` torch's is a copy."""
    for node in ast.iter_child_nodes(tree):
        inside = forked
        if isinstance(node, ast.With):
            inside = forked or any("fork_rng" in ast.unparse(item) for item in node.items)
        if isinstance(node, ast.Call):
            owner, _, name = _called(node).rpartition(".")
            seeds = _called(node) in SEEDS and not (forked and owner.startswith("torch"))
            draws = owner in ("np.random", "numpy.random") and name not in OWN
            if seeds or draws or (owner == "random" and name != "Random"):
                yield node.lineno
        yield from _global_draws(node, inside)


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_the_library_leaves_the_global_generators_alone(path: Path) -> None:
    assert not list(_global_draws(_tree(path)))


def _swallows(handler: ast.ExceptHandler) -> bool:
    """Whether a handler of every error neither raises nor keeps the error for another thread."""
    broad = handler.type is None or ast.unparse(handler.type) in ("Exception", "BaseException")
    keeps = any(
        isinstance(node, ast.Assign) and ast.unparse(node.value) == handler.name
        for node in ast.walk(handler)
    )
    return broad and not keeps and not any(isinstance(n, ast.Raise) for n in ast.walk(handler))


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_no_broad_except_swallows_an_error(path: Path) -> None:
    handlers = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.ExceptHandler)]
    assert not [handler.lineno for handler in handlers if _swallows(handler)]


def test_the_gates_see_what_they_forbid() -> None:
    deep = "def f():\n for a in b:\n  if a:\n   with c:\n    while d:\n     pass\n"
    chain = "def f():\n if a:\n  pass\n elif b:\n  pass\n elif c:\n  pass\n elif d:\n  pass\n"
    assert _depth(_tree_of(deep)) == 4
    assert _depth(_tree_of(chain)) == 1
    assert _length(_tree_of('def f():\n """One.\n\n Two.\n """\n return 1\n')) == 2
    assert list(_global_draws(ast.parse("torch.manual_seed(0)\nnp.random.rand(3)"))) == [1, 2]
    forked = "with torch.random.fork_rng(devices=[]):\n    torch.manual_seed(0)\n"
    assert not list(_global_draws(ast.parse(forked)))


def _tree_of(code: str) -> Function:
    function = ast.parse(code).body[0]
    assert isinstance(function, Function)
    return function
