"""Make the days after a run's own anew, where a day was ingested again that they build upon.

Reads the raw log. Writes what `ingest_log` and `build_tables` write, for the run's own days and
every later one that the tables hold. Guarantees: afterwards all of them are as if the days had
arrived in order; a day whose rows stay the same gets no commit.

    python -m jobs.rebuild_days --config var/runs/<run>/config.json
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jobs import build_tables, ingest_log
from jobs.command import JobSummary, main, run_job
from jobs.config import RunConfig
from jobs.days import last_arrival_day
from jobs.spark.build import merged
from jobs.spark.session import spark_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def run(config: RunConfig) -> JobSummary:
    """Rebuild in a session of its own."""
    with spark_session(config.resources, config.home, "rebuild_days") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Rebuild in a given session; each step leaves a summary of its own in the run's folder."""
    # The gate window stays the run's: the vocabulary learns nothing of what came after it.
    plan = config.plan.model_copy(update={"day": last_arrival_day(config)})
    whole = config.model_copy(update={"plan": plan})
    steps = (ingest_log.build, build_tables.build)
    done = merged("rebuild_days", [run_job(whole, step, spark=spark) for step in steps])
    return replace(done, details={"days": [str(day) for day in whole.days]})


if __name__ == "__main__":
    main(run, __doc__)
