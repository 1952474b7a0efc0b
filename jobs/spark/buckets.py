"""Rows shuffled in columns: packed by bucket of users or keys, whole buckets given to a kernel.

A task packs its rows into one Arrow stream per bucket, so that Spark moves and sorts a few hundred
rows where there were millions of events.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.digests import text_hashes
from jobs.spark.workers import spare_imports

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PACKED = {"bucket": "int", "packed": "binary"}
"""Columns of packed rows."""
Kernel = Callable[[list[pa.Table]], Iterator[pa.RecordBatch]]
"""What is done with the packed tables of one bucket."""

_BUCKETS_PER_PARTITION = 4
_ROWS_PER_CHUNK = 500_000


def num_buckets(num_partitions: int) -> int:
    """Buckets of users: several per task, so that a task holds a part of its rows at a time."""
    return num_partitions * _BUCKETS_PER_PARTITION


def chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches joined to tables of a bounded number of rows."""
    held: list[pa.RecordBatch] = []
    num_rows = 0
    for batch in batches:
        held.append(batch)
        num_rows += batch.num_rows
        if num_rows >= _ROWS_PER_CHUNK:
            yield pa.Table.from_batches(held)
            held, num_rows = [], 0
    if num_rows:
        yield pa.Table.from_batches(held)


def scattered(
    rows: pa.Table, buckets: int, on: str = "user_id", first: int = 0
) -> Iterator[pa.RecordBatch]:
    """Pack rows by bucket of a column's values.

    Args:
        rows: One chunk a column; the column `on` is dictionary encoded.
        buckets: Buckets over which its values are spread, by a hash that is for ever the same.
        on: The column.
        first: Number of the first bucket.

    Yields:
        `bucket` and `packed`: rows as an Arrow stream.
    """
    values = rows[on].combine_chunks()
    # Small numbers are sorted in linear time.
    of_value = (text_hashes(values.dictionary) % np.uint64(buckets)).astype(np.uint16)
    by_bucket = np.argsort(of_value, kind="stable")
    ends = np.cumsum(np.bincount(of_value, minlength=buckets))
    starts = ends - np.diff(ends, prepend=0)
    # Every bucket is given its own values alone, numbered anew.
    place = np.empty(len(of_value), np.int32)
    place[by_bucket] = np.arange(len(of_value)) - np.repeat(starts, ends - starts)
    dictionary = values.dictionary.take(pa.array(by_bucket))

    indices = values.indices.to_numpy()
    bucket = of_value[indices]
    order = pa.array(np.argsort(bucket, kind="stable"))
    at = rows.schema.get_field_index(on)
    rows = rows.set_column(at, on, pa.array(place[indices])).take(order)
    found, packed = [], []
    low = 0
    for number, num_rows in enumerate(np.bincount(bucket, minlength=buckets).tolist()):
        if num_rows:
            part = rows.slice(low, num_rows)
            own = dictionary.slice(int(starts[number]), int(ends[number] - starts[number]))
            codes = part[on].combine_chunks()
            part = part.set_column(at, on, pa.DictionaryArray.from_arrays(codes, own))
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, part.schema) as stream:
                stream.write_table(part)
            found.append(first + number)
            packed.append(sink.getvalue().to_pybytes())
        low += num_rows
    yield pa.RecordBatch.from_arrays(
        [pa.array(found, pa.int32()), pa.array(packed, pa.binary())], names=list(PACKED)
    )


def by_day(
    rows: pa.Table, days: Sequence[date], buckets: int, on: str = "impression_id"
) -> Iterator[pa.RecordBatch]:
    """As `scattered`, with buckets of each day's own, one day's after another's.

    Args:
        rows: With a column `day`; rows of other days than the given ones are left out.
        days: Days, in order.
        buckets: Buckets of a day.
        on: The column.
    """
    at = rows.schema.get_field_index(on)
    for number, day in enumerate(days):
        own = rows.filter(pc.equal(rows["day"], pa.scalar(day, pa.date32())))
        if own.num_rows:
            own = own.set_column(at, on, own[on].cast(pa.string()).dictionary_encode())
            yield from scattered(
                own.unify_dictionaries().combine_chunks(), buckets, on, number * buckets
            )


def gathered(packed: DataFrame, num_partitions: int) -> DataFrame:
    """Packed rows with every bucket whole in one partition, one after the other."""
    return packed.repartition(num_partitions, "bucket").sortWithinPartitions("bucket")


def each_bucket(batches: Iterable[pa.RecordBatch], kernel: Kernel) -> Iterator[pa.RecordBatch]:
    """Apply a kernel to bucket after bucket.

    Args:
        batches: As `scattered` yields them, sorted by `bucket`.
        kernel: Given a bucket's packed tables.
    """
    spare_imports()
    held: list[pa.Table] = []
    current = None
    for batch in batches:
        numbers = batch.column("bucket").to_pylist()
        for number, packed in zip(numbers, batch.column("packed"), strict=True):
            if number != current and held:
                yield from kernel(held)
                held = []
            current = number
            held.append(pa.ipc.open_stream(packed.as_buffer()).read_all())
    if held:
        yield from kernel(held)
