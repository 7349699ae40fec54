"""Run the quick tests of a part in a process of their own, each annotation of a shape checked.

The check costs milliseconds a call, too much for every test of a training loop, so it runs apart,
and on a part of the tests.
"""

import os
import subprocess
import sys
from pathlib import Path

CHECKED = "interp.geometry,interp.stats,interp.alignment,interp.sae,interp.features,interp_kernels"


def check_annotations(part: str, root: Path) -> None:
    """Fail where an annotation is untrue in the quick tests of tests/<part>."""
    # Nothing of the outer run's workers, reports or options.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(root / "tests" / "checking")
    # What is refused breaks the annotation on purpose; the others call the same functions, only far
    # more often.
    chosen = "not refused and not gradcheck and not test_options and not test_many and not formats"
    chosen += " and not annotations"
    command = [sys.executable, "-m", "pytest", f"tests/{part}", "-q", "-x", "-p", "thinned"]
    hook = f"--jaxtyping-packages={CHECKED},tower.check"
    done = subprocess.run(
        [*command, "-m", "not slow", "-k", chosen, hook, "-p", "no:cacheprovider"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
