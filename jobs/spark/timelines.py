"""User histories: one row per user and day, from which every impression of the day reads a slice.

A timeline holds the N latest events known before the day, then every event that became known on
the day (at most 4N, the earliest; the rest is counted), sorted by (`known_ts`, `event_ts`,
`event_id`). What was known at any moment of the day is therefore a prefix, and an impression needs
only that prefix's length.

The work is one pass over rows sorted by user, in numpy, with no user's history in one JVM row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from jobs.spark.raw import day_start
from validation import tables

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

DAY_FACTOR = 4
"""A day's timeline holds at most this many times N new events."""

_VALUES = ("event_type", "surface", "item_id", "value", "event_ts", "known_ts", "time_is_synthetic")
_ROWS_PER_BATCH = 2000


def timeline_rows(
    events: DataFrame,
    impressions: DataFrame,
    days: Sequence[date],
    num_events: int,
    lookback_days: int,
    time_zone: str,
) -> DataFrame:
    """Timelines of every user with an impression or a new event on a day.

    Args:
        events: Events of the days and of the days before, as far as histories reach.
        impressions: Columns `user_id` and `event_day`.
        days: Days to produce.
        num_events: N.
        lookback_days: Events that became known on an earlier day than this are forgotten.
        time_zone: The time zone that defines a day.

    Returns:
        The timelines table's columns.
    """
    from pyspark.sql import functions as F

    seen = events.select("user_id", "day").unionByName(
        impressions.select("user_id", F.col("event_day").alias("day"))
    )
    requests = seen.where(F.col("day").isin(list(days))).distinct()
    starts = day_start(F.col("day"), time_zone)
    marked = requests.select(
        "user_id",
        "day",
        F.lit(True).alias("is_request"),
        starts.alias("known_ts"),
        F.lit("").alias("event_id"),
        F.lit(None).cast("timestamp").alias("event_ts"),
        *[
            F.lit(None).cast(kind).alias(name)
            for name, kind in (
                ("event_type", "string"),
                ("surface", "string"),
                ("item_id", "string"),
                ("value", "double"),
                ("time_is_synthetic", "boolean"),
            )
        ],
    )
    both = marked.unionByName(events.withColumn("is_request", F.lit(False)).select(*marked.columns))
    ordered = (
        both.repartition("user_id")
        # A request comes before the events of its own instant: false sorts first.
        .sortWithinPartitions(
            "user_id", "known_ts", F.col("is_request").desc(), "event_ts", "event_id"
        )
        .select("user_id", "day", "is_request", *_VALUES)
    )
    schema = ", ".join(f"{name} {kind}" for name, kind in tables.TIMELINES.items())

    def build(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in whole_users(batches):
            yield from timelines(table, num_events, lookback_days)

    return ordered.mapInArrow(build, schema).select(*tables.TIMELINES)


def whole_users(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Regroup a stream sorted by user so that no user is cut in two."""
    carried: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.num_rows == 0:
            continue
        users = batch.column("user_id")
        last = users[-1]
        first_of_last = _first_index_of_last(users)
        if first_of_last == 0 and (not carried or carried[-1].column("user_id")[-1] == last):
            carried.append(batch)
            continue
        done = [*carried, batch.slice(0, first_of_last)]
        yield pa.Table.from_batches([b for b in done if b.num_rows])
        carried = [batch.slice(first_of_last)]
    if carried:
        yield pa.Table.from_batches(carried)


def _first_index_of_last(users: pa.Array) -> int:
    values = users.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    different = np.flatnonzero(values != values[-1])
    return 0 if len(different) == 0 else int(different[-1]) + 1


def timelines(rows: pa.Table, num_events: int, lookback_days: int) -> Iterator[pa.RecordBatch]:
    """Cut timelines out of sorted events.

    Args:
        rows: Whole users, sorted by user and time; requests mark the (user, day) to produce.
        num_events: N.
        lookback_days: Days that a history reaches back, whatever range of days is built at once.

    Yields:
        The timelines table's columns, a bounded number of rows at a time.
    """
    rows = rows.combine_chunks()
    is_request = rows.column("is_request").to_numpy()
    user = rows.column("user_id").combine_chunks().dictionary_encode().indices.to_numpy()
    day = rows.column("day").cast(pa.int32()).to_numpy()
    events = rows.filter(pa.array(~is_request))
    event_user, event_day = user[~is_request], day[~is_request]

    where = np.flatnonzero(is_request)
    begin = np.cumsum(~is_request)[where]  # events of the stream before each request
    # Both lie in order: user after user, day after day.
    first_kept = np.searchsorted(
        _user_day(event_user, event_day), _user_day(user[where], day[where] - lookback_days)
    )
    prior = np.minimum(begin - first_kept, num_events)
    end = _end_of_day(event_user, event_day, user[where], day[where], begin)
    new = np.minimum(end - begin, DAY_FACTOR * num_events)

    for low in range(0, len(where), _ROWS_PER_BATCH):
        part = slice(low, low + _ROWS_PER_BATCH)
        lengths = (prior + new)[part]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        taken = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - (begin - prior)[part], lengths)
        values = events.take(pa.array(taken))
        lists = {
            name: pa.ListArray.from_arrays(
                pa.array(offsets, pa.int32()), values.column(name).combine_chunks()
            )
            for name in _VALUES
        }
        requests = rows.take(pa.array(where[part]))
        columns = {
            "user_id": requests.column("user_id").combine_chunks(),
            "num_prior": pa.array(prior[part], pa.int32()),
            "num_cut": pa.array((end - begin - new)[part], pa.int32()),
            **lists,
            "day": requests.column("day").combine_chunks(),
        }
        yield pa.RecordBatch.from_arrays(
            [columns[name] for name in tables.TIMELINES], names=list(tables.TIMELINES)
        )


def _user_day(user: np.ndarray, day: np.ndarray) -> np.ndarray:
    """One number per user and day that orders by both."""
    return (user.astype(np.int64) << 32) + day


def _end_of_day(
    event_user: np.ndarray,
    event_day: np.ndarray,
    user: np.ndarray,
    day: np.ndarray,
    begin: np.ndarray,
) -> np.ndarray:
    """Index after the last event of each request's user and day."""
    if len(event_user) == 0:
        return begin.copy()
    change = np.flatnonzero((np.diff(event_user) != 0) | (np.diff(event_day) != 0)) + 1
    ends = np.concatenate([change, [len(event_user)]])
    at = np.minimum(begin, len(event_user) - 1)
    is_run = (begin < len(event_user)) & (event_user[at] == user) & (event_day[at] == day)
    run_end = ends[np.searchsorted(ends, at, side="right")]
    return np.where(is_run, run_end, begin)
