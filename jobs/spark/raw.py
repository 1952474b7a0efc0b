"""Raw feeds read as their contract says, with one clear error where they differ from it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.contract import Column as ColumnSource
from jobs.contract import Feed
from jobs.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

SOURCE_FILE = "_source_file"
FOLDER_DAY = "_folder_day"
BAD_COLUMN = "_bad_column"
_INTEGERS = ("tinyint", "smallint", "int", "bigint")
_FLOATS = ("float", "double")


def read_feed(
    spark: SparkSession, name: str, feed: Feed, log_uri: str, days: Sequence[date]
) -> DataFrame | None:
    """Read a feed's raw rows.

    Args:
        spark: Session.
        name: The feed's name, for errors.
        feed: Its contract.
        log_uri: Folder of the raw log.
        days: Arrival days to read, where the feed keeps a folder or file per day.

    Returns:
        Raw columns plus the source file, the day of the folder (null in a one-file feed) and the
        first column whose text did not fit its declared type; None where nothing is there to read.

    Raises:
        ConfigError: A one-file feed is missing, or a declared column is missing or of another type.
    """
    from pyspark.sql import functions as F

    paths = _paths(name, feed, log_uri, days)
    if not paths:
        return None
    reader = spark.read.options(**feed.options)
    if feed.format == "csv":
        raw = reader.option("header", "true").option("inferSchema", "false").csv(paths)
    elif feed.format == "jsonl":
        raw = reader.option("primitivesAsString", "true").json(paths)
    elif feed.format == "delta":
        from jobs.spark.tables import read_table

        raw = read_table(spark, paths[0])
    else:
        raw = reader.option("recursiveFileLookup", "true").parquet(*paths)
    if not raw.columns:
        return None
    _check_columns(name, feed, raw)
    source = F.lit(paths[0]) if feed.format == "delta" else F.col("_metadata.file_path")
    raw = raw.withColumn(SOURCE_FILE, source)
    raw = raw.withColumn(FOLDER_DAY, _folder_day(feed))
    return _cast(feed, raw)


def column(source: ColumnSource) -> Column:
    """A canonical column that is no time."""
    from pyspark.sql import functions as F

    return F.expr(source.sql)


def time_column(source: ColumnSource) -> Column:
    """A canonical time; null where the raw value cannot be read."""
    from pyspark.sql import functions as F

    raw = F.expr(source.sql)
    return {
        "s": lambda: F.timestamp_micros((raw * F.lit(1_000_000)).cast("bigint")),
        "ms": lambda: F.timestamp_millis(raw.cast("bigint")),
        "us": lambda: F.timestamp_micros(raw.cast("bigint")),
        "timestamp": lambda: raw.cast("timestamp"),
        "text": lambda: F.try_to_timestamp(raw.cast("string")),
    }[source.unit]()


def local_day(moment: Column, time_zone: str) -> Column:
    """The day in which an instant lies in a time zone."""
    from pyspark.sql import functions as F

    return F.to_date(F.from_utc_timestamp(moment, time_zone))


def _paths(name: str, feed: Feed, log_uri: str, days: Sequence[date]) -> list[str]:
    from pyarrow import fs

    def exists(path: str) -> bool:
        system, inner = fs.FileSystem.from_uri(path if "://" in path else str(Path(path).resolve()))
        return system.get_file_info(inner).type != fs.FileType.NotFound

    if "{day}" in feed.path:
        paths = [f"{log_uri}/{feed.path.format(day=day.isoformat())}" for day in days]
        return [path for path in paths if exists(path)]
    path = f"{log_uri}/{feed.path}"
    if not exists(path):
        raise ConfigError(f"feeds.{name}.path: no file {path}; put the log there or mend the path")
    return [path]


def _folder_day(feed: Feed) -> Column:
    from pyspark.sql import functions as F

    if "{day}" not in feed.path:
        return F.lit(None).cast("date")
    before = feed.path.split("{day}")[0]
    pattern = re.escape(before) + r"(\d{4}-\d{2}-\d{2})"
    return F.to_date(F.regexp_extract(F.url_decode(F.col(SOURCE_FILE)), pattern, 1))


def _check_columns(name: str, feed: Feed, raw: DataFrame) -> None:
    found = dict(raw.dtypes)
    problems: list[str] = []
    for wanted, kind in feed.columns.items():
        if wanted not in found:
            near = difflib.get_close_matches(wanted, found, n=1)
            hint = f"the nearest is {near[0]!r}" if near else f"it has {sorted(found)}"
            problems.append(f"column {wanted!r} is missing from the file ({hint})")
        elif feed.format in ("parquet", "delta") and not _fits(found[wanted], kind):
            problems.append(
                f"column {wanted!r} is {found[wanted]} in the file, {kind} in the contract"
            )
    if problems:
        raise ConfigError(
            f"feeds.{name}.columns: {'; '.join(problems)}; mend the contract or the log"
        )


def _fits(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    if wanted.startswith("array<") and found.startswith("array<"):
        return _fits(found[6:-1], wanted[6:-1])
    if wanted in _INTEGERS:
        return found in _INTEGERS
    return wanted in _FLOATS and found in _FLOATS + _INTEGERS


def _cast(feed: Feed, raw: DataFrame) -> DataFrame:
    """Text columns as their declared types; a value that does not fit is named, not lost."""
    from pyspark.sql import functions as F

    if feed.format not in ("csv", "jsonl"):
        return raw.withColumn(BAD_COLUMN, F.lit(None).cast("string"))
    typed = {name: F.expr(f"try_cast(`{name}` AS {kind})") for name, kind in feed.columns.items()}
    bad = [
        F.when(F.col(name).isNotNull() & value.isNull(), F.lit(name))
        for name, value in typed.items()
    ]
    first_bad = F.coalesce(*bad) if bad else F.lit(None).cast("string")
    return raw.withColumn(BAD_COLUMN, first_bad).withColumns(typed)
