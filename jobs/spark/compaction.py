"""Small files of a day made into few, sorted by hashed user, in a commit that changes no row."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import delta
from jobs.spark.tables import digest_by_day, files_by_day

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_CLUSTERED_BY = ("user_id", "entity_id", "key", "impression_id")
_THEN_BY = ("entity", "event_ts", "known_ts", "impression_id", "event_id", "outcome_id")


def compact_day(
    spark: SparkSession, uri: str, commit: delta.PartitionCommit, num_files: int, name: str
) -> int:
    """Write a day's rows into fewer files and commit them under the day's own record.

    Args:
        spark: Session.
        uri: Table.
        commit: The day as it is; the digest of its files is held against that of those written.
        num_files: Files to write, each with the users of one hash.
        name: What to call the folder of the new files.

    Returns:
        The table's new version.

    Raises:
        StaleSnapshot: Another writer replaced the day meanwhile; nothing was changed.
    """
    from pyspark.sql.pandas.types import to_arrow_schema

    day, held = date.fromisoformat(commit.day), commit.files
    rows = day_rows(spark, uri, commit.files)
    folder = delta.write_folder(uri, name)
    try:
        (
            clustered(rows, num_files)
            .write.mode("append")
            .partitionBy("day")
            .option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
            .parquet(str(folder))
        )
        files = files_by_day(folder, Path(uri))[day]
        # Not what is recorded, which older code may have digested in another way.
        before, found = (digest_by_day(spark, uri, {day: each})[day] for each in (held, files))
        assert found == before and found[0] == commit.rows, (
            f"{uri}: {commit.day} is recorded with {commit.rows} rows and has (rows, digest) "
            f"{before}; rewritten it has {found}"
        )
        schema = to_arrow_schema(rows.schema, timezone="UTC")
        compacted = replace(commit, files=files, digest=found[1])
        return delta.replace_day(uri, schema, compacted, commit.files)
    except delta.StaleSnapshot:
        shutil.rmtree(folder)
        raise


def day_rows(spark: SparkSession, uri: str, files: list[str]) -> DataFrame:
    """Rows of a day's files with the columns that they were written with.

    A table that has grown a column since reads it as null; the day's digest knows nothing of it.
    """
    paths = [f"{uri}/{path}" for path in files]
    return spark.read.option("basePath", f"{uri}/data").parquet(*paths).drop("run")


def clustered(rows: DataFrame, num_files: int) -> DataFrame:
    """Rows in as many parts, those of a user together, sorted by the user's hash, then by time."""
    from pyspark.sql import functions as F

    user = next(name for name in _CLUSTERED_BY if name in rows.columns)
    hashed = F.xxhash64(user)
    order = [name for name in _THEN_BY if name in rows.columns and name != user]
    parts = rows.repartition(num_files, F.pmod(hashed, F.lit(num_files)))
    return parts.sortWithinPartitions(hashed, user, *order)
