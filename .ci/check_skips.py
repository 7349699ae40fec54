"""Read pytest's JUnit report: print every skip and slow test, fail on a skip that is not allowed.

Usage: python check_skips.py junit.xml allowed_skips.txt
"""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

MOST_ALLOWED = 10
# Seconds that a test without the `slow` mark may take before it is named here.
QUICK = 1.0


class Case(NamedTuple):
    """One test of the report."""

    name: str
    seconds: float
    slow: bool
    skipped: str | None
    failed: bool


def read_cases(report: Path) -> list[Case]:
    """Every test of a JUnit report."""
    return [_case(node) for node in ET.parse(report).iter("testcase")]


def _case(node: ET.Element) -> Case:
    skipped = node.find("skipped")
    return Case(
        name=f"{node.get('classname', '')}::{node.get('name', '')}",
        seconds=float(node.get("time", 0)),
        slow=any(prop.get("name") == "slow" for prop in node.iter("property")),
        skipped=None if skipped is None else skipped.get("message") or "no reason",
        failed=node.find("failure") is not None or node.find("error") is not None,
    )


def read_allowed(path: Path) -> list[str]:
    """The patterns of the list: its lines without comments."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def check(cases: list[Case], allowed: list[str]) -> list[str]:
    """What is wrong with a run, one sentence each."""
    problems = []
    if len(allowed) > MOST_ALLOWED:
        problems.append(f"{len(allowed)} skips are allowed, at most {MOST_ALLOWED} may be")
    if not any(case.skipped is None for case in cases):
        problems.append("no test ran")
    for case in cases:
        line = f"{case.name}: {case.skipped}"
        if case.skipped is not None and not any(re.search(one, line) for one in allowed):
            problems.append(f"this skip is not in the list: {line}")
    return problems


def main(report: str, allowed_file: str) -> int:
    """Print the skips, the tests that are slow without the mark, and the closing line."""
    if not Path(report).exists():
        print("pytest left no report")
        print("0 passed, 1 failed")
        return 1
    cases, allowed = read_cases(Path(report)), read_allowed(Path(allowed_file))
    for case in cases:
        if case.skipped is not None:
            print(f"skipped  {case.name}: {case.skipped}")
    for case in sorted(cases, key=lambda case: -case.seconds):
        if case.seconds > QUICK and not case.slow:
            print(f"{case.seconds:6.1f} s without the slow mark  {case.name}")
    problems = check(cases, allowed)
    for problem in problems:
        print(f"error: {problem}")
    failed = sum(case.failed for case in cases)
    skipped = sum(case.skipped is not None for case in cases)
    # The run's last line, in the form that any reader of logs knows.
    print(f"{len(cases) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
