"""Store each user's history once per day.

Reads `events` and `impressions`. Writes `timelines`: a row for every user with an impression or a
new event on a day, of the days that new arrivals may change. Guarantees: what was known at any
moment of a day is a prefix of its timeline; a user with more than 4N new events a day is cut there,
and the cut is counted.

    python -m jobs.build_timelines --config var/runs/<run>/config.json
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from jobs.command import JobSummary, main
from jobs.config import RunConfig, Timeline, days_between
from jobs.days import arrival_days
from jobs.settled import settled_days
from jobs.spark.buckets import PACKED, num_buckets
from jobs.spark.build import Build
from jobs.spark.histories import (
    HISTORY_COLUMNS,
    HISTORY_TEXTS,
    REQUEST_COLUMNS,
    Cut,
    packed_events,
    packed_requests,
)
from jobs.spark.scans import shuffle_partitions
from jobs.spark.session import spark_session
from jobs.spark.timelines import packed_histories, timeline_batches
from validation.tables import TIMELINES

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

# Nearly sorted moments: half the bytes, and most of a timeline's bytes are moments.
DIFFERENCES = ("event_ts.list.element", "known_ts.list.element")


def run(config: RunConfig) -> JobSummary:
    """Build timelines in a session of its own."""
    with spark_session(config.resources, config.home, "build_timelines") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Build timelines in a given session."""
    tables = Build(config, spark, "timelines")
    settled = settled_days(config, "timelines", ("events", "impressions"))
    days = [day for day in tables.shown_days if day not in settled]
    if not days:
        return tables.unchanged("timelines", settled, "build_timelines")
    return tables.write_columns(
        "timelines",
        histories(tables, days),
        timeline_batches(days, timeline_cut(config.timeline)),
        TIMELINES,
        days,
        "build_timelines",
        differences=DIFFERENCES,
    )


def histories(tables: Build, days: Sequence[date]) -> DataFrame:
    """What the timelines of some days, in order, are made of."""
    config = tables.config
    cut = timeline_cut(config.timeline)
    types = config.contract.timeline_event_types
    partitions = shuffle_partitions(tables.spark)
    buckets = num_buckets(partitions)

    def pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_events(batches, days, cut, types, buckets)

    def request(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_requests(batches, days, buckets)

    read = days_between(days[0] - timedelta(days=cut.lookback_days), days[-1])
    events = tables.map_columns("events", read, HISTORY_COLUMNS, pack, PACKED, HISTORY_TEXTS)
    arrived = arrival_days(config)
    requests = tables.map_columns("impressions", arrived, REQUEST_COLUMNS, request, PACKED)
    return packed_histories(events, requests, partitions)


def timeline_cut(timeline: Timeline) -> Cut:
    """What of a history is kept, as the configuration says."""
    sampling = timeline.sampling
    return Cut(
        timeline.num_events,
        timeline.lookback_days,
        None if sampling is None else sampling.recent,
        sampling.value if sampling is not None and isinstance(sampling.value, dict) else None,
    )


if __name__ == "__main__":
    main(run, __doc__)
