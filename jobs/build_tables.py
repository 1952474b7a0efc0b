"""Build labels, features, timelines, examples and the vocabulary in one Spark session.

The same as running `build_labels`, `build_features`, `build_timelines`, `build_examples` and
`build_vocabulary` one after the other, with one start of the JVM instead of five; then
`embed_content`, where the contract declares content.

    python -m jobs.build_tables --config var/runs/<run>/config.json
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs import (
    build_examples,
    build_features,
    build_labels,
    build_timelines,
    build_vocabulary,
    embed_content,
)
from jobs.command import JobSummary, main, run_job
from jobs.config import RunConfig
from jobs.spark.build import merged
from jobs.spark.session import spark_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

STEPS = (
    build_labels.build,
    build_features.build,
    build_timelines.build,
    build_examples.build,
    build_vocabulary.build,
)


def run(config: RunConfig) -> JobSummary:
    """Build all tables in a session of their own."""
    with spark_session(config.resources, config.home, "build_tables") as spark:
        return build(config, spark)


def build(config: RunConfig, spark: SparkSession) -> JobSummary:
    """Build all tables in a given session; each step leaves a summary of its own."""
    parts = [run_job(config, step, spark=spark) for step in STEPS]
    if config.contract.content is not None:
        parts.append(run_job(config, embed_content.run))
    return merged("build_tables", parts)


if __name__ == "__main__":
    main(run, __doc__)
