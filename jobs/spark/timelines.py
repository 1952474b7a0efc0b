"""User histories: one row per user and day, from which every impression of the day reads a slice.

A timeline holds the N latest events known before the day, then every event that became known on
the day (at most 4N, the earliest; the rest is counted), sorted by (`known_ts`, `event_ts`,
`event_id`). What was known at any moment of the day is therefore a prefix, and an impression needs
only that prefix's length.

Events are shuffled by user in columns, not in rows: each task writes a few packed batches per
bucket of users, from which events that no timeline can hold are left out already. A user with a
million events is no larger there than a timeline, and Spark moves and sorts a few hundred rows.
The kernel is `jobs/spark/histories.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

from jobs.spark.histories import Cut, by_bucket
from validation import tables

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

PACKED = {"bucket": "int", "packed": "binary"}
"""Columns of packed rows."""
_BUCKETS_PER_PARTITION = 4


def num_buckets(num_partitions: int) -> int:
    """Buckets of users: several per task, so that a task holds a part of its rows at a time."""
    return num_partitions * _BUCKETS_PER_PARTITION


def timeline_rows(
    events: DataFrame, requests: DataFrame, days: Sequence[date], cut: Cut, num_partitions: int
) -> DataFrame:
    """Timelines of every user with an impression or a new event on a day.

    Args:
        events: As `packed_events` packs them: of the days and of the days before, as far as
            histories reach.
        requests: As `packed_requests` packs users and days of impressions.
        days: Days to produce.
        cut: What of a history is kept.
        num_partitions: Partitions of the shuffle; any number makes the same rows.

    Returns:
        The timelines table's columns.
    """
    wanted = sorted(days)

    def build(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return by_bucket(batches, wanted, cut)

    schema = ", ".join(f"{name} {kind}" for name, kind in tables.TIMELINES.items())
    return (
        events.unionByName(requests)
        .repartition(num_partitions, "bucket")
        .sortWithinPartitions("bucket")
        .mapInArrow(build, schema)
        .select(*tables.TIMELINES)
    )
