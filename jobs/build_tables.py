"""Build labels, features, timelines, examples and the vocabulary in one Spark session.

The same as running `build_labels`, `build_features`, `build_timelines`, `build_examples` and
`build_vocabulary` one after the other, with one start of the JVM instead of five.

    python -m jobs.build_tables --config var/runs/<run>/config.json
"""

from __future__ import annotations

from jobs import (
    build_examples,
    build_features,
    build_labels,
    build_timelines,
    build_vocabulary,
)
from jobs.command import JobSummary, main, run_job
from jobs.config import RunConfig
from jobs.spark.build import merged
from jobs.spark.session import spark_session

STEPS = (
    build_labels.build,
    build_features.build,
    build_timelines.build,
    build_examples.build,
    build_vocabulary.build,
)


def run(config: RunConfig) -> JobSummary:
    """Build all tables; each step leaves a summary of its own."""
    with spark_session(config.resources, config.home, "build_tables") as spark:
        parts = [run_job(config, step, spark=spark) for step in STEPS]
    return merged("build_tables", parts)


if __name__ == "__main__":
    main(run, __doc__)
