"""Where the history of each impression ends in its user's timeline, in columns.

A timeline is sorted by when its events became known, so that what was known strictly before an
impression is a prefix of it: here is the prefix's length.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.spark.buckets import chunks, each_bucket, gathered, scattered
from jobs.spark.histories import day_numbers, micros, user_day
from jobs.spark.scans import ColumnsFunction
from jobs.spark.searching import num_before

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

TIMELINE_COLUMNS = ("user_id", "day", "num_prior", "known_ts")
"""What is read of a timeline."""
SHOWN_COLUMNS = ("impression_id", "user_id", "event_ts", "event_day")
"""What is read of an impression."""
ENDS = {"impression_id": "string", "day": "date", "history_end": "int"}


def packed_timelines(batches: Iterable[pa.RecordBatch], buckets: int) -> Iterator[pa.RecordBatch]:
    """Timelines by bucket of users, with the moments of their own day alone.

    Args:
        batches: Columns `TIMELINE_COLUMNS`.
        buckets: Buckets over which users are spread.
    """
    for chunk in chunks(batches):
        known = chunk["known_ts"].combine_chunks()
        starts = known.offsets.to_numpy()
        first = starts[:-1] + chunk["num_prior"].to_numpy()
        lengths = starts[1:] - first
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - first, lengths)
        moments = known.values.cast(pa.int64()).take(pa.array(at))
        today = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), moments)
        rows = chunk.set_column(chunk.schema.get_field_index("known_ts"), "known_ts", today)
        yield from scattered(_one_chunk(rows), buckets)


def packed_shown(
    batches: Iterable[pa.RecordBatch], days: Sequence[date], buckets: int
) -> Iterator[pa.RecordBatch]:
    """Impressions of some days by bucket of users.

    Args:
        batches: Columns `SHOWN_COLUMNS`.
        days: Days shown on.
        buckets: Buckets over which users are spread.
    """
    for chunk in chunks(batches):
        rows = chunk.filter(pc.is_in(chunk["event_day"], pa.array(days, pa.date32())))
        if rows.num_rows:
            yield from scattered(_one_chunk(rows), buckets)


def _one_chunk(rows: pa.Table) -> pa.Table:
    at = rows.schema.get_field_index("user_id")
    rows = rows.set_column(at, "user_id", rows["user_id"].dictionary_encode())
    return rows.unify_dictionaries().combine_chunks()


def bucket_ends(parts: Sequence[pa.Table]) -> Iterator[pa.RecordBatch]:
    """Ends of the histories of one bucket's impressions.

    Args:
        parts: What `packed_timelines` and `packed_shown` have packed of it. An impression whose
            user has no timeline on its day is left out.

    Yields:
        Columns `ENDS`.
    """
    shown = [part for part in parts if "impression_id" in part.column_names]
    held = [part for part in parts if "num_prior" in part.column_names]
    if not shown or not held:
        return
    both = pa.concat_tables([part.select(["user_id"]) for part in (*held, *shown)])
    users = both["user_id"].unify_dictionaries()
    user = np.concatenate([chunk.indices.to_numpy() for chunk in users.chunks])
    timelines, asked = pa.concat_tables(held), pa.concat_tables(shown)
    key = user_day(user[: timelines.num_rows], day_numbers(timelines["day"]))
    wanted = user_day(user[timelines.num_rows :], day_numbers(asked["event_day"]))
    order = np.argsort(key)
    line = np.minimum(np.searchsorted(key[order], wanted), len(order) - 1)
    line = order[line]
    found = np.flatnonzero(key[line] == wanted)
    line = line[found]
    known = timelines["known_ts"].combine_chunks()
    starts, moments = known.offsets.to_numpy(), known.values.to_numpy()
    until = micros(asked["event_ts"])[found]
    num_prior = timelines["num_prior"].to_numpy()[line]
    ends = num_prior + num_before(starts, moments, line, until)
    yield pa.RecordBatch.from_arrays(
        [
            asked["impression_id"].take(pa.array(found)).combine_chunks(),
            asked["event_day"].take(pa.array(found)).combine_chunks(),
            pa.array(ends, pa.int32()),
        ],
        names=list(ENDS),
    )


def history_ends(
    timelines: DataFrame,
    shown: DataFrame,
    num_partitions: int,
    then: ColumnsFunction = iter,
    columns: Mapping[str, str] = ENDS,
) -> DataFrame:
    """Length of the prefix of its timeline that was known strictly before each impression.

    Args:
        timelines: As `packed_timelines` packs them.
        shown: As `packed_shown` packs impressions.
        num_partitions: Partitions of the shuffle; any number makes the same rows.
        then: What the workers go on to do with columns `ENDS`.
        columns: Columns of what that makes.
    """

    def build(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return then(each_bucket(batches, bucket_ends))

    schema = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    return gathered(timelines.unionByName(shown), num_partitions).mapInArrow(build, schema)
