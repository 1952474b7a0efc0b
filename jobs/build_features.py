"""Count events per user, ad, surface and every other entity of the contract, day by day.

Reads `events` and attributes. Writes `<entity>_features`: counts over the last 1, 7 and 30 days as
of the end of each arrival day. Guarantees: only what had arrived by the end of a day is counted
for it; an increment reads one day of events and the stored days of the window, never all events.

    python -m jobs.build_features --config var/runs/<run>/config.json
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from jobs import delta
from jobs.command import JobSummary, main
from jobs.config import RunConfig, days_between
from jobs.spark.build import Build, merged
from jobs.spark.features import daily_counts, event_counts, rolled_up
from jobs.spark.session import spark_session

if TYPE_CHECKING:
    from datetime import date

    from pyspark.sql import DataFrame, SparkSession


def run(config: RunConfig) -> JobSummary:
    """Build features in a session of its own."""
    with spark_session(config.resources, config.home, "build_features") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Build features in a given session."""
    tables = Build(config, spark)
    features = config.contract.features
    counts = list(features.counts)
    counted = counted_events(tables, config.days).persist()
    first = config.plan.first_day
    before = days_between(
        first - timedelta(days=max(features.windows_days) - 1), first - timedelta(days=1)
    )
    parts = []
    for entity, key in features.entities.items():
        table = entity_table(entity)
        partials = daily_counts(counted, key, counts)
        if delta.open_table(config.table(table)) is not None:
            held = tables.read(table, before)
            partials = partials.unionByName(held.select(*partials.columns))
        rows = rolled_up(partials, key, counts, features.windows_days, config.days)
        parts.append(tables.write(table, rows, config.days, key, "build_features"))
    counted.unpersist()
    return merged("build_features", parts)


def counted_events(tables: Build, days: list[date]) -> DataFrame:
    """Events of arrival days with a column per count and the attributes that entities need."""
    features = tables.contract.features
    events = tables.read("events", days)
    counted = event_counts(events, features.counts).withColumnRenamed("item_id", "ad_id")
    needed = {column for key in features.entities.values() for column in key}
    for entity, on in (("user", "user_id"), ("ad", "ad_id")):
        if needed & set(tables.contract.attribute_columns(entity)):
            counted = tables.with_attributes(counted, entity, on, "known_ts")
    return counted.select(*sorted(needed), "day", "known_ts", *features.counts)


def entity_table(entity: str) -> str:
    """Table of an entity's counts."""
    return f"{entity}_features"


if __name__ == "__main__":
    main(run, __doc__)
