"""Compile every kernel ahead of time, without a GPU, and read what the compiler made of it.

    python -m benchmarks.aot                                # what changed, into results/aot.json
    python -m benchmarks.aot --arch sm_90 --widths 1280     # a part; the table is left alone
    python -m benchmarks.aot --check                        # does the table belong to the sources?

A kernel that spills registers or uses local memory, needs more registers than its case allows, or
lacks matrix instructions where it multiplies matrices is a fault, and the exit status is 1. What
this cannot tell is time: that needs a GPU.
"""

import argparse
import ast
import hashlib
import importlib
import importlib.util
import json
import multiprocessing
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.run import RESULTS, environment

# Name -> what triton's GPUTarget takes.
ARCHES = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
WIDTHS = (320, 512, 640, 1280, 2560, 3072, 4096)
FILE = RESULTS / "aot.json"
RENEW = "python -m benchmarks.aot"

_SASS = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", re.MULTILINE)
_GCN = re.compile(r"^\s+([a-z]\w+)", re.MULTILINE)
# Loads of 16 bytes per thread: global to registers, or global to shared memory.
_WIDE = re.compile(r"LDG\S*\.128|LDGSTS\S*\.128|(global|buffer)_load_dwordx4")
_TENSOR = re.compile(r"HGMMA|HMMA|UTC\w*MMA|v_mfma|v_smfmac")


class Row(NamedTuple):
    """What one kernel became on one architecture."""

    triton: str
    arch: str
    name: str
    d: int
    registers: int
    """Per thread."""
    budget: int
    """Registers that the case allows (of NVIDIA's 255 per thread)."""
    spills: int
    """Instructions that move registers to or from local memory."""
    stack: int
    """Bytes per thread."""
    local: int
    """Bytes of local memory per thread."""
    shared: int
    """Bytes of shared memory per program."""
    wide_loads: int
    """Instructions that load 16 bytes per thread."""
    tensor_ops: int
    """Matrix instructions."""
    needs_tensor: bool
    """Whether the case says that there must be some."""
    code: str
    """Digest of what was compiled."""


def modules() -> list[Any]:
    """The modules of interp_kernels that have kernels."""
    spec = importlib.util.find_spec("interp_kernels")
    folders = spec.submodule_search_locations if spec is not None else None
    names = sorted(one.name for one in pkgutil.iter_modules(folders))
    found = [importlib.import_module(f"interp_kernels.{name}") for name in names]
    return [module for module in found if hasattr(module, "aot_cases")]


def cases(widths: Iterable[int] = WIDTHS) -> list[tuple[str, int, int]]:
    """Every case as (module, d, its number among the module's cases at d)."""
    return [
        (module.__name__, d, number)
        for module in modules()
        for d in widths
        for number in range(len(module.aot_cases(d)))
    ]


def digest() -> str:
    """Digest of all that is compiled: functions without docstrings, types, sizes, budgets."""
    return _sha(*(case_digest(*case) for case in cases()))


def case_digest(module: str, d: int, number: int) -> str:
    """Digest of one case, and of every kernel function that its module can see."""
    found = importlib.import_module(module)
    case = found.aot_cases(d)[number]
    signature = sorted(case.signature.items())
    constants = sorted((key, str(value)) for key, value in case.constexprs.items())
    launch = (case.num_warps, case.num_stages, case.max_registers, case.tensor_cores)
    about = (case.name, case.kernel.__name__, signature, constants, launch)
    return _sha(repr(about), *_texts(found))


def _texts(module: Any) -> list[str]:
    visible = [one for one in vars(module).values() if hasattr(one, "arg_names")]
    return sorted(f"{one.__name__}\n{_code(one.src)}" for one in visible if hasattr(one, "src"))


