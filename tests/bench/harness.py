"""Paired timings: arms that do the same, one after the other, again and again, in one process.

Rules of every bench here. What the arms made is compared before anything is timed. Arms run
interleaved, so that other load meets all of them; a figure is the median of the ratios within each
round, with a 95 % bootstrap interval, and never a bare time. CPU seconds of all processes stand
beside wall time. Memory is sampled in a round of its own, for sampling costs time. A result is one
line of JSON with what it was measured on; no test asserts a time.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import psutil

from jobs.memory import PeakMemory
from tests.bench.ratios import ratio

LIBRARIES = ("pyspark", "duckdb", "pyarrow", "numpy", "deltalake")


@dataclass(frozen=True)
class Timing:
    """What one run took."""

    wall_seconds: float
    cpu_seconds: float
    """Of this process and everything that it started."""


def timed(run: Callable[[], Any]) -> Timing:
    """Run once, with the clock and the processors' time beside it."""
    cpu, start = _cpu_seconds(), time.perf_counter()
    run()
    return Timing(time.perf_counter() - start, _cpu_seconds() - cpu)


def rounds(arms: Mapping[str, Callable[[], Any]], num_rounds: int) -> dict[str, list[Timing]]:
    """Run every arm once per round, in the same order."""
    found: dict[str, list[Timing]] = {name: [] for name in arms}
    for _ in range(num_rounds):
        for name, run in arms.items():
            found[name].append(timed(run))
    return found


def rounds_elsewhere(
    arms: Mapping[str, Callable[[], tuple[Any, float]]], num_rounds: int
) -> dict[str, list[Timing]]:
    """As `rounds`, of arms that say how many CPU seconds processes took that are not this one's.

    Its own children are left out: those of an earlier round may end in the next one.
    """
    found: dict[str, list[Timing]] = {name: [] for name in arms}
    for _ in range(num_rounds):
        for name, run in arms.items():
            started, busy = time.perf_counter(), time.process_time()
            _, elsewhere = run()
            cpu = time.process_time() - busy + elsewhere
            found[name].append(Timing(time.perf_counter() - started, cpu))
    return found


def compared(timings: Mapping[str, Sequence[Timing]], ours: str, theirs: str) -> dict[str, Any]:
    """Wall and CPU ratio of two arms, with the medians and every sample behind them."""
    ratios = {
        unit: asdict(ratio(*([getattr(t, unit) for t in timings[name]] for name in (ours, theirs))))
        for unit in ("wall_seconds", "cpu_seconds")
    }
    return {"ours": ours, "theirs": theirs, "num_rounds": len(timings[ours]), "ratio": ratios}


def samples(timings: Mapping[str, Sequence[Timing]]) -> dict[str, Any]:
    """Medians and every sample by arm, in seconds."""
    found = {}
    for name, runs in timings.items():
        wall, cpu = [t.wall_seconds for t in runs], [t.cpu_seconds for t in runs]
        found[name] = {
            "median_wall_seconds": round(statistics.median(wall), 3),
            "median_cpu_seconds": round(statistics.median(cpu), 3),
            "wall_seconds": [round(x, 3) for x in wall],
            "cpu_seconds": [round(x, 3) for x in cpu],
        }
    return found


def peak_bytes(run: Callable[[], Any]) -> int:
    """Peak memory of this process and all that it started, shared pages counted once."""
    memory = PeakMemory()
    with memory:
        run()
    return memory.num_bytes


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of the line through log seconds over log size: 1 where time grows with size."""
    return round(float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]), 3)


def require_equal(digests: Mapping[str, str]) -> None:
    """Refuse to time arms that did not make the same rows."""
    if len(set(digests.values())) != 1:
        raise ValueError(f"arms that differ are not compared; found digests {dict(digests)}")


def report(bench: str, **figures: Any) -> None:
    """Print one result as one line, with what it was measured on."""
    line = {
        "bench": bench,
        **figures,
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "load_average": [round(x, 2) for x in os.getloadavg()],
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
    }
    print(json.dumps(line), flush=True)


def _cpu_seconds() -> float:
    process = psutil.Process()
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            # Those of children that have ended are their parent's.
            total += sum(each.cpu_times()[:4])
    return total
