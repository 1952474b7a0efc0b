"""Raw feeds read as their contract says, with one clear error where they differ from it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.command import log
from jobs.errors import ConfigError
from jobs.feeds import Column as ColumnSource
from jobs.feeds import Feed

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem
    from pyspark.sql import Column, DataFrame, SparkSession

SOURCE_FILE = "_source_file"
FOLDER_DAY = "_folder_day"
BAD_COLUMN = "_bad_column"
BAD_ROW = "_bad_row"
ADDED = (SOURCE_FILE, FOLDER_DAY, BAD_COLUMN, BAD_ROW)
"""Columns that reading adds to the raw ones."""

_INTEGERS = ("tinyint", "smallint", "int", "bigint")
_FLOATS = ("float", "double")
_EARLIEST_MICROS = -62_135_596_800_000_000
_LATEST_MICROS = 253_402_300_799_999_999
"""The years 1 to 9999: outside them, neither Python nor Arrow reads a time."""


@dataclass(frozen=True)
class RawFeed:
    """A feed as it was read."""

    rows: DataFrame
    """Raw columns plus `ADDED`: the source file, the day of the folder (null in a one-file feed),
    the first column whose text did not fit its declared type, and that row's text as JSON."""
    columns: dict[date | None, dict[str, str]]
    """Raw columns with their Spark types, by arrival day; under None in a one-file feed."""
    num_others: int
    """Rows that lie in the same files and are another feed's, left out."""


def read_feed(
    spark: SparkSession, name: str, feed: Feed, log_uri: str, days: Sequence[date]
) -> RawFeed | None:
    """Read a feed's raw rows.

    Days whose files have other columns, or the same ones in another order, are read apart and laid
    together by name; a column that a day lacks is null there.

    Args:
        spark: Session.
        name: The feed's name, for errors.
        feed: Its contract.
        log_uri: Folder of the raw log.
        days: Arrival days to read, where the feed keeps a folder or file per day.

    Returns:
        The rows and their columns; None where nothing is there to read.

    Raises:
        ConfigError: A one-file feed is missing, or a declared column is missing or of another type.
    """
    from pyspark.sql import functions as F

    parts: list[DataFrame] = []
    columns: dict[date | None, dict[str, str]] = {}
    paths = _paths(name, feed, log_uri, days)
    for group in _alike(feed, list(paths)):
        raw = _read(spark, feed, group)
        _check_columns(name, feed, raw, group[0])
        columns.update({paths[path]: dict(raw.dtypes) for path in group})
        parts.append(_with_source(feed, raw, log_uri, group[0]))
    if not parts:
        return None
    if len(parts) > 1:
        log.info("feeds.%s: the columns differ between days", name)
    rows = reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), parts)
    if feed.where is None:
        return RawFeed(rows, columns, 0)
    mine = F.coalesce(F.expr(feed.where), F.lit(False))
    return RawFeed(rows.where(mine), columns, rows.where(~mine).count())


def _read(spark: SparkSession, feed: Feed, paths: list[str]) -> DataFrame:
    """Rows of paths with the same columns."""
    reader = spark.read.options(**feed.options)
    if feed.format == "csv":
        # A file within the folder whose header differs stops the job instead of being misread.
        reader = reader.option("enforceSchema", "false").option("inferSchema", "false")
        return reader.option("header", "true").csv(paths)
    if feed.format == "jsonl":
        return reader.option("primitivesAsString", "true").json(paths)
    if feed.format == "delta":
        from jobs.spark.tables import read_table

        return read_table(spark, paths[0])
    return reader.option("recursiveFileLookup", "true").parquet(*paths)


def _with_source(feed: Feed, raw: DataFrame, log_uri: str, path: str) -> DataFrame:
    """Add what reading knows of a row, and give text its declared type."""
    from pyspark.sql import functions as F

    source = F.lit(path) if feed.format == "delta" else F.col("_metadata.file_path")
    raw = raw.withColumn(SOURCE_FILE, source)
    raw = raw.withColumn(FOLDER_DAY, _folder_day(feed, log_uri))
    return _cast(feed, raw)


def column(source: ColumnSource) -> Column:
    """A canonical column that is no time; a value that the contract does not list stays."""
    from pyspark.sql import functions as F

    raw = F.expr(source.sql)
    if not isinstance(source.values, dict):
        return raw
    pairs = [F.lit(text) for pair in source.values.items() for text in pair]
    text = raw.cast("string")
    return F.coalesce(F.try_element_at(F.create_map(*pairs), text), text)


def time_column(source: ColumnSource) -> Column:
    """A canonical time; null where the raw value cannot be read or no calendar has it."""
    from pyspark.sql import functions as F

    raw = F.expr(source.sql)
    micros = {
        # Decimal, so that neither a float's last digit nor text with a fraction is lost.
        "s": lambda: (raw.try_cast("decimal(26,6)") * F.lit(1_000_000)).try_cast("bigint"),
        "ms": lambda: F.try_multiply(raw.try_cast("bigint"), F.lit(1_000)),
        "us": lambda: raw.try_cast("bigint"),
        "timestamp": lambda: F.unix_micros(raw.try_cast("timestamp")),
        "text": lambda: F.unix_micros(F.try_to_timestamp(raw.cast("string"))),
    }[source.unit]()
    readable = micros.between(F.lit(_EARLIEST_MICROS), F.lit(_LATEST_MICROS))
    return F.timestamp_micros(F.when(readable, micros))


