"""Repair the labels of the days that late conversions belong to.

A label counts what was known on the day on which its window closed. Conversions that arrive after
that are counted here, once a day: only the days that they belong to are replaced, in `labels` and
in `examples`. What changed, and which registered models had learnt it as it was, is written to the
table `label_repairs`; those versions are tagged `stale_labels` in MLflow.

By hand, and without Airflow:

    airflow dags trigger repair_labels
    python -m jobs.repair_labels --recipe kuairand

A run without anything new changes nothing. It may run beside `daily_retrain`: if both replace the
same day at the same time, the one that began earlier fails and is retried.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import CronDataIntervalTimetable, dag

from dags.common import RecipeOperator, recipe_params
from jobs.recipes import named_recipe

RECIPE = os.environ.get("LAPIDARY_RECIPE", "kuairand")
SPARK = os.environ.get("LAPIDARY_SPARK_POOL", "default_pool")
AT_NOON = CronDataIntervalTimetable("0 12 * * *", timezone=named_recipe(RECIPE).contract.time_zone)
"""Daily at noon in the log's time zone: well after the day's retrain, which starts at night."""

PARAMS = recipe_params(
    RECIPE,
    "Whose labels to repair",
    "The changed settings that its days were retrained with.",
)


@dag(
    description="Count late conversions in the labels of the days they belong to",
    doc_md=__doc__,
    schedule=AT_NOON,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    params=PARAMS,
    default_args={"owner": "lapidary", "retries": 1, "retry_delay": timedelta(seconds=30)},
    tags=["lapidary", "tables"],
)
def repair_labels() -> None:
    """Draw the graph."""
    RecipeOperator(task_id="repair_labels", pool=SPARK)


repair_labels()
