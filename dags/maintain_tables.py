"""Keep the tables of a family small, once a week.

One job: small files become few, the log is cut, and files are deleted that no retrain may still be
reading and no registered model was trained on. How long what is kept is the recipe's
`maintenance`. A retrain may run meanwhile: of a day that both write, the retrain's rows stay.

To see what there is and what would be done, without doing it:

    airflow dags trigger maintain_tables --conf '{"dry_run": true}'
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, dag

from dags.common import RecipeOperator, recipe_params
from jobs.recipes import named_recipe

RECIPE = os.environ.get("LAPIDARY_RECIPE", "kuairand")
SPARK = os.environ.get("LAPIDARY_SPARK_POOL", "default_pool")

PARAMS = {
    **recipe_params(
        RECIPE,
        "Whose contract names the family",
        'Changed settings, such as {"maintenance.retention_days": 14}.',
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description="Whether only to report sizes and what would be done.",
    ),
}


@dag(
    description="Compact tables, cut their logs, delete what nobody needs",
    doc_md=__doc__,
    schedule=CronTriggerTimetable("30 12 * * 0", timezone=named_recipe(RECIPE).contract.time_zone),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    params=PARAMS,
    default_args={"owner": "lapidary", "retries": 1, "retry_delay": timedelta(minutes=5)},
    tags=["lapidary", "maintenance"],
)
def maintain_tables() -> None:
    """Draw the graph."""
    RecipeOperator(task_id="maintain_tables", pool=SPARK)


maintain_tables()
