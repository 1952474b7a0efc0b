"""Labels: which outcomes followed an impression within a task's attribution window.

A label is mature once its window has closed and its impression has arrived; until then it is null.
It counts the outcomes that were known by the end of the day on which it matured, so that it is the
same in every later run. What arrives later than that is the business of label repair.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

from jobs.contract import Task
from jobs.spark.raw import local_day
from validation import tables

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def label_rows(
    impressions: DataFrame,
    outcomes: DataFrame,
    tasks: Mapping[str, Task],
    last_day: date,
    time_zone: str,
) -> DataFrame:
    """Label impressions.

    Args:
        impressions: Columns `impression_id`, `event_ts`, `known_ts`, `event_day`, `day`.
        outcomes: The outcomes table's columns.
        tasks: Tasks by name.
        last_day: Last arrival day that the tables hold.
        time_zone: The time zone that defines a day.

    Returns:
        The labels table's columns; `day` is the day of the impression. An outcome whose own clock
        lies before its impression's counts too.
    """
    from pyspark.sql import functions as F

    known = outcomes.select(
        "impression_id",
        "outcome_type",
        F.col("event_ts").alias("outcome_ts"),
        F.col("day").alias("outcome_day"),
    )
    joined = impressions.join(known, on="impression_id", how="left")
    labels, matures = [], {}
    for name, task in tasks.items():
        window = F.make_dt_interval(secs=F.lit(int(task.window.total_seconds())))
        mature_ts = F.greatest(F.col("event_ts") + window, F.col("known_ts"))
        mature_day = local_day(mature_ts, time_zone)
        followed = (
            F.col("outcome_type").isin(task.outcomes)
            & (F.col("outcome_ts") <= F.col("event_ts") + window)
            & (F.col("outcome_day") <= mature_day)
        )
        positive = F.max(F.when(followed, F.lit(1)).otherwise(F.lit(0)))
        mature = F.max(mature_day) <= F.lit(last_day)
        labels.append(F.when(mature, positive).cast("tinyint").alias(f"label_{name}"))
        matures[f"mature_ts_{name}"] = F.max(mature_ts).alias(f"mature_ts_{name}")
    grouped = joined.groupBy("impression_id").agg(
        F.max("event_ts").alias("event_ts"),
        F.max("event_day").alias("day"),
        *labels,
        *matures.values(),
    )
    return grouped.select(*tables.labels(list(tasks)))
