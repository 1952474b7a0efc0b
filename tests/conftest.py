"""Shared test settings. Every shape annotation of `model` is checked while tests run."""

import os
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Files run side by side, a core each. Threads that share every operation wait for each other at its
# end: for one whose core other tests keep busy, many times as long as the operation takes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if find_spec("beartype"):  # A GPU machine need not have it.
    from tests import typechecker

    install_import_hook("model", f"{typechecker.__name__}.{typechecker.check_types.__name__}")

_left_out = Counter[str]()

if not hasattr(sys.modules["__main__"], "__file__"):
    # A worker of pytest-xdist has no main file, which PySpark takes for a run of its doctests, and
    # then ends the process.
    sys.modules["__main__"].__file__ = str(Path(pytest.__file__).with_name("__main__.py"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the whole retrains: with tests side by side, the longest must not start last."""
    items.sort(key=lambda item: "pipeline" not in item.path.parts)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count the tests that the marker expression leaves out."""
    for item in items:
        _left_out.update({mark.name for mark in item.iter_markers()})


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells what it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """Take over what a worker left out: each of them the same."""
    _left_out.update(node.workeroutput["left_out"] if not _left_out else {})


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was left out, and why: the marker's description."""
    for marker in config.getini("markers"):
        name = marker.partition(":")[0]
        if name in ("slow", "gpu") and _left_out[name]:
            terminalreporter.write_line(f"left out: {_left_out[name]} {marker}")
