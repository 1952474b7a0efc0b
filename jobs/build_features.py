"""Count events per user, ad, surface and every other entity of the contract, day by day.

Reads `events` and attributes. Writes `entity_features`: counts over the contract's windows and,
where asked for, the moments of last events, as of the end of each arrival day. Guarantees: only
what had arrived by the end of a day is counted for it; an increment reads one day of events and the
stored days of the window, and the events of a day that is not stored, or not with every column that
the contract has now.

    python -m jobs.build_features --config var/runs/<run>/config.json
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from jobs import delta
from jobs.command import JobSummary, main
from jobs.config import RunConfig, days_between
from jobs.spark.buckets import PACKED, gathered, num_buckets
from jobs.spark.build import Build
from jobs.spark.counting import Counting
from jobs.spark.daily_counts import feature_batches, packed_days, packed_events, stored_columns
from jobs.spark.scans import shuffle_partitions
from jobs.spark.session import spark_session
from validation.tables import entity_features

if TYPE_CHECKING:
    from datetime import date

    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

TABLE = "entity_features"


def run(config: RunConfig) -> JobSummary:
    """Build features in a session of its own."""
    with spark_session(config.resources, config.home, "build_features") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Build features in a given session."""
    tables = Build(config, spark, TABLE)
    counting = Counting.of(config.contract.features)
    return tables.write_columns(
        TABLE,
        packed_counts(tables, counting),
        feature_batches(config.days, counting),
        entity_features(list(counting.counts), counting.windows_days, counting.recency),
        config.days,
        "build_features",
    )


def packed_counts(tables: Build, counting: Counting) -> DataFrame:
    """What the features of the run's arrival days are made of, ready for `feature_batches`."""
    config = tables.config
    first = config.plan.first_day
    longest = timedelta(days=max(counting.windows_days) - 1)
    before = days_between(first - longest, first - timedelta(days=1))
    columns = stored_columns(counting)
    held, lacking = _stored_days(config, before, columns)
    partitions = shuffle_partitions(tables.spark)
    buckets = num_buckets(partitions)

    def add_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_events(batches, counting, buckets)

    def pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return packed_days(batches, counting, buckets)

    schema = ", ".join(f"{name} {kind}" for name, kind in PACKED.items())
    events = counted_events(tables, counting, [*lacking, *config.days])
    packed = events.mapInArrow(add_up, schema)
    if held:
        packed = packed.unionByName(tables.map_columns(TABLE, held, columns, pack, PACKED))
    return gathered(packed, partitions)


def _stored_days(
    config: RunConfig, days: list[date], columns: list[str]
) -> tuple[list[date], list[date]]:
    """Days whose counts are stored, and days with events whose counts are not, or not all."""
    table = delta.open_table(config.table(TABLE))
    held = delta.days_with(table, [name for name in columns if name != "day"])
    seen = delta.partition_days(delta.open_table(config.table("events")))
    stored = [day for day in days if day in held]
    return stored, [day for day in days if day in seen and day not in held]


def counted_events(tables: Build, counting: Counting, days: list[date]) -> DataFrame:
    """Events of arrival days that some count counts, with the columns of every key."""
    from pyspark.sql import functions as F

    events = tables.read("events", days).where(F.col("event_type").isin(counting.event_types))
    events = events.withColumnRenamed("item_id", "ad_id")
    for entity, on in (("user", "user_id"), ("ad", "ad_id")):
        if {*counting.key_columns} & set(tables.contract.attribute_columns(entity)):
            events = tables.with_attributes(events, entity, on, "known_ts")
    return events.select("day", "known_ts", "event_type", *counting.key_columns)


if __name__ == "__main__":
    main(run, __doc__)
