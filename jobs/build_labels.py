"""Label the impressions that the run's arrival days may have changed.

Reads `impressions`, `outcomes` and the ledger of label repairs. Writes `labels`, one commit per day
of impression. Guarantees: a label is null until its attribution window has closed, and once it has
only a repair changes it; building a repaired day again leaves it repaired.

    python -m jobs.build_labels --config var/runs/<run>/config.json
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

from jobs.command import JobSummary, main
from jobs.config import RunConfig, days_between
from jobs.days import last_arrival_day, outcome_days
from jobs.repairs import TABLE as REPAIRS
from jobs.repairs import read_repairs
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
    tables = Build(config, spark, "labels")
    repairs = read_repairs(config.table(REPAIRS))
    if repairs.version is not None:
        tables.inputs[REPAIRS] = repairs.version
    return tables.write(
        "labels",
        label_frame(tables, repairs.until),
        tables.shown_days,
        ["event_ts", "impression_id"],
        "build_labels",
    )


def label_frame(tables: Build, repaired_until: Mapping[date, date]) -> DataFrame:
    """The rows of the labels table for the touched days.

    Args:
        tables: What is being built.
        repaired_until: As `label_rows` takes it, of any days.
    """
    config = tables.config
    repaired = {day: until for day, until in repaired_until.items() if day in tables.shown_days}
    arrivals = outcome_days(config)
    arrivals = days_between(arrivals[0], max([arrivals[-1], *repaired.values()]))
    outcomes = tables.read("outcomes", arrivals, empty=OUTCOMES)
    return label_rows(
        tables.impressions(),
        outcomes,
        config.contract.tasks,
        last_arrival_day(config),
        config.contract.time_zone,
        repaired,
    )


if __name__ == "__main__":
    main(run, __doc__)
