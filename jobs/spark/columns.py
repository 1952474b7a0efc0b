"""Delta tables written by the workers themselves, in columns: the way back from `scans.py`."""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs import delta
from jobs.spark.scans import ColumnsFunction
from jobs.spark.tables import TableWrite, replace_days

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType


def write_columns(
    rows: DataFrame,
    function: ColumnsFunction,
    columns: Mapping[str, str],
    uri: str,
    *,
    days: Sequence[date],
    commit: dict[str, Any],
    expected: Mapping[str | None, Collection[str]] | None = None,
    differences: Sequence[str] = (),
    made_from: Mapping[date, dict[str, int | None]] | None = None,
) -> TableWrite:
    """Replace days of a table by what a function makes: `jobs.spark.tables.write_days` in columns.

    Every task that makes rows of a day writes one file of it, in the order in which they are made.

    Args:
        rows: What the function is given, partition by partition.
        function: From batches of `rows` to batches of `columns`.
        columns: Columns of the table with their types, `day` included.
        uri: Table; made if absent.
        days: Days that may be replaced.
        commit: `run_id`, `config_hash`, `code_hash` and `inputs` of `PartitionCommit`.
        expected: The files by day as they were before the first of the inputs was read.
        differences: Parquet columns of numbers or moments whose neighbours are close: stored as
            differences (`DELTA_BINARY_PACKED`), which every reader of Parquet undoes.
        made_from: Of days that were made from other versions than `commit` says: their `inputs`.

    Returns:
        Rows and digest of every day, and which of them changed.

    Raises:
        StaleSnapshot: Another writer replaced one of the days meanwhile.
    """
    before = delta.open_table(uri)
    folder = delta.write_folder(uri, commit["run_id"])
    files = write_files(rows, function, columns, folder, differences)
    names = {day: [str(path.relative_to(uri)) for path in paths] for day, paths in files.items()}
    schema = _schema(columns)
    return replace_days(
        rows.sparkSession, uri, schema, folder, names, days, commit, before, expected, made_from
    )


def write_files(
    rows: DataFrame,
    function: ColumnsFunction,
    columns: Mapping[str, str],
    folder: Path,
    differences: Sequence[str] = (),
) -> dict[date, list[Path]]:
    """Write what a function makes into `day=<day>` folders.

    Args:
        rows: What the function is given, partition by partition.
        function: From batches of `rows` to batches of `columns`.
        columns: Columns with their types, `day` included.
        folder: Where to.
        differences: As `write_columns` takes them.

    Returns:
        The files of each day; those that a lost task may have left are not among them.
    """
    from pyspark.sql.pandas.types import to_arrow_schema

    stored = to_arrow_schema(_schema(columns), timezone="UTC")

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with DayFiles(folder, stored, differences) as files:
            for batch in function(batches):
                files.add(batch)
        yield files.paths()

    found: dict[date, list[Path]] = {}
    for day, path in sorted(rows.mapInArrow(write, "day date, path string").collect()):
        found.setdefault(day, []).append(Path(path))
    return found


def _schema(columns: Mapping[str, str]) -> StructType:
    from pyspark.sql.types import StructType

    found = StructType.fromDDL(", ".join(f"`{name}` {kind}" for name, kind in columns.items()))
    assert isinstance(found, StructType)
    return found


class DayFiles:
    """The files that one task writes, one per day.

    Args:
        folder: Folder of the write.
        schema: Columns of the table, `day` included.
        differences: As `write_columns` takes them.
    """

    def __init__(self, folder: Path, schema: pa.Schema, differences: Sequence[str] = ()) -> None:
        self._folder = folder
        self._schema = schema
        self._differences = differences
        self._name = f"{uuid.uuid4().hex}.parquet"
        self._held: list[pa.RecordBatch] = []
        self._num_bytes = 0
        self._writers: dict[date, pq.ParquetWriter] = {}

    def __enter__(self) -> DayFiles:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._flush()
        for writer in self._writers.values():
            writer.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows; they are written when enough have come together for a row group."""
        self._held.append(batch.select(self._schema.names).cast(self._schema))
        self._num_bytes += batch.nbytes
        if self._num_bytes >= _BYTES_HELD:
            self._flush()

    def paths(self) -> pa.RecordBatch:
        """`day` and `path` of what was written."""
        days = pa.array(list(self._writers), pa.date32())
        paths = pa.array([str(self._path(day)) for day in self._writers], pa.string())
        return pa.RecordBatch.from_arrays([days, paths], names=["day", "path"])

    def _flush(self) -> None:
        rows = pa.Table.from_batches(self._held, self._schema)
        self._held, self._num_bytes = [], 0
        for day in rows["day"].unique().to_pylist():
            of_day = rows.filter(pc.equal(rows["day"], pa.scalar(day, pa.date32())))
            self._writer(day).write_table(of_day.drop_columns("day"))

    def _writer(self, day: date) -> pq.ParquetWriter:
        if day not in self._writers:
            self._path(day).parent.mkdir(parents=True, exist_ok=True)
            schema = self._schema.remove(self._schema.get_field_index("day"))
            self._writers[day] = pq.ParquetWriter(
                self._path(day),
                schema,
                compression="zstd",
                use_dictionary=_texts(schema),  # pyright: ignore[reportArgumentType]
                column_encoding=dict.fromkeys(self._differences, "DELTA_BINARY_PACKED"),
                data_page_version="2.0" if self._differences else "1.0",
            )
        return self._writers[day]

    def _path(self, day: date) -> Path:
        return self._folder / f"day={day.isoformat()}" / self._name


def _texts(schema: pa.Schema) -> list[str]:
    """Parquet's names of the columns of texts, which alone are encoded by a dictionary.

    Spark 4.1's vectorized reader takes wrong numbers from lists with nulls in a dictionary of
    numbers, or fails with ArrayIndexOutOfBoundsException.
    """
    found = []
    for one in schema:
        is_list = pa.types.is_list(one.type)
        if pa.types.is_string(one.type.value_type if is_list else one.type):
            found.append(f"{one.name}.list.{one.type.value_field.name}" if is_list else one.name)
    return found


_BYTES_HELD = 64 * 2**20
"""Rows that a task holds before it writes them."""
