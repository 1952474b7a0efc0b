"""What a commit costs over the files alone, and what compaction saves a reader.

    python -m tests.bench.bench_tables

Prints a JSON line per comparison. The rows are made here: users, times and numbers as an examples
table has them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import delta
from jobs.config import Resources
from jobs.spark.compaction import compact_day
from jobs.spark.session import spark_session
from jobs.spark.tables import digest_by_day, read_table
from tests.bench.harness import compared, report, rounds, samples

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

COMMIT = {"run_id": "bench", "config_hash": "c", "code_hash": "k", "inputs": {}}
DAYS = [date(2024, 3, day) for day in range(1, 31)]


def rows_of(num_rows: int, day: date, seed: int) -> pa.Table:
    """Rows as an examples table has them, without the column `day`."""
    random = np.random.default_rng(seed)
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1e6)
    times = np.sort(start + random.integers(0, 86_400_000_000, num_rows))
    users = random.integers(0, max(2, num_rows // 20), num_rows)
    return pa.table(
        {
            "impression_id": [f"{day:%m%d}{n:09d}" for n in range(num_rows)],
            "user_id": np.char.add("u", users.astype(str)),
            "event_ts": pa.array(times, pa.timestamp("us", "UTC")),
            **{f"count_{n}": random.poisson(3, num_rows) for n in range(40)},
            "label": random.integers(0, 2, num_rows).astype(np.int8),
        }
    )


def compare(
    bench: str, arms: dict[str, Callable[[int], object]], num_rounds: int, goal: float
) -> None:
    """Time the second arm against the first; each call is given a number of its own."""
    numbers = count()
    runs = {name: partial(_numbered, run, numbers) for name, run in arms.items()}
    timings = rounds(runs, num_rounds)
    theirs, ours = arms
    report(bench, goal=goal, **compared(timings, ours, theirs), samples=samples(timings))


def _numbered(run: Callable[[int], object], numbers: Iterator[int]) -> None:
    run(next(numbers))


def commit_costs(folder: Path, rows: pa.Table, pairs: int) -> None:
    """A day replaced in a table of 30 days, against its file alone."""
    uri = str(folder / "commits")
    small = rows.slice(0, 100)
    for day in DAYS:
        delta.write_arrow_day(uri, small, day, ["impression_id"], COMMIT)

    def changed(pair: int) -> pa.Table:
        at = rows.schema.get_field_index("label")
        return rows.set_column(at, "label", pa.array(np.full(rows.num_rows, pair, np.int8)))

    def plain(pair: int) -> None:
        values = changed(pair).sort_by([("impression_id", "ascending")])
        pq.write_table(values, folder / f"{pair}.parquet", compression="zstd")

    def commit(pair: int) -> None:
        run = {**COMMIT, "run_id": f"bench-{pair}"}
        delta.write_arrow_day(uri, changed(pair), DAYS[-1], ["impression_id"], run)

    def commit_alone(pair: int) -> None:
        path = f"data/run=alone-{pair}/day={DAYS[0]}/x.parquet"
        target = Path(uri) / path
        target.parent.mkdir(parents=True)
        values = changed(pair).sort_by([("impression_id", "ascending")])
        pq.write_table(values, target, compression="zstd")
        record = delta.PartitionCommit(
            day=DAYS[0].isoformat(), digest="", rows=values.num_rows, files=[path], **COMMIT
        )
        table = delta.open_table(uri)
        held = delta.paths_by_day(table)[DAYS[0].isoformat()]
        schema = values.schema.append(pa.field("day", pa.date32()))
        delta.replace_day(uri, schema, record, held, table)

    plain(-1), commit(-1), commit_alone(-1)
    compare("delta_commit_over_parquet", {"parquet": plain, "delta": commit_alone}, pairs, 1.3)
    # With the digest, by which a day that holds these rows already is left alone.
    compare("write_arrow_day_over_parquet", {"parquet": plain, "delta": commit}, pairs, 1.3)


def late_overwrite(folder: Path, rows: pa.Table) -> None:
    """A late day overwritten: the files of the others are the same files."""
    uri = str(folder / "late")
    for day in DAYS:
        delta.write_arrow_day(uri, rows.slice(0, 1000), day, ["impression_id"], COMMIT)
    late, others = DAYS[10], DAYS[:10] + DAYS[11:]

    def identity() -> dict[str, tuple[int, int]]:
        table = delta.open_table(uri)
        assert table is not None
        return {
            path: (Path(path).stat().st_ino, Path(path).stat().st_mtime_ns)
            for path in delta.day_files(table, others)
        }

    before = identity()
    delta.write_arrow_day(uri, rows.slice(1000, 1000), late, ["impression_id"], COMMIT)
    same = identity() == before
    report("late_overwrite", untouched_files=len(before), identical=same)
    assert same


def fragmented_day(spark: SparkSession, uri: str, rows: pa.Table, day: date) -> None:
    """A day in 20 files."""
    paths = []
    for n in range(20):
        path = f"data/run=small/day={day}/{n}.parquet"
        (Path(uri) / path).parent.mkdir(parents=True, exist_ok=True)
        part = rows.take(pa.array(np.arange(n, rows.num_rows, 20)))
        pq.write_table(part, Path(uri) / path, compression="zstd")
        paths.append(path)
    num_rows, digest = digest_by_day(spark, uri, {day: paths})[day]
    record = delta.PartitionCommit(
        day=day.isoformat(), digest=digest, rows=num_rows, files=paths, **COMMIT
    )
    delta.replace_day(uri, rows.schema.append(pa.field("day", pa.date32())), record, [])


def compaction_saves(folder: Path, num_rows: int, pairs: int, resources: Resources) -> None:
    """A training scan of a table of 60 files, against the same day by day in one file each."""
    with spark_session(resources, str(folder / "spark"), "bench") as spark:
        uri = str(folder / "scan")
        for day in DAYS[:3]:
            fragmented_day(spark, uri, rows_of(num_rows, day, day.day), day)
        compacted = str(shutil.copytree(uri, folder / "compacted"))
        for commit in delta.live_commits(delta.open_table(compacted)).values():
            compact_day(spark, compacted, commit, 1, "maintenance")
        sizes = {
            name: sum(map(len, delta.paths_by_day(delta.open_table(place)).values()))
            for name, place in (("before", uri), ("after", compacted))
        }
        report("compaction", files=sizes, rows=3 * num_rows)

        def scan(place: str, _: int) -> None:
            assert delta.read_days(place).num_rows == 3 * num_rows

        def spark_scan(place: str, _: int) -> None:
            read_table(spark, place).write.format("noop").mode("overwrite").save()

        for name, read in (("arrow", scan), ("spark", spark_scan)):
            for place in (uri, compacted):
                read(place, -1)
            arms = {
                "compacted": lambda pair, read=read: read(compacted, pair),
                "fragmented": lambda pair, read=read: read(uri, pair),
            }
            compare(f"scan_60_files_over_compacted_{name}", arms, pairs, 2.0)


def main() -> None:
    """Run the benches."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the day committed")
    parser.add_argument("--scanned", type=int, default=6_000, help="rows a day of the table read")
    parser.add_argument("--pairs", type=int, default=12, help="pairs of timings")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lapidary-bench-"))
    try:
        rows = rows_of(options.rows, DAYS[-1], 0)
        late_overwrite(folder, rows)
        commit_costs(folder, rows, options.pairs)
        compaction_saves(folder, options.scanned, options.pairs, Resources())
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
