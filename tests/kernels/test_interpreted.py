"""Every Triton kernel agrees with its torch twin, in processes that interpret kernels on a CPU.

The interpreter is chosen when a kernel is defined, so it needs a process of its own: each file in
`interpreted/` gets one. Rules there: single and half precision (bfloat16 arithmetic is wrong in the
interpreter), at most 200 programs a launch.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("test_*.py")))
def test_kernels_hold_in_the_interpreter(name: str, root: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", str(FOLDER / name), "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
