"""Refresh the vectors of users with the teacher that serves.

Students read, of every user, the latest vector that the teacher's upstream wrote before the
impression. This writes those as of the end of the newest day; see `jobs/embed_users.py`. It needs a
recipe with `user_vectors`, and refuses any other in one sentence.

By hand, and without Airflow:

    airflow dags trigger embed_users
    python -m jobs.embed_users --recipe kuairand

A run that finds nothing new changes nothing. It may run at any time, also beside `daily_retrain`.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import CronDataIntervalTimetable, dag

from dags.common import RecipeOperator, recipe_params
from jobs.recipes import named_recipe

RECIPE = os.environ.get("LAPIDARY_RECIPE", "kuairand")
RAY = os.environ.get("LAPIDARY_RAY_POOL", "default_pool")
"""The pool of trainings: this one needs no Ray, but as many cores."""
AT_NINE = CronDataIntervalTimetable("0 9 * * *", timezone=named_recipe(RECIPE).contract.time_zone)
"""Daily at nine in the log's time zone: after the day's retrain, which starts at night."""

PARAMS = recipe_params(
    RECIPE,
    "Whose users",
    "The changed settings that its days were retrained with.",
)


@dag(
    description="Refresh the vectors of users with the teacher that serves",
    doc_md=__doc__,
    schedule=AT_NINE,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    params=PARAMS,
    default_args={"owner": "lapidary", "retries": 1, "retry_delay": timedelta(seconds=30)},
    tags=["lapidary", "tables"],
)
def embed_users() -> None:
    """Draw the graph."""
    RecipeOperator(task_id="embed_users", pool=RAY)


embed_users()
