"""Three ways to the same timelines: what `bench_timelines` compares."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import dataset
from pyspark.sql import DataFrame, SparkSession

from jobs.build_timelines import DIFFERENCES
from jobs.config import days_between
from jobs.spark.buckets import PACKED, num_buckets
from jobs.spark.columns import write_files
from jobs.spark.histories import (
    DAY_FACTOR,
    HISTORY_COLUMNS,
    HISTORY_TEXTS,
    REQUEST_COLUMNS,
    VALUES,
    Cut,
    packed_events,
    packed_requests,
)
from jobs.spark.history_ends import (
    ENDS,
    SHOWN_COLUMNS,
    TIMELINE_COLUMNS,
    history_ends,
    packed_shown,
    packed_timelines,
)
from jobs.spark.scans import scan_days, scan_files, shuffle_partitions
from jobs.spark.timelines import packed_histories, timeline_batches
from validation import tables

_TIMELINES = pa.schema(
    {
        "user_id": pa.string(),
        "num_prior": pa.int32(),
        "known_ts": pa.list_(pa.timestamp("us", "UTC")),
        "day": pa.date32(),
    }
)
_TYPES = ["impression", "view", "click", "like", "conversion"]


@dataclass(frozen=True)
class Histories:
    """What every arm reads and where it writes `<arm>_timelines` and `<arm>_ends`."""

    events: Path
    impressions: Path
    days: tuple[date, ...]
    cut: Cut
    out: Path


def shuffled(spark: SparkSession, work: Histories) -> DataFrame:
    """Events and requests with every user's together, as `jobs.build_timelines` shuffles them."""
    days, cut = list(work.days), work.cut
    partitions = shuffle_partitions(spark)
    buckets = num_buckets(partitions)
    read = days_between(days[0] - timedelta(days=cut.lookback_days), days[-1])
    packed = scan_days(
        spark, str(work.events), read, HISTORY_COLUMNS, few_values=HISTORY_TEXTS
    ).map(lambda batches: packed_events(batches, days, cut, _TYPES, buckets), PACKED)
    asked = scan_days(spark, str(work.impressions), days, REQUEST_COLUMNS).map(
        lambda batches: packed_requests(batches, days, buckets), PACKED
    )
    return packed_histories(packed, asked, partitions)


def spark_arm(spark: SparkSession, work: Histories) -> None:
    """As `jobs.build_timelines` and `jobs.build_examples` make them."""
    days, cut, stored = list(work.days), work.cut, work.out / "spark_timelines"
    partitions = shuffle_partitions(spark)
    buckets = num_buckets(partitions)
    shutil.rmtree(stored, ignore_errors=True)
    files = write_files(
        shuffled(spark, work),
        timeline_batches(days, cut),
        tables.TIMELINES,
        stored,
        DIFFERENCES,
    )
    paths = [str(path) for of_day in files.values() for path in of_day]
    timelines = scan_files(spark, paths, _TIMELINES, str(stored), TIMELINE_COLUMNS).map(
        lambda batches: packed_timelines(batches, buckets), PACKED
    )
    shown = scan_days(spark, str(work.impressions), days, SHOWN_COLUMNS).map(
        lambda batches: packed_shown(batches, days, buckets), PACKED
    )
    ends = history_ends(timelines, shown, partitions)
    shutil.rmtree(work.out / "spark_ends", ignore_errors=True)
    write_files(ends, iter, ENDS, work.out / "spark_ends")


def duckdb_arm(work: Histories) -> None:
    """A hand-written as-of query on two threads."""
    n, new = work.cut.num_events, DAY_FACTOR * work.cut.num_events
    days = ", ".join(f"DATE '{day}'" for day in work.days)
    first = work.days[0] - timedelta(days=work.cut.lookback_days)
    lists = ", ".join(f"list({name} ORDER BY n) AS {name}" for name in VALUES)
    start = "begin - prior - first + 2"
    slices = ", ".join(
        f"coalesce({name}[{start} : begin + new - first + 1], []) AS {name}" for name in VALUES
    )
    events, shown = (
        f"read_parquet('{path}/data/*/*/*.parquet', hive_partitioning = true, "
        "hive_types = {'day': DATE})"
        for path in (work.events, work.impressions)
    )
    steps = [
        "SET threads = 2",
        "SET TimeZone = 'UTC'",
        f"""CREATE TEMP TABLE e AS SELECT user_id, day, {", ".join(VALUES)}, row_number() OVER (
            PARTITION BY user_id ORDER BY known_ts, event_ts, event_id) AS n
            FROM {events} WHERE day >= DATE '{first}'""",
        # As-of joins take one row of those that were known at the same moment: the last.
        "CREATE TEMP TABLE k AS SELECT user_id, known_ts, max(n) AS n FROM e GROUP BY ALL",
        f"CREATE TEMP TABLE s AS SELECT * FROM {shown} WHERE day IN ({days})",
        f"""CREATE TEMP TABLE d AS SELECT user_id, day, count(*) AS num FROM e
            WHERE day IN ({days}) GROUP BY ALL""",
        f"""CREATE TEMP TABLE p AS
            WITH r AS (SELECT user_id, day FROM d UNION SELECT user_id, day FROM s),
            b AS (SELECT r.*, coalesce(k.n, 0) AS begin FROM r ASOF LEFT JOIN k
                ON r.user_id = k.user_id AND r.day::TIMESTAMPTZ > k.known_ts),
            f AS (SELECT b.*, coalesce(k.n, 0) AS forgotten FROM b ASOF LEFT JOIN k
                ON b.user_id = k.user_id
                AND (b.day - {work.cut.lookback_days})::TIMESTAMPTZ > k.known_ts)
            SELECT user_id, day, begin, least(begin - forgotten, {n}) AS prior,
                coalesce(num, 0) AS num, least(coalesce(num, 0), {new}) AS new
            FROM f LEFT JOIN d USING (user_id, day)""",
        f"""CREATE TEMP TABLE l AS SELECT user_id, min(n) AS first, {lists} FROM e
            JOIN (SELECT user_id, min(begin - prior) AS need FROM p GROUP BY user_id)
            USING (user_id) WHERE n > need GROUP BY user_id""",
        f"""COPY (SELECT user_id, prior::INT AS num_prior, (num - new)::INT AS num_cut, {slices},
            day FROM p LEFT JOIN l USING (user_id))
            TO '{work.out}/duckdb_timelines' (FORMAT parquet, COMPRESSION zstd)""",
        f"""COPY (SELECT impression_id,
            (prior + least(coalesce(k.n, 0) - begin, {new}))::INT AS history_end
            FROM (SELECT s.*, begin, prior FROM s JOIN p USING (user_id, day)) s
            ASOF LEFT JOIN k ON s.user_id = k.user_id AND s.event_ts > k.known_ts)
            TO '{work.out}/duckdb_ends' (FORMAT parquet, COMPRESSION zstd)""",
    ]
    with duckdb.connect() as session:
        for step in steps:
            session.execute(step)


