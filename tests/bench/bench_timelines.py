"""Histories three ways, Parquet to Parquet: our Spark path, an as-of query in DuckDB, bare NumPy.

Each arm reads a skewed event log (Delta, a partition per arrival day), writes the timelines of the
last days and the `history_end` of every impression shown on them. The rows are equal, or nothing
is timed.
Prints one line of JSON per result: Spark against each of the others, growth with size, peak
memory, and the bytes of a day's timelines against those of its events.

    python -m tests.bench.bench_timelines --events 2000000 --rounds 10
    python -m tests.bench.bench_timelines --sizes 1000000,2000000,4000000,8000000
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import dataset
from pyspark.sql import SparkSession

from jobs.config import Resources
from jobs.digests import rows_digest
from jobs.spark.histories import Cut
from jobs.spark.session import spark_session
from tests.bench import harness
from tests.bench.event_log import EventLog
from tests.bench.timeline_arms import Histories, duckdb_arm, numpy_arm, spark_arm
from tests.bench.timeline_bytes import stored_ratio

_GOALS = {"duckdb": 1.0, "numpy": 4.0}
_SPARK_MEMORY = "3g"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--impressions", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--skew", type=float, default=1.0, help="power of rank in users' shares")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--history", type=int, default=100, help="N")
    parser.add_argument("--lookback-days", type=int, default=20)
    parser.add_argument("--partitions", type=int, default=4, help="of the shuffle")
    parser.add_argument("--sizes", help="events, by comma: time against size, in place of arms")
    options = parser.parse_args()
    log = EventLog(options.events, options.impressions, options.users, skew=options.skew)
    cut = Cut(options.history, options.lookback_days)
    resources = Resources(
        spark_driver_memory=_SPARK_MEMORY, spark_shuffle_partitions=options.partitions
    )
    with (
        tempfile.TemporaryDirectory() as home,
        spark_session(resources, home, "bench_timelines") as spark,
    ):
        if options.sizes:
            sizes = [int(size) for size in options.sizes.split(",")]
            _growth(spark, Path(home), log, sizes, cut, options.rounds)
        else:
            _arms(spark, Path(home), log, cut, options.rounds)


def _arms(spark: SparkSession, home: Path, log: EventLog, cut: Cut, num_rounds: int) -> None:
    work = _histories(home, log, cut)
    arms: dict[str, Callable[[], Any]] = {
        "spark": lambda: spark_arm(spark, work),
        "duckdb": lambda: duckdb_arm(work),
        "numpy": lambda: numpy_arm(work),
    }
    first = {name: harness.timed(run) for name, run in arms.items()}
    harness.require_equal({name: _digest(work, name) for name in arms})
    facts = {"log": asdict(log), "cut": asdict(cut)}
    timings = harness.rounds(arms, num_rounds)
    harness.report(
        "timelines.times",
        **facts,
        first_run_wall_seconds={name: round(t.wall_seconds, 2) for name, t in first.items()},
        arms=harness.samples(timings),
    )
    for other, goal in _GOALS.items():
        harness.report("timelines.ratio", goal=goal, **harness.compared(timings, "spark", other))
    peak = harness.peak_bytes(arms["spark"])
    harness.report("timelines.memory", goal_gib=6, peak_gib=round(peak / 2**30, 2))
    stored = _rows(work.out / "spark_timelines")
    harness.report("timelines.bytes", goal=1.2, **stored_ratio(stored, log.days[-1]))


def _growth(
    spark: SparkSession, home: Path, log: EventLog, sizes: list[int], cut: Cut, num_rounds: int
) -> None:
    """Users and impressions grow with the events, as they do where a log grows."""
    works = {}
    for size in sizes:
        scale = size / log.num_events
        grown = replace(
            log,
            num_events=size,
            num_impressions=round(log.num_impressions * scale),
            num_users=round(log.num_users * scale),
        )
        works[size] = _histories(home / str(size), grown, cut)
    arms = {str(n): lambda work=work: spark_arm(spark, work) for n, work in works.items()}
    for run in arms.values():
        run()
    timings = harness.rounds(arms, num_rounds)
    slopes = {
        unit: [
            harness.slope(sizes, [getattr(timings[str(n)][i], unit) for n in sizes])
            for i in range(num_rounds)
        ]
        for unit in ("wall_seconds", "cpu_seconds")
    }
    peak = harness.peak_bytes(arms[str(max(sizes))])
    harness.report(
        "timelines.growth",
        goal=1.1,
        sizes=sizes,
        slopes=slopes,
        peak_gib=round(peak / 2**30, 2),
        arms=harness.samples(timings),
    )


def _histories(home: Path, log: EventLog, cut: Cut) -> Histories:
    events, impressions = log.write(home / "log")
    out = home / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return Histories(events, impressions, tuple(log.days), cut, out)


def _digest(work: Histories, arm: str) -> str:
    parts = []
    for name in ("timelines", "ends"):
        rows = _rows(work.out / f"{arm}_{name}")
        if name == "ends":
            # Our files lie by day; the others have the impressions' ids alone.
            rows = rows.select(["impression_id", "history_end"])
        parts += [*sorted(rows.column_names), rows_digest(rows)]
    return "-".join(parts)


def _rows(path: Path) -> pa.Table:
    days = dataset.partitioning(pa.schema([("day", pa.date32())]), flavor="hive")
    return dataset.dataset(path, partitioning=days).to_table()


if __name__ == "__main__":
    main()
