"""Join each impression with its features, its labels and the place where its history ends.

Reads `impressions`, `labels`, `timelines`, `entity_features`, `events` and attributes. Writes
`examples`, one commit per day of impression. Guarantees: nothing known at or after an impression
is in its features or its history; a missing day of features is an error, never a count of zero.

    python -m jobs.build_examples --config var/runs/<run>/config.json
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from jobs.build_features import TABLE as FEATURES
from jobs.build_features import counted_events
from jobs.command import JobSummary, main
from jobs.config import RunConfig
from jobs.days import arrival_days
from jobs.spark.buckets import PACKED, num_buckets
from jobs.spark.build import Build
from jobs.spark.counting import Counting
from jobs.spark.examples import example_rows
from jobs.spark.history_ends import (
    SHOWN_COLUMNS,
    TIMELINE_COLUMNS,
    history_ends,
    packed_shown,
    packed_timelines,
)
from jobs.spark.impression_counts import (
    before_columns,
    counts_at_impressions,
    packed_before,
    packed_increments,
    packed_queries,
)
from jobs.spark.session import spark_session
from jobs.spark.tables import shuffle_partitions

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession


def run(config: RunConfig) -> JobSummary:
    """Build examples in a session of its own."""
    with spark_session(config.resources, config.home, "build_examples") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Build examples in a given session."""
    tables = Build(config, spark, "examples")
    shown = shown_impressions(tables).persist()
    order = ["event_ts", "impression_id"]
    rows = example_frame(tables, shown)
    summary = tables.write("examples", rows, tables.shown_days, order, "build_examples")
    shown.unpersist()
    return summary


def shown_impressions(tables: Build) -> DataFrame:
    """Impressions of the touched days with their attributes; `day` is the day shown."""
    from pyspark.sql import functions as F

    shown = tables.impressions().withColumn("day", F.col("event_day"))
    for entity, on in (("user", "user_id"), ("ad", "ad_id")):
        shown = tables.with_attributes(shown, entity, on, "event_ts")
    return shown


def example_frame(tables: Build, shown: DataFrame) -> DataFrame:
    """The rows of the examples table for the touched days."""
    days = tables.shown_days
    labels = tables.read("labels", days)
    counts, ends = _counts(tables, shown), _history_ends(tables, days)
    return example_rows(shown, labels, counts, ends, tables.contract)


def _counts(tables: Build, shown: DataFrame) -> DataFrame:
    counting = Counting.of(tables.contract.features)
    partitions = shuffle_partitions(tables.spark)
    buckets = num_buckets(partitions)
    days = tables.shown_days
    day_before = [day - timedelta(days=1) for day in days]
    tables.require(FEATURES, day_before)

    def increments(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_increments(batches, counting, buckets)

    def queries(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_queries(batches, counting, buckets)

    def before(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_before(batches, counting, buckets)

    schema = ", ".join(f"{name} {kind}" for name, kind in PACKED.items())
    asked = shown.select("impression_id", "day", "event_ts", *counting.key_columns)
    packed = [
        counted_events(tables, counting, days).mapInArrow(increments, schema),
        asked.mapInArrow(queries, schema),
        tables.map_columns(FEATURES, day_before, before_columns(counting), before, PACKED),
    ]
    return counts_at_impressions(packed, counting, buckets, partitions)


def _history_ends(tables: Build, days: Sequence[date]) -> DataFrame:
    partitions = shuffle_partitions(tables.spark)
    buckets = num_buckets(partitions)

    def pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_timelines(batches, buckets)

    def ask(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_shown(batches, days, buckets)

    timelines = tables.map_columns("timelines", days, TIMELINE_COLUMNS, pack, PACKED)
    arrived = arrival_days(tables.config)
    shown = tables.map_columns("impressions", arrived, SHOWN_COLUMNS, ask, PACKED)
    return history_ends(timelines, shown, partitions)


if __name__ == "__main__":
    main(run, __doc__)