def numpy_arm(work: Histories) -> None:
    """Sort, search, gather; on one thread but for Arrow's reading."""
    first = work.days[0] - timedelta(days=work.cut.lookback_days)
    texts = ["user_id", "event_type", "surface", "item_id"]
    events = _read(work.events, texts, dataset.field("day") >= first)
    shown = _read(work.impressions, ["user_id"], dataset.field("day").isin(list(work.days)))
    both = pa.chunked_array([*events["user_id"].chunks, *shown["user_id"].chunks])
    both = both.unify_dictionaries()
    codes = np.concatenate([c.indices.to_numpy().astype(np.int64) for c in both.chunks])
    user, viewer = codes[: events.num_rows], codes[events.num_rows :]
    known, at = (_micros(events[name]) for name in ("known_ts", "event_ts"))
    ids = pc.rank(events["event_id"]).to_numpy()
    order = np.lexsort((ids, at, known, user))
    user, known = user[order], known[order]
    day = events["day"].cast(pa.int32()).to_numpy()[order]
    moments = (user << 42) + (known - known.min())
    places = (user << 32) + day
    wanted_days = pa.array(work.days).cast(pa.int32()).to_numpy()
    asked = (viewer << 32) + shown["day"].cast(pa.int32()).to_numpy()
    wanted = np.unique(np.concatenate([asked, places[np.isin(day, wanted_days)]]))
    begin, end = (np.searchsorted(places, wanted, side) for side in ("left", "right"))
    prior = begin - np.searchsorted(places, wanted - work.cut.lookback_days)
    prior = np.minimum(prior, work.cut.num_events)
    new = np.minimum(end - begin, DAY_FACTOR * work.cut.num_events)
    offsets = np.concatenate([[0], np.cumsum(prior + new)])
    at = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - (begin - prior), prior + new)
    taken = pa.array(order[at])
    starts = pa.array(offsets, pa.int32())
    names = both.chunk(0).dictionary
    columns = {
        "user_id": names.take(pa.array(wanted >> 32)),
        "num_prior": pa.array(prior, pa.int32()),
        "num_cut": pa.array(end - begin - new, pa.int32()),
        "day": pa.array(wanted & 0xFFFFFFFF, pa.int32()).cast(pa.date32()),
        **{
            name: pa.ListArray.from_arrays(starts, events[name].chunk(0).take(taken))
            for name in VALUES
        },
    }
    rows = pa.table([columns[name] for name in tables.TIMELINES], names=list(tables.TIMELINES))
    pq.write_table(rows, work.out / "numpy_timelines", compression="zstd")
    line = np.searchsorted(wanted, asked)
    so_far = np.searchsorted(moments, (viewer << 42) + (_micros(shown["event_ts"]) - known.min()))
    limit = DAY_FACTOR * work.cut.num_events
    ends = prior[line] + np.clip(so_far - begin[line], 0, limit)
    rows = {"impression_id": shown["impression_id"], "history_end": pa.array(ends, pa.int32())}
    pq.write_table(pa.table(rows), work.out / "numpy_ends", compression="zstd")


def _read(folder: Path, texts: list[str], wanted: dataset.Expression) -> pa.Table:
    layout = pa.schema([("run", pa.string()), ("day", pa.date32())])
    days = dataset.partitioning(layout, flavor="hive")
    form = dataset.ParquetFileFormat(dictionary_columns=texts)
    found = dataset.dataset(folder / "data", format=form, partitioning=days)
    return found.to_table(filter=wanted).unify_dictionaries().combine_chunks()


def _micros(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.int64()).to_numpy()