def _sha(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _code(source: str) -> str:
    """A function's text as the parser sees it: no comments, no docstring, one layout."""
    tree = ast.parse(source[source.index("def ") :])
    body = tree.body[0].body  # type: ignore[attr-defined]
    if ast.get_docstring(tree.body[0]) is not None:  # type: ignore[arg-type]
        del body[0]
    return ast.unparse(tree)


def compile_case(module: str, d: int, number: int, arch: str) -> Row:
    """Compile one case for one architecture and read the result."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    case = importlib.import_module(module).aot_cases(d)[number]
    names = case.kernel.arg_names
    signature = {name: case.signature.get(name, "constexpr") for name in names}
    # As at a launch: pointers are aligned, and the width is a multiple of 16 (all of WIDTHS are).
    attrs = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(names)
        if signature[name].startswith("*") or (name == "D" and d % 16 == 0)
    }
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    done = triton.compile(
        ASTSource(case.kernel, signature, case.constexprs, attrs),
        target=GPUTarget(*ARCHES[arch]),
        options={**options, "enable_fp_fusion": True},
    )
    found = _nvidia(done) if "cubin" in done.asm else _amd(done.asm["amdgcn"])
    return Row(
        triton=triton.__version__, arch=arch, name=case.name, d=d, budget=case.max_registers,
        needs_tensor=case.tensor_cores, code=case_digest(module, d, number), **found,
    )  # fmt: skip


def _nvidia(compiled: Any) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        sass = _cuobjdump("--dump-sass", file.name)
    operations = _SASS.findall(sass)
    return {
        "registers": _number(r"REG:(\d+)", usage),
        "spills": sum(op.startswith(("STL", "LDL")) for op in operations),
        "stack": _number(r"STACK:(\d+)", usage),
        "local": _number(r"LOCAL:(\d+)", usage),
        "shared": int(compiled.metadata.shared),
        **_counted(operations),
    }


def _cuobjdump(option: str, file: str) -> str:
    """Output of the program that triton's wheel brings along."""
    import triton

    program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    done = subprocess.run([program, option, file], capture_output=True, text=True, check=True)
    return done.stdout


def _amd(assembly: str) -> dict[str, int]:
    operations = _GCN.findall(assembly)
    scratch = _number(r"\.private_segment_fixed_size:\s*(\d+)", assembly)
    return {
        "registers": _number(r"\.vgpr_count:\s*(\d+)", assembly),
        # Spilled scalars go to lanes of vector registers, which costs no memory.
        "spills": _number(r"\.vgpr_spill_count:\s*(\d+)", assembly),
        "stack": scratch,
        "local": scratch,
        "shared": _number(r"\.group_segment_fixed_size:\s*(\d+)", assembly),
        **_counted(operations),
    }


def _counted(operations: Sequence[str]) -> dict[str, int]:
    return {
        "wide_loads": sum(_WIDE.match(op) is not None for op in operations),
        "tensor_ops": sum(_TENSOR.match(op) is not None for op in operations),
    }


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern!r} in the compiler's report: {text[:300]!r}")
    return int(found[1])


def faults(row: Row) -> list[str]:
    """What is wrong with a compiled kernel, in words; nothing if it passes the gate."""
    where = f"{row.name} at d = {row.d} on {row.arch} (triton {row.triton})"
    found = []
    if row.spills or row.stack or row.local:
        found.append(
            f"{where} uses local memory: {row.spills} spills, {row.stack} bytes of stack, "
            f"{row.local} of local memory"
        )
    # A budget is of NVIDIA's registers: AMD's threads have twice as many.
    if row.arch.startswith("sm_") and row.registers > row.budget:
        found.append(f"{where} needs {row.registers} registers, its budget is {row.budget}")
    if row.needs_tensor and not row.tensor_ops:
        found.append(f"{where} has no matrix instruction")
    return found


