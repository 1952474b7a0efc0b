"""Retrain the whole model family on one day of the log.

The raw log becomes tables, the tables teach the **teacher**, the teacher's scores teach the
**domain students** and the verticals that `teachers` names, and domain students the other
**vertical students**. Gates stand at every hand-over. A family that passes the last one takes one
more pass over the gate window and is promoted **whole or not at all**: a member kept from the
champion would lack labels that no later run teaches. A student that fails stops no other but those
that it teaches; clear its task, and the family goes on.

| When | Which day is retrained |
| --- | --- |
| on schedule, and in a backfill | the day that the run's data interval starts in |
| triggered by hand | `day`; without it, the run's logical date |

By hand, and a range in the log's time zone:

    airflow dags trigger daily_retrain --conf '{"day": "2022-05-04"}'
    airflow backfill create --dag-id daily_retrain \\
        --from-date 2022-05-01T00:00+08:00 --to-date 2022-05-03T23:59+08:00

A task is a job: `python -m jobs.<task> --config <run folder>/config.json` does the same without
Airflow. **When a gate is red**, its log ends with one sentence and its page is in Data Docs;
nothing after it ran, the champion still serves, and `write_report` has written the run's report.
Clear the failed task to go on from there.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Param, TaskGroup, XComArg, chain, dag, task
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.types import RuntimeTaskInstanceProtocol

from dags.common import (
    GateOperator,
    JobOperator,
    LogSensor,
    ResolveConfig,
    closing_time,
    recipe_params,
)
from jobs.recipes import named_recipe

RECIPE = os.environ.get("LAPIDARY_RECIPE", "kuairand")
"""The recipe of scheduled runs; its contract sets their time."""
LOG = named_recipe(RECIPE).contract
# On a small machine both pools have one slot, so that no two engines run at once. Unset, tasks
# take `default_pool`: a task in a pool that does not exist would wait for ever.
SPARK = os.environ.get("LAPIDARY_SPARK_POOL", "default_pool")
RAY = os.environ.get("LAPIDARY_RAY_POOL", "default_pool")
STUDENT = "{{ task.student }}"

PARAMS = {
    "day": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Day",
        description="Day of the log; if empty, the logical date's. Scheduled and backfill runs "
        f"have their own. The log covers {LOG.first_day} to {LOG.last_day or 'yesterday'}.",
    ),
    **recipe_params(
        RECIPE,
        "What to retrain and how",
        'Changed settings, such as {"teacher.batch_size": 256}.',
    ),
}


@dag(
    description="Retrain teacher and students on one day of the log, judge them, promote them",
    doc_md=__doc__,
    schedule=closing_time(LOG),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    params=PARAMS,
    default_args={"owner": "lapidary", "retries": 1, "retry_delay": timedelta(seconds=30)},
    tags=["lapidary", "training"],
)
def daily_retrain() -> None:
    """Draw the graph."""

    @task
    def list_students(level: str, ti: RuntimeTaskInstanceProtocol | None = None) -> list[str]:
        """Students of the run's own contract: a task is mapped over what another one returns."""
        assert ti is not None
        return ti.xcom_pull(task_ids="resolve_config", key=level)

    resolve = ResolveConfig(task_id="resolve_config")
    wait = LogSensor(task_id="wait_for_log", timeout=timedelta(hours=6), poke_interval=60)

    with TaskGroup("tables", tooltip="Raw log to packed examples", prefix_group_id=False) as tables:
        chain(
            JobOperator(task_id="ingest_log", pool=SPARK),
            GateOperator(task_id="gate_events"),
            JobOperator(task_id="build_tables", pool=SPARK),
            GateOperator(task_id="gate_examples"),
            JobOperator(task_id="pack_examples"),
        )

    with TaskGroup("teacher", tooltip="Train, judge, score", prefix_group_id=False) as teacher:
        baselines = JobOperator(task_id="fit_baselines")
        chain(
            [JobOperator(task_id="train_teacher", pool=RAY), baselines],
            GateOperator(task_id="judge_teacher"),
            JobOperator(task_id="score_teacher"),
        )

    def train(job: str, students: XComArg) -> MappedOperator:
        return JobOperator.partial(task_id=job, map_index_template=STUDENT).expand(student=students)

    with TaskGroup("students", tooltip="Distil, domains first", prefix_group_id=False) as students:
        domains = list_students.override(task_id="list_domains")("domains")
        domain = train("train_domain_student", domains)
        # The verticals of a domain whose student has failed say so; those of the others are taught.
        verticals = list_students.override(
            task_id="list_verticals", trigger_rule="all_done_min_one_success"
        )("verticals")
        vertical = train("train_vertical_student", verticals)
        chain(domain, verticals)
        with TaskGroup("direct", tooltip="Verticals that the teacher teaches"):
            listed = list_students.override(task_id="list_verticals")("direct_verticals")
            direct = train("train_vertical_student", listed)

    with TaskGroup("promotion", tooltip="Judge, promote", prefix_group_id=False) as promotion:
        promote = JobOperator(task_id="promote_family")
        # There may be no vertical of one kind.
        judge = GateOperator(task_id="judge_family", trigger_rule="none_failed_min_one_success")
        chain(
            judge,
            JobOperator(task_id="absorb_gate_window", pool=RAY),
            promote,
        )

    # Both ends count for the run's state. With a teardown alone, a run whose gate failed but whose
    # report was written would be green.
    retrained = EmptyOperator(task_id="retrained")
    report = JobOperator(task_id="write_report").as_teardown(on_failure_fail_dagrun=True)

    chain(resolve, wait, tables, teacher, students, promotion, retrained)
    chain(domain, judge)
    # The report waits for all that may still run when something else has failed.
    chain([baselines, domain, vertical, direct, promote], report)


daily_retrain()
