"""Delta tables read and written by Spark: native Parquet, committed day by day through delta-rs."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs import delta
from jobs.digests import RowSums, file_sums
from jobs.errors import ConfigError
from jobs.spark.scans import shuffle_partitions

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType


@dataclass(frozen=True)
class TableWrite:
    """What a write changed."""

    version: int | None
    """Version of the table afterwards."""
    rows: dict[date, int]
    """Rows by day that was written, changed or not."""
    changed: list[date]
    """Days whose rows differ from before."""
    digests: dict[date, str]


def read_table(
    spark: SparkSession,
    uri: str,
    days: Sequence[date] | None = None,
    version: int | None = None,
) -> DataFrame:
    """Read days of a table at a pinned version.

    Args:
        spark: Session.
        uri: Table.
        days: Days to read; all if None. Days that the table lacks yield no rows.
        version: Version; the newest if None.

    Raises:
        ConfigError: No such table.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    table = delta.open_table(uri, version)
    if table is None:
        raise ConfigError(f"no Delta table at {uri}; run the job that writes it first")
    schema = from_arrow_schema(pa.schema(table.schema()), prefer_timestamp_ntz=False)
    files = delta.day_files(table, days)
    if not files:
        return spark.createDataFrame([], schema)
    return (
        spark.read.schema(schema)
        .option("basePath", f"{uri}/data")
        .parquet(*files)
        .select(*schema.fieldNames())
    )


def write_days(
    df: DataFrame,
    uri: str,
    *,
    days: Sequence[date],
    order: Sequence[str],
    commit: dict[str, Any],
    files_per_day: int = 1,
    expected: Mapping[str | None, Collection[str]] | None = None,
    made_from: Mapping[date, dict[str, int | None]] | None = None,
) -> TableWrite:
    """Replace days of a table, each in one commit; days that already hold these rows are left.

    A day without rows is never replaced. A write that fails leaves the table as it was; files that
    no commit names fall to vacuum.

    Args:
        df: Rows with a column `day`; those outside `days` are an error of ours.
        uri: Table; made if absent.
        days: Days that may be replaced.
        order: Columns by which rows are sorted within a file.
        commit: `run_id`, `config_hash`, `code_hash` and `inputs` of `PartitionCommit`.
        files_per_day: Files that a day's rows are spread over, by hash of the first of `order`.
        expected: The files by day as they were before the first of the inputs was read; as they
            are now if left out. With them, rows made from older inputs never replace newer ones.
        made_from: Of days that were made from other versions than `commit` says: their `inputs`.

    Returns:
        Rows and digest of every day, and which of them changed.

    Raises:
        StaleSnapshot: Another writer replaced one of the days meanwhile.
    """
    from pyspark.sql import functions as F

    before = delta.open_table(uri)
    folder = delta.write_folder(uri, commit["run_id"])
    keys = (
        [F.col("day")]
        if files_per_day == 1
        else [F.col("day"), F.pmod(F.xxhash64(order[0]), F.lit(files_per_day))]
    )
    (
        df.repartition(*keys)
        .sortWithinPartitions("day", *order)
        .write.mode("append")
        .partitionBy("day")
        .option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
        .parquet(str(folder))
    )
    files = files_by_day(folder, Path(uri))
    return replace_days(
        df.sparkSession, uri, df.schema, folder, files, days, commit, before, expected, made_from
    )


def replace_days(
    spark: SparkSession,
    uri: str,
    schema: StructType,
    folder: Path,
    files: Mapping[date, list[str]],
    days: Sequence[date],
    commit: dict[str, Any],
    before: DeltaTable | None,
    expected: Mapping[str | None, Collection[str]] | None,
    made_from: Mapping[date, dict[str, int | None]] | None = None,
) -> TableWrite:
    """Make files the content of their days, each in one commit, where their rows are new.

    Args:
        spark: Session.
        uri: Table; made if absent.
        schema: Columns of the table, `day` included.
        folder: Where the files lie.
        files: Their paths by day, relative to the table.
        days: Days that may be replaced.
        commit: As `write_days` takes it.
        before: The table before the files were written.
        expected: As `write_days` takes it.
        made_from: As `write_days` takes it.
    """
    from pyspark.sql.pandas.types import to_arrow_schema

    assert set(files) <= set(days), (
        f"{uri}: rows of {sorted(set(files) - set(days))} outside {days}"
    )
    if expected is None:
        expected = delta.paths_by_day(before)
    digests = digest_by_day(spark, uri, files) if files else {}
    columns = to_arrow_schema(schema, timezone="UTC")
    held = delta.live_commits(before)
    changed: list[date] = []
    for day in sorted(files):
        rows, digest = digests[day]
        if day in held and delta.holds(uri, held[day], digest):
            shutil.rmtree(folder / f"day={day.isoformat()}")
            continue
        own = {**commit, "inputs": (made_from or {}).get(day, commit["inputs"])}
        record = delta.PartitionCommit(
            day=day.isoformat(), digest=digest, rows=rows, files=files[day], **own
        )
        delta.replace_day(uri, columns, record, expected.get(day.isoformat(), ()), before)
        changed.append(day)
    if not changed:
        shutil.rmtree(folder)
    return TableWrite(
        version=delta.latest_version(uri),
        rows={day: digests[day][0] for day in sorted(files)},
        changed=changed,
        digests={day: digests[day][1] for day in sorted(files)},
    )


def digest_by_day(
    spark: SparkSession, uri: str, files: Mapping[date, Sequence[str]]
) -> dict[date, tuple[int, str]]:
    """(rows, digest) of days, by `jobs.digests`.

    Args:
        spark: Session.
        uri: Table.
        files: The days' files, relative to the table.
    """
    of = [(day, f"{uri}/{path}") for day, paths in sorted(files.items()) for path in paths]
    parts = min(len(of), shuffle_partitions(spark))

    def add(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        numbers = [number for batch in batches for number in batch.column("id").to_pylist()]
        found = [(day, file_sums(path)) for n in numbers for day, path in of[n::parts]]
        columns = [
            pa.array([day for day, _ in found], pa.date32()),
            *[pa.array([str(s[i]) for _, s in found], pa.string()) for i in range(3)],
        ]
        yield pa.RecordBatch.from_arrays(columns, names=["day", "rows", "low", "high"])

    tasks = spark.range(0, parts, 1, parts)
    schema = "day date, rows string, low string, high string"
    sums: dict[date, RowSums] = {}
    for day, *told in tasks.mapInArrow(add, schema).collect():
        sums[day] = sums.get(day, RowSums()) + RowSums(*map(int, told))
    return {day: (found.rows, found.digest) for day, found in sums.items()}


def files_by_day(path: Path, root: Path) -> dict[date, list[str]]:
    """Files that a write left in its folder, relative to the table."""
    found: dict[date, list[str]] = {}
    for file in sorted(path.glob("day=*/*.parquet")):
        day = date.fromisoformat(file.parent.name.removeprefix("day="))
        found.setdefault(day, []).append(str(file.relative_to(root)))
    return found
