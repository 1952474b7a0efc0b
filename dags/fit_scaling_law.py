"""Fit the scaling law of three models on a simulated world: excess NE against FLOPs.

Runs on demand only. The sweep is resumable: cells that have run are kept below
`<LAPIDARY_HOME>/scaling_law`, and a run stops at its budget of CPU seconds, so triggering it again
goes on where the last one stopped. Table, laws and plot are in MLflow's experiment
`fit_scaling_law`.

By hand, and without Airflow:

    airflow dags trigger fit_scaling_law
    python -m jobs.fit_scaling_law --recipe kuairand
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import dag

from dags.common import RecipeOperator, recipe_params

RECIPE = os.environ.get("LAPIDARY_RECIPE", "kuairand")
RAY = os.environ.get("LAPIDARY_RAY_POOL", "default_pool")
"""The pool of trainings: this one needs no Ray, but as many cores."""

PARAMS = recipe_params(
    RECIPE,
    "Whose sweep and MLflow store",
    'Changed settings, such as {"scaling_law.budget_cpu_seconds": 3600}.',
)


@dag(
    description="Excess NE against compute, on a simulated world",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    params=PARAMS,
    default_args={"owner": "lapidary", "retries": 1, "retry_delay": timedelta(seconds=30)},
    tags=["lapidary", "research"],
)
def fit_scaling_law() -> None:
    """Draw the graph."""
    RecipeOperator(task_id="fit_scaling_law", pool=RAY)


fit_scaling_law()
