"""Label the impressions that the run's arrival days may have changed.

Reads `impressions` and `outcomes`. Writes `labels`, one commit per day of impression. Guarantees: a
label is null until its attribution window has closed, and never changes once it has.

    python -m jobs.build_labels --config var/runs/<run>/config.json
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.command import JobSummary, main
from jobs.config import RunConfig
from jobs.days import last_arrival_day, outcome_days
from jobs.spark.build import Build
from jobs.spark.labels import label_rows
from jobs.spark.session import spark_session
from validation.tables import OUTCOMES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def run(config: RunConfig) -> JobSummary:
    """Build labels in a session of its own."""
    with spark_session(config.resources, config.home, "build_labels") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Build labels in a given session."""
    tables = Build(config, spark)
    return tables.write(
        "labels",
        label_frame(tables),
        tables.shown_days,
        ["event_ts", "impression_id"],
        "build_labels",
    )


def label_frame(tables: Build) -> DataFrame:
    """The rows of the labels table for the touched days."""
    config = tables.config
    outcomes = tables.read("outcomes", outcome_days(config), empty=OUTCOMES)
    return label_rows(
        tables.impressions(),
        outcomes,
        config.contract.tasks,
        last_arrival_day(config),
        config.contract.time_zone,
    )


if __name__ == "__main__":
    main(run, __doc__)