def compile_all(
    arches: Sequence[str], widths: Sequence[int], jobs: int = 2, known: Sequence[Row] = ()
) -> Iterator[Row]:
    """Compile every case that is not known, in processes of their own that inherit nothing."""
    import triton

    context = multiprocessing.get_context("spawn")
    there = {(row.triton, row.arch, row.code): row for row in known}
    work = [(*case, arch) for arch in arches for case in cases(widths)]
    keys = [(triton.__version__, one[-1], case_digest(*one[:-1])) for one in work]
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        jobs_of = {}
        for key, one in zip(keys, work, strict=True):
            # A kernel that is the same at every width is compiled once.
            if key not in there and key not in jobs_of:
                jobs_of[key] = pool.submit(compile_case, *one)
        for key, (_, d, _, _) in zip(keys, work, strict=True):
            row = there[key] if key in there else jobs_of[key].result()
            yield row._replace(d=d)


def check(file: Path = FILE) -> str:
    """Why a table does not belong to the sources, or "" where it does."""
    if not file.exists():
        return f"{file.name} is missing; write it with: {RENEW}"
    found, now = json.loads(file.read_text())["result"]["digest"], digest()
    if found == now:
        return ""
    return f"{file.name} is of other kernels ({found}, now {now}); renew it with: {RENEW}"


def kept(file: Path) -> list[Row]:
    """Rows of a table whose kernels are still as they were, whatever compiled them."""
    if not file.exists():
        return []
    result = json.loads(file.read_text())["result"]
    if result["columns"] != list(Row._fields):
        return []
    now = {case_digest(*case) for case in cases()}
    rows = [Row(*row) for row in result["rows"]]
    return [row for row in rows if row.code in now]


def write(rows: Sequence[Row], file: Path = FILE) -> None:
    """Write the table, one kernel per line."""
    record = {
        "case": "aot",
        "environment": environment(),
        "result": {
            "digest": digest(),
            "renew": RENEW,
            "figures": summary(rows),
            "columns": list(Row._fields),
            "rows": "ROWS",
        },
    }
    lines = ",\n".join("   " + json.dumps(list(row)) for row in rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1).replace('"ROWS"', f"[\n{lines}\n  ]") + "\n")


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Figures of a table: for each compiler and architecture the faults and the most registers."""
    shown = []
    for version, arch in sorted({(row.triton, row.arch) for row in rows}):
        part = [row for row in rows if (row.triton, row.arch) == (version, arch)]
        wrong = sum(bool(faults(row)) for row in part)
        widths = len({row.d for row in part})
        kernels = len({row.name for row in part})
        what = f"{arch}, triton {version}: of {kernels} kernels at {widths} widths"
        shown += [
            {"name": f"{what}, compiled with faults", "value": wrong, "limit": "<= 0"},
            {"name": f"{what}, most registers", "value": max(row.registers for row in part)},
        ]
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Compile, print the faults; writes the table where all of it was compiled."""
    import triton

    parser = argparse.ArgumentParser(RENEW, description=__doc__.splitlines()[0])  # type: ignore
    parser.add_argument("--arch", nargs="+", choices=ARCHES, default=list(ARCHES))
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time")
    parser.add_argument("--out", type=Path, help="also write what was compiled to this file")
    parser.add_argument("--fresh", action="store_true", help="compile what is known, too")
    parser.add_argument("--check", action="store_true", help="compile nothing")
    options = parser.parse_args(arguments)
    if options.check:
        print(check() or "the table belongs to the sources")
        return int(bool(check()))
    if triton.knobs.runtime.interpret:  # type: ignore[attr-defined]
        parser.error("TRITON_INTERPRET is set: interpreted kernels cannot be compiled; unset it")
    whole = set(options.arch) == set(ARCHES) and set(options.widths) == set(WIDTHS)
    file = options.out or (FILE if whole else None)
    known = kept(file) if file is not None and not options.fresh else []
    rows = list(compile_all(options.arch, options.widths, options.jobs, known))
    wrong = [fault for row in rows for fault in faults(row)]
    if file is not None:
        more = [row for row in known if row not in rows]
        write(sorted([*rows, *more], key=lambda row: row[:2]), file)
        print(file)
    print(*wrong, f"{len(rows)} compiled, {len(wrong)} faults", sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
