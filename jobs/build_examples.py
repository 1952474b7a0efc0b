"""Join each impression with its features, its labels and the place where its history ends.

Reads `impressions`, `labels`, `timelines`, `entity_features`, `events` and attributes. Writes
`examples`, one commit per day of impression. Guarantees: nothing known at or after an impression
is in its features or its history; a missing day of features is an error, never a count of zero.

    python -m jobs.build_examples --config var/runs/<run>/config.json
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from jobs.build_features import TABLE as FEATURES
from jobs.build_features import counted_events
from jobs.command import JobSummary, main
from jobs.config import RunConfig
from jobs.spark.build import Build
from jobs.spark.examples import example_rows, history_ends
from jobs.spark.features import by_entity, counts_at_impressions, event_counts, today_counts
from jobs.spark.session import spark_session

if TYPE_CHECKING:
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
    config = tables.config
    days = tables.shown_days
    features = config.contract.features
    names = list(features.counts)
    queries = by_entity(shown, features.entities, ["day", "event_ts", "impression_id"])
    day_before = [day - timedelta(days=1) for day in days]
    tables.require(FEATURES, day_before)
    counts = counts_at_impressions(
        today_counts(queries, counted_events(tables, days), names, features.recency),
        tables.read(FEATURES, day_before),
        features.entities,
        names,
        features.windows_days,
        features.recency,
    )
    user = {"user": ["user_id"]}
    events = event_counts(
        tables.read("events", days), {"num": config.contract.timeline_event_types}
    )
    today = today_counts(
        by_entity(shown, user, ["day", "event_ts", "impression_id"]),
        by_entity(events, user, ["day", "known_ts", "num"]),
        ["num"],
    )
    ends = history_ends(today, tables.read("timelines", days), config.timeline.num_events)
    return example_rows(shown, tables.read("labels", days), counts, ends, config.contract)


if __name__ == "__main__":
    main(run, __doc__)
