"""Join each impression with its features, its labels and the place where its history ends.

Reads `impressions`, `labels`, `timelines`, `<entity>_features`, `events` and attributes. Writes
`examples`, one commit per day of impression. Guarantees: nothing known at or after an impression
is in its features or its history.

    python -m jobs.build_examples --config var/runs/<run>/config.json
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from jobs.build_features import counted_events, entity_table
from jobs.command import JobSummary, main
from jobs.config import RunConfig
from jobs.spark.build import Build
from jobs.spark.examples import example_rows, history_ends
from jobs.spark.features import counts_at_impressions, event_counts, today_counts
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
    counted = counted_events(tables, days).persist()
    day_before = [day - timedelta(days=1) for day in days]
    counts = [
        counts_at_impressions(
            shown,
            counted,
            tables.read(entity_table(entity), day_before),
            entity,
            key,
            list(features.counts),
            features.windows_days,
        )
        for entity, key in features.entities.items()
    ]
    new_events = event_counts(
        tables.read("events", days), {"num": config.contract.timeline_event_types}
    )
    today = today_counts(shown, new_events, ["user_id"], ["num"])
    ends = history_ends(shown, today, tables.read("timelines", days), config.timeline.num_events)
    rows = example_rows(shown, tables.read("labels", days), counts, ends, config.contract)
    summary = tables.write("examples", rows, days, ["event_ts", "impression_id"], "build_examples")
    counted.unpersist()
    shown.unpersist()
    return summary


if __name__ == "__main__":
    main(run, __doc__)
