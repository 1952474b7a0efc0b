"""Delta tables read by the workers themselves, in columns.

Spark's own way from Parquet to Python takes every value through a row: several times what reading
it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa

from jobs import delta
from jobs.parquet_files import files_dataset
from jobs.spark.workers import spare_imports

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ColumnsFunction = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]
"""What a worker does with batches of a table's columns."""


def scan_days(
    spark: SparkSession,
    uri: str,
    days: Sequence[date],
    columns: Sequence[str] | None = None,
    version: int | None = None,
    few_values: Sequence[str] = (),
) -> Scan:
    """Read days of a table, file after file, in workers.

    Args:
        spark: Session.
        uri: Table.
        days: Days to read. Days that the table lacks yield no rows.
        columns: Columns to read; all if None.
        version: Version; the newest if None.
        few_values: Columns of texts, to be read as dictionaries.
    """
    table = delta.open_table(uri, version)
    files = [] if table is None else delta.day_files(table, days)
    schema = None if table is None else pa.schema(table.schema())
    names = [] if schema is None else schema.names
    wanted = names if columns is None else columns
    return scan_files(spark, files, schema, f"{uri}/data", wanted, few_values)


@dataclass(frozen=True)
class Scan:
    """Files that workers read themselves."""

    tasks: DataFrame
    """A number per task."""
    read: ColumnsFunction
    """From a task's numbers to batches of the columns that are read, each of one file."""

    def then(self, function: ColumnsFunction) -> ColumnsFunction:
        """What reads a task's files and applies a function to what is read."""
        read = self.read

        def both(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            return function(read(batches))

        return both

    def map(self, function: ColumnsFunction, result: Mapping[str, str]) -> DataFrame:
        """Apply a function to what is read: from batches of it to batches of `result`."""
        columns = ", ".join(f"`{name}` {kind}" for name, kind in result.items())
        return self.tasks.mapInArrow(self.then(function), columns)


def scan_files(
    spark: SparkSession,
    files: Sequence[str],
    schema: pa.Schema | None,
    base: str,
    columns: Sequence[str],
    few_values: Sequence[str] = (),
) -> Scan:
    """Read Parquet files, partitioned by `run` and `day` below a folder, in workers.

    Args:
        spark: Session.
        files: Their paths.
        schema: Columns of the files, `day` included; None where there are no files.
        base: The folder.
        columns: Columns to read.
        few_values: Columns of texts, to be read as dictionaries.
    """
    names, paths = list(columns), list(files)
    parts = max(1, min(len(paths), shuffle_partitions(spark)))

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        spare_imports()
        numbers = [number for batch in batches for number in batch.column("id").to_pylist()]
        mine = [path for number in numbers for path in paths[number::parts]]
        if mine:
            found = files_dataset(mine, schema, base, few_values)
            yield from found.to_batches(columns=names, use_threads=False)

    # A number per task and nothing to shuffle.
    return Scan(spark.range(0, parts, 1, parts), read)


def shuffle_partitions(spark: SparkSession) -> int:
    """Partitions of a shuffle, as the session is set."""
    return int(spark.conf.get("spark.sql.shuffle.partitions") or 1)
