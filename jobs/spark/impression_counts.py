"""Counts of every entity exactly as known at each impression, in columns.

Days before the impression's come from `entity_features`; the impression's own day is counted to the
microsecond from its events. Both go by `known_ts`: what was not known before the impression does
not count. Two shuffles: by key, where counts are looked up, and by impression, where they meet.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from jobs.spark.buckets import by_day, chunks, each_bucket, gathered, scattered
from jobs.spark.counting import DAY_BITS, NEVER, Counting, groups, keyed, last_positive
from jobs.spark.daily_counts import as_moments, moments, stored
from jobs.spark.histories import day_numbers, micros
from jobs.spark.searching import num_before

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def packed_increments(
    batches: Iterable[pa.RecordBatch], counting: Counting, buckets: int
) -> Iterator[pa.RecordBatch]:
    """Events once per entity, by bucket of keys.

    Args:
        batches: The columns of keys, `event_type`, `known_ts` and `day`.
        counting: What is counted.
        buckets: Buckets over which keys are spread.
    """
    for rows in chunks(batches):
        ones = counting.ones(rows)
        values = {
            "day": rows["day"].cast(pa.int32()),
            "at": pa.array(micros(rows["known_ts"])),
            **{f"num_{name}": pa.array(ones[:, n]) for n, name in enumerate(counting.counts)},
        }
        yield from _once_per_entity(rows, values, counting, buckets)


def packed_queries(
    batches: Iterable[pa.RecordBatch], counting: Counting, buckets: int
) -> Iterator[pa.RecordBatch]:
    """Impressions once per entity, by bucket of keys.

    Args:
        batches: The columns of keys, `impression_id`, `event_ts` and `day`, the day shown.
        counting: What is counted.
        buckets: Buckets over which keys are spread.
    """
    for rows in chunks(batches):
        values = {
            "day": rows["day"].cast(pa.int32()),
            "at": pa.array(micros(rows["event_ts"])),
            "impression_id": rows["impression_id"],
        }
        yield from _once_per_entity(rows, values, counting, buckets)


def _once_per_entity(
    rows: pa.Table,
    values: Mapping[str, pa.Array | pa.ChunkedArray],
    counting: Counting,
    buckets: int,
) -> Iterator[pa.RecordBatch]:
    for entity, code, names in counting.keys(rows):
        table = keyed(entity, code, names, values).combine_chunks()
        yield from scattered(table, buckets, "key")


def packed_before(
    batches: Iterable[pa.RecordBatch], counting: Counting, buckets: int
) -> Iterator[pa.RecordBatch]:
    """Counts as of the end of the day before, by bucket of keys.

    Args:
        batches: Columns `before_columns` of the entity_features table.
        counting: What is counted.
        buckets: Buckets over which keys are spread.
    """
    for rows in chunks(batches):
        values = {
            "day": pa.array(day_numbers(rows["day"]) + 1, pa.int32()),
            **{name: rows[name] for name in counting.windowed},
            **{name: pa.array(moments(rows, name)) for name in counting.lasts},
        }
        every = np.ones(rows.num_rows, bool)
        yield from scattered(stored(rows, counting, values, every), buckets, "key")


def before_columns(counting: Counting) -> list[str]:
    """Columns of entity_features that an impression of the next day reads."""
    return ["entity", "key", "day", *counting.windowed, *counting.lasts]


def bucket_counts(
    parts: Sequence[pa.Table], counting: Counting, days: Sequence[date], buckets: int
) -> Iterator[pa.RecordBatch]:
    """Counts at the impressions of the keys of one bucket.

    Args:
        parts: What `packed_increments`, `packed_queries` and `packed_before` have packed of it.
        counting: What is counted.
        days: Days that impressions were shown on, in order.
        buckets: Buckets over which a day's impressions are spread.

    Yields:
        By day and bucket of impressions: `impression_id`, `day`, `entity`, and the columns of
        counts and moments.
    """
    queries = [part for part in parts if "impression_id" in part.column_names]
    before = [part for part in parts if counting.windowed[0] in part.column_names]
    events = [p for p in parts if "at" in p.column_names and "impression_id" not in p.column_names]
    if not queries:
        return
    sides = [pa.concat_tables(side) for side in (queries, events, before) if side]
    numbers, _ = groups(sides, len(counting.entities))
    of = [
        (number << DAY_BITS) | day_numbers(side["day"])
        for number, side in zip(numbers, sides, strict=True)
    ]
    asked, group = sides[0], of[0]
    windowed = np.zeros((len(group), len(counting.windowed)), np.int64)
    lasts = np.full((len(group), len(counting.lasts)), NEVER)
    if before:
        held, key = sides[-1], of[-1]
        order = np.argsort(key)
        line = np.minimum(np.searchsorted(key[order], group), len(order) - 1)
        line = order[line]
        found = key[line] == group
        for n, name in enumerate(counting.windowed):
            windowed[found, n] = held[name].to_numpy()[line[found]]
        for n, name in enumerate(counting.lasts):
            lasts[found, n] = held[name].to_numpy()[line[found]]
    if events:
        _add_today(windowed, lasts, asked, group, sides[1], of[1], counting)
    table = pa.table(
        {
            "impression_id": asked["impression_id"],
            "day": asked["day"].cast(pa.date32()),
            "entity": asked["entity"],
            **{name: pa.array(windowed[:, n]) for n, name in enumerate(counting.windowed)},
            **{name: pa.array(lasts[:, n]) for n, name in enumerate(counting.lasts)},
        }
    )
    yield from by_day(table, days, buckets)


def _add_today(
    windowed: np.ndarray,
    lasts: np.ndarray,
    asked: pa.Table,
    group: np.ndarray,
    events: pa.Table,
    of_event: np.ndarray,
    counting: Counting,
) -> None:
    """Add what became known on the impression's own day, strictly before it, in place."""
    at = events["at"].to_numpy()
    order = np.lexsort((at, of_event))
    at, of_event = at[order], of_event[order]
    keys, start = np.unique(of_event, return_index=True)
    starts = np.append(start, len(at))
    line = np.minimum(np.searchsorted(keys, group), len(keys) - 1)
    found = np.flatnonzero(keys[line] == group)
    line = line[found]
    begin = starts[line]
    end = begin + num_before(starts, at, line, asked["at"].to_numpy()[found])
    for n, name in enumerate(counting.counts):
        ones = events[f"num_{name}"].to_numpy()[order]
        up_to = np.concatenate([[0], np.cumsum(ones, dtype=np.int64)])
        today = up_to[end] - up_to[begin]
        width = len(counting.windows_days)
        windowed[found, n * width : (n + 1) * width] += today[:, None]
        if name in counting.recency:
            # Any moment of today is later than any of the days before.
            last = last_positive(ones > 0)[end - 1]
            is_today = (end > begin) & (last >= begin)
            place = list(counting.recency).index(name)
            lasts[found[is_today], place] = at[last[is_today]]


