"""Make one virtual environment per library, and record which of them work.

    python -m benchmarks.peers.setup                     # all, into ~/.cache/interp-peers
    python -m benchmarks.peers.setup sparsify --folder DIR
    python -m benchmarks.peers.setup netrep --source netrep=CHECKOUT

Packages come from wherever pip is configured to look. What fails is recorded with its reason in
`NAME.json` beside the environment, and the others go on.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.peers.table import ENVIRONMENTS, GEOMETRY_ROWS, ROWS, TORCH, Peer

# Where the environments lie; never inside the repository.
VARIABLE = "INTERP_PEERS"
DEFAULT = Path("~/.cache/interp-peers")
SHOW_VERSIONS = """import json, runpy, sys
from importlib import metadata
runpy.run_path(sys.argv[1])
print(json.dumps({name: metadata.version(name) for name in sys.argv[2:]}))
"""


def default_folder() -> Path:
    """The folder of the environments: $INTERP_PEERS, or ~/.cache/interp-peers."""
    return Path(os.environ.get(VARIABLE) or DEFAULT).expanduser()


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of a library's environment."""
    return folder / name / "bin" / "python"


def adapter_of(name: str) -> Path:
    """The file that drives a library."""
    file = next(row.adapter for row in (*ROWS, *GEOMETRY_ROWS) if row.peer == name)
    return Path(__file__).parent / "adapters" / file


def clean(text: str) -> str:
    """A message without addresses and folders of a machine, for results that are published."""
    text = re.sub(r"(?:file|https?)://\S+", "<address>", text)
    return re.sub(r"(?<![\w.<])/(?:[^\s/'\":]+/)+", "", text)


def name_of(requirement: str) -> str:
    """The distribution of "name==1.0" or "name @ address"."""
    return re.split(r"\s*(?:==|@)", requirement)[0]


def setup_peer(
    name: str, peer: Peer, folder: Path, sources: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Create the environment, install, import the library as its adapter does.

    Args:
        name: of the library.
        peer: its entry.
        folder: of the environments.
        sources: distribution -> folder to install it from instead.

    Returns:
        The record that `NAME.json` holds: name, ok, seconds, requirements, and versions or else
        the step that failed with its reason.
    """
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    python = python_of(name, folder)
    pip = [str(python), "-m", "pip"]
    install = [*pip, "install", "--quiet", "--no-input"]
    base = [TORCH] if peer.torch else []
    wanted = [sources.get(name_of(one), one) for one in peer.requirements]
    steps = [("venv", [sys.executable, "-m", "venv", str(folder / name)])]
    if peer.torch:
        steps.append(("install torch", [*install, TORCH]))
    steps.append(("install", [*install, *base, *wanted]))
    if peer.remove:
        steps.append(("remove", [*pip, "uninstall", "--quiet", "--yes", *peer.remove]))
    names = [name_of(one) for one in (*base, *peer.requirements)]
    adapter = str(adapter_of(name))
    steps.append(("import", [str(python), "-P", "-c", SHOW_VERSIONS, adapter, *names]))
    record: dict[str, Any] = {"name": name, "ok": False, "requirements": [*peer.requirements]}
    for step, command in steps:
        done = run_command(command)
        if done.returncode:
            record |= {"step": step, "reason": reason(done.stderr or done.stdout)}
            break
    else:
        record |= {"ok": True, "versions": json.loads(done.stdout.splitlines()[-1])}
    record["seconds"] = round(time.perf_counter() - start, 1)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run one command with its output kept."""
    return subprocess.run(command, capture_output=True, text=True)


def reason(output: str) -> str:
    """The line of a tool's output that says why it failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"ERROR|\w*(?:Error|Exception)\b.*:", line)]
    return clean((errors or lines or ["it said nothing"])[-1])[:300]


def state(name: str, folder: Path) -> dict[str, Any]:
    """The record of `setup_peer`, or one that says that it has not run."""
    path = folder / f"{name}.json"
    if not path.exists():
        command = f"python -m benchmarks.peers.setup {name}"
        return {"name": name, "ok": False, "step": "setup", "reason": f"not set up: {command}"}
    return json.loads(path.read_text())


def main(arguments: Sequence[str] | None = None) -> int:
    """Set up the named libraries, or all; returns 1 where one failed."""
    parser = argparse.ArgumentParser("python -m benchmarks.peers.setup", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENVIRONMENTS)}")
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument(
        "--source", action="append", default=[], metavar="NAME=DIR", help="install NAME from DIR"
    )
    parser.add_argument("--again", action="store_true", help="also those that already work")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(ENVIRONMENTS))
    if unknown:
        parser.error(f"no library {', '.join(unknown)}; there are {', '.join(ENVIRONMENTS)}")
    folder = options.folder.expanduser().absolute()
    sources = dict(one.split("=", 1) for one in options.source)
    failed = 0
    for name in options.names or ENVIRONMENTS:
        peer, record = ENVIRONMENTS[name], state(name, folder)
        fresh = record["ok"] and record["requirements"] == [*peer.requirements]
        if options.again or not fresh:
            record = setup_peer(name, peer, folder, sources)
        failed |= not record["ok"]
        said = record["versions"] if record["ok"] else f"{record['step']}: {record['reason']}"
        print(f"{name}: {'ok' if record['ok'] else 'failed'}, {said}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
