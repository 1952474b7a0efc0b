"""Shared test settings."""

from collections import Counter

import pytest

_left_out = Counter[str]()


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count the tests that the marker expression leaves out."""
    for item in items:
        _left_out.update({mark.name for mark in item.iter_markers()})


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was left out, and why: the marker's description."""
    for marker in config.getini("markers"):
        name = marker.partition(":")[0]
        if name in ("slow", "gpu") and _left_out[name]:
            terminalreporter.write_line(f"left out: {_left_out[name]} {marker}")
