"""Every bench can be started: what it imports is still there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHES = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))


@pytest.mark.parametrize("name", BENCHES)
def test_a_bench_imports_and_can_be_started(name):
    assert callable(importlib.import_module(f"tests.bench.{name}").main)