def bucket_rows(parts: Sequence[pa.Table], counting: Counting) -> Iterator[pa.RecordBatch]:
    """One row per impression of the counts of all entities.

    Args:
        parts: What `bucket_counts` has packed of one bucket of impressions.
        counting: What is counted.

    Yields:
        Columns `count_columns`; a moment is missing where the longest window holds no event.
    """
    rows = pa.concat_tables(parts)
    ids = rows["impression_id"].unify_dictionaries()
    code = np.concatenate([chunk.indices.to_numpy() for chunk in ids.chunks])
    names = ids.chunk(0).dictionary
    entity = rows["entity"].to_numpy()
    columns: dict[str, pa.Array] = {"impression_id": names}
    places = [np.flatnonzero(entity == n) for n in range(len(counting.entities))]
    for name, place in zip(counting.entities, places, strict=True):
        for column in counting.windowed:
            columns[f"{name}_{column}"] = pa.array(_spread(rows[column], code, place, len(names)))
    for count, column in zip(counting.recency, counting.lasts, strict=True):
        for name in counting.recency[count]:
            place = places[list(counting.entities).index(name)]
            columns[f"{name}_{column}"] = as_moments(_spread(rows[column], code, place, len(names)))
    yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _spread(column: pa.ChunkedArray, code: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    """An entity's values by impression; every impression has one of every entity."""
    values = np.empty(size, np.int64)
    values[code[place]] = column.to_numpy()[place]
    return values


def count_columns(counting: Counting) -> dict[str, str]:
    """Columns of `bucket_rows` with their types."""
    counts = {f"{e}_{c}": "bigint" for e in counting.entities for c in counting.windowed}
    lasts = {
        f"{name}_{column}": "timestamp"
        for count, column in zip(counting.recency, counting.lasts, strict=True)
        for name in counting.recency[count]
    }
    return {"impression_id": "string", **counts, **lasts}


def counts_by_impression(
    packed: Sequence[DataFrame],
    counting: Counting,
    days: Sequence[date],
    buckets: int,
    num_partitions: int,
) -> DataFrame:
    """Counts of every entity as known strictly before each impression, packed by impression.

    Args:
        packed: As `packed_increments`, `packed_queries` and `packed_before` pack them.
        counting: What is counted.
        days: Days that impressions were shown on, in order.
        buckets: Buckets over which a day's impressions are spread.
        num_partitions: Partitions of the shuffle; any number makes the same rows.

    Returns:
        What `bucket_rows` takes, by day and bucket of impressions.
    """

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return each_bucket(batches, lambda parts: bucket_counts(parts, counting, days, buckets))

    first, *others = packed
    for other in others:
        first = first.unionByName(other)
    return gathered(first, num_partitions).mapInArrow(count, first.schema)