def day_start(day: Column, time_zone: str) -> Column:
    """The instant at which a day starts in a time zone."""
    from pyspark.sql import functions as F

    return F.to_utc_timestamp(day.cast("timestamp"), time_zone)


def local_day(moment: Column, time_zone: str) -> Column:
    """The day in which an instant lies in a time zone."""
    from pyspark.sql import functions as F

    return F.to_date(F.from_utc_timestamp(moment, time_zone))


def _paths(name: str, feed: Feed, log_uri: str, days: Sequence[date]) -> dict[str, date | None]:
    """Paths that are there, each with its arrival day."""
    if "{day}" in feed.path:
        paths = {f"{log_uri}/{feed.path.replace('{day}', day.isoformat())}": day for day in days}
        return {path: day for path, day in paths.items() if exists(path)}
    path = f"{log_uri}/{feed.path}"
    if not exists(path):
        raise ConfigError(f"feeds.{name}.path: no file {path}; put the log there or mend the path")
    return {path: None}


def _file_system(path: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(path if "://" in path else str(Path(path).resolve()))


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    from pyarrow.fs import FileType

    system, inner = _file_system(path)
    return system.get_file_info(inner).type != FileType.NotFound


def _alike(feed: Feed, paths: list[str]) -> list[list[str]]:
    """Paths grouped by the columns of their files; those without any data are left out."""
    if feed.format == "delta":
        return [paths]
    groups: dict[str, list[str]] = {}
    for path in paths:
        columns = _columns(feed, path)
        if columns is not None:
            groups.setdefault(columns, []).append(path)
    return list(groups.values())


def _columns(feed: Feed, path: str) -> str | None:
    """What the first file of a path says of its columns; None where all files are empty."""
    import pyarrow.parquet as pq
    from pyarrow.fs import FileSelector, FileType

    system, inner = _file_system(path)
    info = system.get_file_info(inner)
    found = [info]
    if info.type == FileType.Directory:
        found = system.get_file_info(FileSelector(inner, recursive=True))
    files = sorted(
        f.path
        for f in found
        if f.type == FileType.File and f.size != 0 and not f.base_name.startswith((".", "_"))
    )
    if not files:
        return None
    if feed.format == "parquet":
        with system.open_input_file(files[0]) as file:
            return str(pq.read_schema(file).remove_metadata())
    if feed.format == "csv":
        with system.open_input_stream(files[0], compression="detect") as stream:
            return stream.read(_HEADER_BYTES).split(b"\n", 1)[0].decode(errors="replace").strip()
    return ""  # Every row of JSON names its columns.


_HEADER_BYTES = 1 << 20


def _folder_day(feed: Feed, log_uri: str) -> Column:
    from pyspark.sql import functions as F

    if "{day}" not in feed.path:
        return F.lit(None).cast("date")
    # With the log's own folder before it, for a date in the path of the log is none of ours.
    folder = (Path(log_uri) if "://" in log_uri else Path(log_uri).absolute()).name
    before = f"{folder}/{feed.path.split('{day}')[0]}"
    pattern = re.escape(before) + r"(\d{4}-\d{2}-\d{2})"
    # Paths are percent-encoded, but a plus sign in them is a plus sign.
    path = F.url_decode(F.replace(F.col(SOURCE_FILE), F.lit("+"), F.lit("%2B")))
    return F.to_date(F.regexp_extract(path, pattern, 1))


def _check_columns(name: str, feed: Feed, raw: DataFrame, path: str) -> None:
    found = dict(raw.dtypes)
    problems: list[str] = []
    for wanted, kind in feed.columns.items():
        if wanted not in found:
            near = difflib.get_close_matches(wanted, found, n=1)
            hint = f"the nearest is {near[0]!r}" if near else f"it has {sorted(found)}"
            problems.append(f"column {wanted!r} is missing ({hint})")
        elif feed.format in ("parquet", "delta") and not _fits(found[wanted], kind):
            problems.append(
                f"column {wanted!r} is {found[wanted]} in the file, {kind} in the contract"
            )
    if problems:
        raise ConfigError(
            f"feeds.{name}.columns: {path}: {'; '.join(problems)}; mend the contract or the log"
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

    nothing = F.lit(None).cast("string")
    if feed.format not in ("csv", "jsonl"):
        return raw.withColumns({BAD_COLUMN: nothing, BAD_ROW: nothing})
    typed = {name: F.expr(f"try_cast(`{name}` AS {kind})") for name, kind in feed.columns.items()}
    lists = {name for name, kind in raw.dtypes if kind.startswith("array")}
    bad = [
        F.when(_gaps(value, name in lists) > _gaps(F.col(name), name in lists), F.lit(name))
        for name, value in typed.items()
    ]
    first_bad = F.coalesce(*bad) if bad else nothing
    texts = F.to_json(F.struct(*[c for c in raw.columns if c not in ADDED]))
    return raw.withColumns(
        {**typed, BAD_COLUMN: first_bad, BAD_ROW: F.when(first_bad.isNotNull(), texts)}
    )


def _gaps(value: Column, is_list: bool) -> Column:
    """How much of a value is missing: the value, or items of a list."""
    from pyspark.sql import functions as F

    missing = value.isNull().cast("int")
    if not is_list:
        return missing
    return F.coalesce(F.size(F.filter(value, F.isnull)), missing)
