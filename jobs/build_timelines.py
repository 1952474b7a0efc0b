"""Store each user's history once per day.

Reads `events` and `impressions`. Writes `timelines`: a row for every user with an impression or a
new event on a day. Guarantees: what was known at any moment of a day is a prefix of its timeline;
a user with more than 4N new events a day is cut there, and the cut is counted.

    python -m jobs.build_timelines --config var/runs/<run>/config.json
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from jobs.command import JobSummary, main
from jobs.config import RunConfig, days_between
from jobs.spark.build import Build
from jobs.spark.session import spark_session
from jobs.spark.timelines import timeline_rows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def run(config: RunConfig) -> JobSummary:
    """Build timelines in a session of its own."""
    with spark_session(config.resources, config.home, "build_timelines") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Build timelines in a given session."""
    tables = Build(config, spark, "timelines")
    rows = timeline_frame(tables)
    return tables.write("timelines", rows, tables.shown_days, ["user_id"], "build_timelines")


def timeline_frame(tables: Build) -> DataFrame:
    """The rows of the timelines table for the touched days."""
    from pyspark.sql import functions as F

    config = tables.config
    days = tables.shown_days
    read_from = days[0] - timedelta(days=config.timeline.lookback_days)
    events = tables.read("events", days_between(read_from, days[-1]))
    return timeline_rows(
        events.where(F.col("event_type").isin(config.contract.timeline_event_types)),
        tables.impressions(),
        days,
        config.timeline.num_events,
        config.timeline.lookback_days,
        config.contract.time_zone,
    )


if __name__ == "__main__":
    main(run, __doc__)
