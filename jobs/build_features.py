"""Count events per user, ad, surface and every other entity of the contract, day by day.

Reads `events` and attributes. Writes `entity_features`: counts over the contract's windows and,
where asked for, the moments of last events, as of the end of each arrival day. Guarantees: only
what had arrived by the end of a day is counted for it; an increment reads one day of events and the
stored days of the window, and the events of a day that is not stored, or not with every column that
the contract has now.

    python -m jobs.build_features --config var/runs/<run>/config.json
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from jobs import delta
from jobs.command import JobSummary, main
from jobs.config import RunConfig, days_between
from jobs.spark.build import Build
from jobs.spark.features import by_entity, daily_counts, event_counts, rolled_up
from jobs.spark.session import spark_session
from validation.tables import last_columns

if TYPE_CHECKING:
    from datetime import date

    from pyspark.sql import DataFrame, SparkSession

TABLE = "entity_features"


def run(config: RunConfig) -> JobSummary:
    """Build features in a session of its own."""
    with spark_session(config.resources, config.home, "build_features") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Build features in a given session."""
    tables = Build(config, spark, TABLE)
    rows = feature_frame(tables)
    return tables.write(TABLE, rows, config.days, ["entity", "key"], "build_features")


def feature_frame(tables: Build) -> DataFrame:
    """The rows of the entity_features table for the run's arrival days."""
    config = tables.config
    features = config.contract.features
    counts, recency = list(features.counts), list(features.recency)
    first = config.plan.first_day
    longest = timedelta(days=max(features.windows_days) - 1)
    before = days_between(first - longest, first - timedelta(days=1))
    columns = ["entity", "key", "day", *(f"{count}_1d" for count in counts)]
    columns += last_columns(recency)
    stored, lacking = _stored_days(config, before, columns)
    partials = daily_counts(counted_events(tables, [*lacking, *config.days]), counts, recency)
    if stored:
        partials = partials.unionByName(tables.read(TABLE, stored).select(*columns))
    return rolled_up(partials, counts, features.windows_days, config.days, recency)


def _stored_days(
    config: RunConfig, days: list[date], columns: list[str]
) -> tuple[list[date], list[date]]:
    """Days whose counts are stored, and days with events whose counts are not, or not all."""
    table = delta.open_table(config.table(TABLE))
    held = delta.days_with(table, [name for name in columns if name != "day"])
    seen = delta.partition_days(delta.open_table(config.table("events")))
    stored = [day for day in days if day in held]
    return stored, [day for day in days if day in seen and day not in held]


def counted_events(tables: Build, days: list[date]) -> DataFrame:
    """Events of arrival days, once per entity, with a column per count."""
    features = tables.contract.features
    events = event_counts(tables.read("events", days), features.counts)
    events = events.withColumnRenamed("item_id", "ad_id")
    needed = {column for key in features.entities.values() for column in key}
    for entity, on in (("user", "user_id"), ("ad", "ad_id")):
        if needed & set(tables.contract.attribute_columns(entity)):
            events = tables.with_attributes(events, entity, on, "known_ts")
    return by_entity(events, features.entities, ["day", "known_ts", *features.counts])


if __name__ == "__main__":
    main(run, __doc__)
