"""Admit new values to the vocabulary.

Reads `events` and `examples` of the run's arrival days and of the days before, as far as a first
run reaches back. Writes `vocabulary`. Guarantees: only rows known before the gate window count;
a value keeps its row for ever; a repeat admits nothing.

    python -m jobs.build_vocabulary --config var/runs/<run>/config.json
"""

from __future__ import annotations

from datetime import timedelta
from functools import reduce
from typing import TYPE_CHECKING

from jobs.command import JobSummary, log, main
from jobs.config import RunConfig, days_between
from jobs.spark.build import Build
from jobs.spark.session import spark_session
from jobs.vocabulary import EVENT_TYPE, admit

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def run(config: RunConfig) -> JobSummary:
    """Build the vocabulary in a session of its own."""
    with spark_session(config.resources, config.home, "build_vocabulary") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Build the vocabulary in a given session."""
    from pyspark.sql import functions as F

    tables = Build(config, spark)
    first = config.plan.day - timedelta(days=config.windows.bootstrap_days)
    days = days_between(first, config.plan.day)
    cut_off = F.lit(config.plan.gate_start)
    examples = tables.read("examples", days).where(F.col("known_ts") < cut_off)
    events = tables.read("events", days).where(F.col("known_ts") < cut_off)
    events = events.where(F.col("event_type").isin(config.contract.timeline_event_types))
    counts = [_counts(examples, field, field) for field in config.contract.features.categorical]
    counts += [
        _counts(events, "ad_id", "item_id"),
        _counts(events, "surface", "surface"),
        _counts(events, EVENT_TYPE, EVENT_TYPE),
    ]
    seen = (
        reduce(lambda a, b: a.unionByName(b), counts)
        .groupBy("field", "value")
        .agg(F.sum("count").alias("count"))
    )
    rows = seen.where(F.col("value").isNotNull()).collect()
    version, admitted = admit(
        config.table("vocabulary"),
        [(row["field"], row["value"], row["count"]) for row in rows],
        config.contract,
        config.run.run_id,
    )
    log.info("vocabulary: %d values admitted", admitted)
    return JobSummary(
        job="build_vocabulary",
        inputs=dict(tables.inputs),
        outputs={"vocabulary": version},
        rows={"vocabulary": admitted},
    )


def _counts(rows: DataFrame, field: str, column: str) -> DataFrame:
    from pyspark.sql import functions as F

    return rows.groupBy(F.lit(field).alias("field"), F.col(column).alias("value")).count()


if __name__ == "__main__":
    main(run, __doc__)
