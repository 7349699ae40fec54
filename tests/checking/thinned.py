"""Each test function once and each value of its parameters once: every annotation is seen."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests whose function and whose every value has been seen."""
    seen: set[tuple[str, str]] = set()
    kept, rest = [], []
    for item in items:
        function, _, values = item.nodeid.partition("[")
        new = {(function, ""), *((function.partition("::")[0], v) for v in values[:-1].split("-"))}
        (kept if new - seen else rest).append(item)
        seen |= new
    items[:] = kept
    config.hook.pytest_deselected(items=rest)
