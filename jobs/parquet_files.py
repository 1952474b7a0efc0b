"""Parquet files below a Delta table: how they are read, and what a commit says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction
from pyarrow import dataset


def files_dataset(
    paths: list[str], schema: pa.Schema, base: str, few_values: Sequence[str] = ()
) -> dataset.Dataset:
    """Files of a table, as Arrow reads them itself.

    Through the file system that delta-rs offers it, one process in three aborted at exit
    ("terminate called without an active exception").

    Args:
        paths: The files.
        schema: Columns of the table.
        base: Folder of its partitions.
        few_values: Columns of texts, to be read as dictionaries.
    """
    for name in few_values:
        of_codes = pa.dictionary(pa.int32(), pa.string())
        schema = schema.set(schema.get_field_index(name), pa.field(name, of_codes))
    layout = pa.schema([("run", pa.string()), ("day", pa.date32())])
    return dataset.dataset(
        paths,
        schema=schema,
        format=dataset.ParquetFileFormat(dictionary_columns=list(few_values)),
        partitioning=dataset.partitioning(layout, flavor="hive"),
        partition_base_dir=base,
    )


def add_action(uri: str, path: str, partition: dict[str, str]) -> AddAction:
    """What makes a file part of a table.

    Args:
        uri: Table.
        path: The file's path below it.
        partition: The partition that the file belongs to.
    """
    absolute = Path(uri) / path
    status = absolute.stat()
    statistics = json.dumps(parquet_statistics(absolute))
    values: dict[str, str | None] = dict(partition)
    return AddAction(path, status.st_size, values, int(status.st_mtime * 1000), True, statistics)


def parquet_statistics(path: Path) -> dict[str, Any]:
    """Delta statistics of a Parquet file: its rows, and the nulls of every flat column.

    No bounds: a reader takes them for exact, Parquet's own pass over NaN, the Delta log cuts times
    to milliseconds, and delta-rs hides every row from a filter on a column that alone has none.
    """
    metadata = pq.read_metadata(path)
    nulls: dict[str, int] = {}
    for index in range(metadata.num_columns):
        name = metadata.schema.column(index).path
        chunks = [
            metadata.row_group(g).column(index).statistics for g in range(metadata.num_row_groups)
        ]
        if "." not in name and all(s is not None and s.has_null_count for s in chunks):
            nulls[name] = sum(s.null_count for s in chunks)
    return {"numRecords": metadata.num_rows, "nullCount": nulls}
