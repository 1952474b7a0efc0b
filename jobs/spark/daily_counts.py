"""Counts per entity as of the end of each day, in columns: the kernel of `entity_features`.

Two halves with a shuffle by key between. The first adds up the events of each entity and day within
a task; the second adds days up over windows.
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

from jobs.spark.buckets import chunks, each_bucket, scattered
from jobs.spark.counting import DAY_BITS, NEVER, Counting, groups, keyed, last_positive
from jobs.spark.histories import day_numbers, micros, number_of
from validation import tables

if TYPE_CHECKING:
    from jobs.spark.scans import ColumnsFunction


def packed_events(
    batches: Iterable[pa.RecordBatch], counting: Counting, buckets: int
) -> Iterator[pa.RecordBatch]:
    """Events added up per entity, key and arrival day, by bucket of keys.

    Args:
        batches: The columns of keys, `event_type`, `known_ts` and `day`.
        counting: What is counted.
        buckets: Buckets over which keys are spread.
    """
    for rows in chunks(batches):
        ones, known = counting.ones(rows), micros(rows["known_ts"])
        day = day_numbers(rows["day"]).astype(np.int64)
        for entity, code, names in counting.keys(rows):
            own = (code << DAY_BITS) | day
            order = np.lexsort((known, own))
            start = _starts(own[order])
            sums = np.add.reduceat(ones[order], start, axis=0, dtype=np.int64)
            moments = {}
            for count, name in zip(counting.recency, counting.lasts, strict=True):
                is_one = ones[order, list(counting.counts).index(count)] > 0
                of = np.where(is_one, known[order], NEVER)
                moments[name] = pa.array(np.maximum.reduceat(of, start))
            first = order[start]
            values = {
                "day": pa.array(day[first], pa.int32()),
                **_columns(counting, sums),
                **moments,
            }
            yield from scattered(keyed(entity, code[first], names, values), buckets, "key")


def packed_days(
    batches: Iterable[pa.RecordBatch], counting: Counting, buckets: int
) -> Iterator[pa.RecordBatch]:
    """Counts of single days that are stored already, by bucket of keys.

    Args:
        batches: Columns `stored_columns` of the entity_features table.
        counting: What is counted.
        buckets: Buckets over which keys are spread.
    """
    for rows in chunks(batches):
        sums = np.stack([rows[f"{c}_1d"].to_numpy() for c in counting.counts], axis=1)
        values = {
            "day": rows["day"].cast(pa.int32()),
            **_columns(counting, sums),
            **{name: pa.array(moments(rows, name)) for name in counting.lasts},
        }
        # A stored day also holds who was seen before it; counted on, they would never be forgotten.
        yield from scattered(stored(rows, counting, values, sums.max(axis=1) > 0), buckets, "key")


def stored_columns(counting: Counting) -> list[str]:
    """Columns of entity_features that say what a single day counted."""
    return ["entity", "key", "day", *[f"{c}_1d" for c in counting.counts], *counting.lasts]


def bucket_features(
    parts: Sequence[pa.Table], days: Sequence[date], counting: Counting
) -> Iterator[pa.RecordBatch]:
    """Counts over the last days of the keys of one bucket.

    Args:
        parts: What `packed_events` and `packed_days` have packed of it; for the longest window
            before `days` too.
        days: Days to produce.
        counting: What is counted.

    Yields:
        The entity_features table's columns, a day at a time; a row per entity seen in the longest
        window.
    """
    (group,), keys = groups([rows := pa.concat_tables(parts)], len(counting.entities))
    of = (group << DAY_BITS) | day_numbers(rows["day"])
    order = np.argsort(of, kind="stable")
    start = _starts(of[order])
    of = of[order][start]
    sums = np.stack([rows[f"num_{name}"].to_numpy()[order] for name in counting.counts], axis=1)
    sums = np.add.reduceat(sums, start, axis=0)
    up_to = np.concatenate([np.zeros((1, sums.shape[1]), np.int64), np.cumsum(sums, axis=0)])
    lasts = {}
    for count, name in zip(counting.recency, counting.lasts, strict=True):
        last = np.maximum.reduceat(rows[name].to_numpy()[order], start)
        # A stored moment looks back over a window; it is of its day where that day counted any.
        counted = last_positive(sums[:, list(counting.counts).index(count)] > 0)
        lasts[name] = last, counted
    everyone = np.unique(of >> DAY_BITS)
    schema = tables.entity_features(list(counting.counts), counting.windows_days, counting.recency)
    for day in days:
        number = number_of(day)
        end = np.searchsorted(of, (everyone << DAY_BITS) | number, side="right")
        begin = {
            window: np.searchsorted(of, (everyone << DAY_BITS) | (number - window + 1))
            for window in counting.windows_days
        }
        longest = begin[max(counting.windows_days)]
        seen = np.flatnonzero(end > longest)
        who, end, longest = everyone[seen], end[seen], longest[seen]
        values: dict[str, pa.Array] = {
            "entity": pa.array(list(counting.entities)).take(
                pa.array(who % len(counting.entities))
            ),
            "key": keys.take(pa.array(who // len(counting.entities))),
            "day": pa.array(np.full(len(who), number, np.int32)).cast(pa.date32()),
        }
        for place, count in enumerate(counting.counts):
            for window in counting.windows_days:
                found = up_to[end, place] - up_to[begin[window][seen], place]
                values[f"{count}_{window}d"] = pa.array(found)
        for name, (last, counted) in lasts.items():
            at = counted[end - 1]
            values[name] = as_moments(np.where(at >= longest, last[at], NEVER))
        yield pa.RecordBatch.from_arrays([values[name] for name in schema], names=list(schema))


def feature_batches(days: Sequence[date], counting: Counting) -> ColumnsFunction:
    """What makes the entity_features table's rows of packed ones: see `bucket_features`."""

    def build(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return each_bucket(batches, lambda parts: bucket_features(parts, days, counting))

    return build


def stored(
    rows: pa.Table,
    counting: Counting,
    values: Mapping[str, pa.Array | pa.ChunkedArray],
    wanted: np.ndarray,
) -> pa.Table:
    """Rows of the entity_features table, ready to be packed by key.

    Args:
        rows: Gives `entity` and `key`. Entities that are no longer declared are left out.
        counting: What is counted.
        values: Further columns.
        wanted: Which rows are.
    """
    number = pc.fill_null(pc.index_in(rows["entity"], pa.array(list(counting.entities))), -1)
    table = pa.table({"key": rows["key"], "entity": number.cast(pa.int16()), **values})
    table = table.filter(pa.array(wanted & (number.to_numpy() >= 0))).combine_chunks()
    return table.set_column(0, "key", table["key"].dictionary_encode())


def moments(rows: pa.Table, name: str) -> np.ndarray:
    """Microseconds since 1970 UTC, `NEVER` where there is none."""
    column = rows[name].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return pc.fill_null(column, NEVER).to_numpy()


def as_moments(values: np.ndarray) -> pa.Array:
    """The reverse of `moments`."""
    return pa.array(values, pa.int64(), mask=values == NEVER).cast(pa.timestamp("us", "UTC"))


def _columns(counting: Counting, sums: np.ndarray) -> dict[str, pa.Array]:
    return {f"num_{name}": pa.array(sums[:, n]) for n, name in enumerate(counting.counts)}


def _starts(values: np.ndarray) -> np.ndarray:
    """Where runs of equal values start."""
    return np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1])
