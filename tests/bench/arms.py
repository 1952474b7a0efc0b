"""Alternating arms: two ways of doing the same, timed in turn, compared pair by pair."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

_RESAMPLES = 2000


def compare(
    name: str, arms: dict[str, Callable[[int], object]], pairs: int, limit: float
) -> dict[str, object]:
    """Time two arms alternately and print one JSON line.

    Args:
        name: What is compared.
        arms: Two calls by name; each is given the number of the pair.
        pairs: How often; the order within a pair alternates.
        limit: What the median ratio of the second arm's time to the first's is held against.

    Returns:
        What was printed: the median of the ratios with its bootstrap 95 % interval, seconds and
        CPU-seconds of the process tree, load and versions.
    """
    names = list(arms)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    load = os.getloadavg()[0]
    for pair in range(pairs):
        for arm in names if pair % 2 == 0 else names[::-1]:
            before, started = _cpu_seconds(), time.perf_counter()
            arms[arm](pair)
            wall[arm].append(time.perf_counter() - started)
            cpu[arm].append(_cpu_seconds() - before)
    result: dict[str, object] = {"bench": name, "pairs": pairs, "limit": limit}
    for kind, seconds in (("wall", wall), ("cpu", cpu)):
        ratios = np.array(seconds[names[1]]) / np.array(seconds[names[0]])
        low, high = _interval(ratios)
        result[f"{kind}_ratio"] = round(float(np.median(ratios)), 3)
        result[f"{kind}_ratio_95"] = [round(low, 3), round(high, 3)]
        for arm in names:
            result[f"{arm}_{kind}_seconds"] = round(float(np.median(seconds[arm])), 4)
    result |= {
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("pyspark", "deltalake", "pyarrow")},
    }
    print(json.dumps(result), flush=True)
    return result


def _interval(ratios: np.ndarray) -> tuple[float, float]:
    draws = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(low), float(high)


def _cpu_seconds() -> float:
    """CPU-seconds of this process and everything it started, the JVM among them."""
    import psutil

    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
    return total
