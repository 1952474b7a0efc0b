"""How fast a log is simulated: rows of impressions, with their events, outcomes, ads and truth.

    python -m tests.bench.bench_simulate_log --rows 10000000

Prints one JSON line. The log is written to a temporary folder and deleted: about 165 bytes a row.
Goal: 10 million impressions in under 600 seconds on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import date
from pathlib import Path

from jobs import simulate_log
from jobs.memory import PeakMemory
from jobs.simulation import World

NUM_DAYS = 20


def measure(rows: int, folder: Path) -> dict[str, float]:
    """Write a log of so many impressions over twenty days, at ten impressions per user and day."""
    per_day = rows // NUM_DAYS
    world = World(
        world_start=date(2026, 1, 1),
        num_users=max(100, per_day // 10),
        num_ads=max(100, per_day // 100),
        num_impressions=per_day,
        num_domains=3,
        change_day=16,
    )
    load, started = os.getloadavg()[0], time.process_time()
    with PeakMemory() as memory:
        summary = simulate_log.run(world, folder, world.world_start, NUM_DAYS)
    written = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    return {
        "rows": summary.rows["impressions"],
        "organic_events": summary.rows["events"],
        "seconds": summary.seconds,
        "cpu_seconds": round(time.process_time() - started, 2),
        "rows_per_second": round(summary.rows["impressions"] / summary.seconds),
        "peak_memory_bytes": memory.num_bytes,
        "written_bytes": written,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": load,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="impressions; 1000000")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options.rows, Path(folder))))


if __name__ == "__main__":
    main()
