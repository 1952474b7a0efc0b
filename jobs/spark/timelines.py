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

from jobs.spark.buckets import each_bucket, gathered
from jobs.spark.histories import Cut, bucket_timelines
from jobs.spark.scans import ColumnsFunction

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame


def packed_histories(events: DataFrame, requests: DataFrame, num_partitions: int) -> DataFrame:
    """Events and requests with every user's together, ready for `timeline_batches`.

    Args:
        events: As `packed_events` packs them: of the days and of the days before, as far as
            histories reach.
        requests: As `packed_requests` packs users and days of impressions.
        num_partitions: Partitions of the shuffle; any number makes the same rows.
    """
    return gathered(events.unionByName(requests), num_partitions)


def timeline_batches(days: Sequence[date], cut: Cut) -> ColumnsFunction:
    """What makes timelines of packed histories: of every user with an impression or a new event.

    Args:
        days: Days to produce.
        cut: What of a history is kept.

    Returns:
        A function to the timelines table's columns.
    """
    wanted = sorted(days)

    def build(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return each_bucket(batches, lambda parts: bucket_timelines(parts, wanted, cut))

    return build
