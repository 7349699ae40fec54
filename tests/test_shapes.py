"""Shape annotations are true: the quick tests of array parts pass with each annotation checked.

The check costs milliseconds a call, too much for every test of a training loop, so it runs apart.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKED = "interp.geometry,interp.stats,interp.alignment,interp.sae,interp.features,interp_kernels"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["geometry", "kernels", "sae"])
def test_annotations_hold_in_the_quick_tests_of(part: str, root: Path) -> None:
    # Nothing of the outer run's workers, reports or options.
    outer = ("PYTEST_",)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(outer)}
    environment["PYTHONPATH"] = str(root / "tests" / "checking")
    command = [sys.executable, "-m", "pytest", f"tests/{part}", "-q", "-m", "not slow", "-x"]
    # What is refused breaks the annotation on purpose; the others call the same functions, only far
    # more often.
    command += ["-k", "not refused and not gradcheck and not stopped_run and not invarian"]
    hook = f"--jaxtyping-packages={CHECKED},tower.check"
    done = subprocess.run(
        [*command, hook, "-p", "no:cacheprovider"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
