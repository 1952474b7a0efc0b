"""Join each impression with its features, its labels and the place where its history ends.

Reads `impressions`, `labels`, `timelines`, `entity_features`, `events` and attributes. Writes
`examples`, one commit per day of impression. Guarantees: nothing known at or after an impression
is in its features or its history.

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
    from pyspark.sql import SparkSession


def run(config: RunConfig) -> JobSummary:
    """Build examples in a session of its own."""
    with spark_session(config.resources, config.home, "build_examples") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Build examples in a given session."""
    from pyspark.sql import functions as F

    tables = Build(config, spark)
    days = tables.shown_days
    features = config.contract.features
    shown = tables.impressions().withColumn("day", F.col("event_day"))
    for entity, on in (("user", "user_id"), ("ad", "ad_id")):
        shown = tables.with_attributes(shown, entity, on, "event_ts")
    shown = shown.persist()
    names = list(features.counts)
    queries = by_entity(shown, features.entities, ["day", "event_ts", "impression_id"])
    day_before = [day - timedelta(days=1) for day in days]
    counts = counts_at_impressions(
        today_counts(queries, counted_events(tables, days), names),
        tables.read(FEATURES, day_before),
        features.entities,
        names,
        features.windows_days,
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
    ends = history_ends(shown, today, tables.read("timelines", days), config.timeline.num_events)
    rows = example_rows(shown, tables.read("labels", days), counts, ends, config.contract)
    summary = tables.write("examples", rows, days, ["event_ts", "impression_id"], "build_examples")
    shown.unpersist()
    return summary


if __name__ == "__main__":
    main(run, __doc__)
