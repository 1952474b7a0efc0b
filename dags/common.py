"""What the DAGs are made of: a task that runs one job as a program, and the wait for a day's log.

A task knows a job's name and nothing of its code. It starts `python -m jobs.<task id>` from the
repository's root, passes the log lines on and tells its exit code in one sentence.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from airflow.providers.standard.sensors.filesystem import FileSensor
from airflow.sdk import BaseOperator, Context, CronDataIntervalTimetable, Param
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
)

from jobs.config import day_of, lapidary_home
from jobs.contract import LogContract
from jobs.errors import ConfigError
from jobs.recipes import RECIPES, named_recipe

ROOT = Path(__file__).resolve().parent.parent
_TIMED = ("scheduled", "backfill")
"""Run types whose day is the data interval's."""
_STOP_SECONDS = 30
_REFUSAL = "lapidary: "
"""How the one line starts in which a job says why it refuses."""


class JobOperator(BaseOperator):
    """Run the job that the task is named after, with the configuration `resolve_config` froze.

    The process stays in the task's process group, so that whatever ends the task ends the job.
    Only stdout's last line, the summary, is read; it waits in a file, so that no log line can
    mix with it.

    Args:
        config: URI of the run's configuration.
        student: Value of `--student`, for a job that runs once per student.
    """

    template_fields: Sequence[str] = ("config", "student")
    ui_color = "#e6eef8"

    def __init__(
        self,
        *,
        config: str = "{{ ti.xcom_pull(task_ids='resolve_config', key='config') or '' }}",
        student: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"logger_name": "lapidary", **kwargs})
        self.config = config
        self.student = student
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def job(self) -> str:
        """The job's name: the task's, without its groups'."""
        return self.task_id.rpartition(".")[2]

    def arguments(self, context: Context) -> list[str]:
        """The job's arguments in this run."""
        if not self.config:
            raise AirflowSkipException("resolve_config left no configuration: nothing to run on")
        student = ["--student", self.student] if self.student else []
        return ["--config", self.config, *student]

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the job to its end.

        Returns:
            What of its summary fits an XCom: rows, table versions, seconds, MLflow run.

        Raises:
            AirflowFailException: The job refused: retrying would not change its mind.
            AirflowException: The job crashed.
        """
        summary = self._run(self.arguments(context))
        return {key: summary.get(key) for key in ("rows", "outputs", "seconds", "mlflow_run")}

    def on_kill(self) -> None:
        """Stop the job: asked first, then forced."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _run(self, arguments: list[str]) -> dict[str, Any]:
        command = ["-m", f"jobs.{self.job}", *arguments]
        self.log.info("$ python %s", " ".join(command))
        paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        unique = os.pathsep.join(dict.fromkeys(filter(None, paths)))
        last = ""
        with tempfile.TemporaryFile() as stdout:
            self._process = process = subprocess.Popen(
                [sys.executable, *command],
                stdout=stdout,
                stderr=subprocess.PIPE,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": unique},
            )
            try:
                assert process.stderr is not None
                for raw in process.stderr:
                    # A progress bar redraws one line: its last state is enough.
                    line = raw.decode(errors="replace").rstrip().rpartition("\r")[2]
                    if line:
                        tell = self.log.error if line.startswith(_REFUSAL) else self.log.info
                        tell("%s", line)
                        last = line
                code = process.wait()
            finally:
                self.on_kill()
            if code:
                raise refusal(self.job, code, last)
            return _summary(self.job, stdout)


class GateOperator(JobOperator):
    """Run a job that judges. Never retried: a gate gives the same answer twice."""

    ui_color = "#f8ece0"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "retries": 0})


class RecipeOperator(JobOperator):
    """Run a job that belongs to no retrain: it is told a recipe instead of a configuration."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(config="", **kwargs)

    def arguments(self, context: Context) -> list[str]:
        """Recipe, overrides and, where the DAG asks for it, whether to change anything."""
        assert "params" in context
        params = context["params"]
        dry = ["--dry-run"] if params.get("dry_run") else []
        return [
            *("--recipe", params["recipe"]),
            *("--overrides", json.dumps(params["overrides"])),
            *dry,
        ]


class ResolveConfig(JobOperator):
    """Run `resolve_config`: the one job that is told a day instead of a configuration.

    Its XComs are what later tasks ask for: `config`, `day`, `domains`, `verticals`,
    `direct_verticals`, `ready`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(config="", multiple_outputs=True, **kwargs)

    def arguments(self, context: Context) -> list[str]:
        """Recipe, day and overrides, from the run's parameters and dates."""
        assert "params" in context and "dag_run" in context
        params, run = context["params"], context["dag_run"]
        contract = named_recipe(params["recipe"]).contract
        start = run.data_interval_start
        last = contract.last_day
        if run.run_type == "scheduled" and start is not None and last is not None:
            _require_day(day_of(start, contract.time_zone), last, contract.name)
        return [
            *("--recipe", params["recipe"]),
            *day_arguments(run.run_type, start, run.logical_date, params["day"]),
            *("--overrides", json.dumps(params["overrides"])),
            *("--dag-run", run.run_id),
        ]

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the job; hand on the details of its summary."""
        return self._run(self.arguments(context))["details"]


class LogSensor(FileSensor):
    """Wait, without holding a worker, until the log says that the day is complete."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            filepath="{{ ti.xcom_pull(task_ids='resolve_config', key='ready') }}",
            deferrable=True,
            **kwargs,
        )

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Go on after the wait, or end it with one sentence."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSensorTimeout:
            raise AirflowSensorTimeout(
                f"The day's log is not complete: {self.filepath} did not appear within "
                f"{timedelta(seconds=self.timeout)}; deliver it, then clear this task."
            ) from None


def recipe_params(recipe: str, what: str, changes: str) -> dict[str, Param]:
    """Parameters of every DAG that works by a recipe: `recipe` and `overrides`.

    Args:
        recipe: The recipe of scheduled runs.
        what: What the recipe is asked for, as the trigger form says it.
        changes: What the overrides are, likewise.
    """
    return {
        "recipe": Param(
            recipe,
            type="string",
            enum=list(RECIPES),
            title="Recipe",
            description=f"{what}: see jobs/recipes.py.",
        ),
        "overrides": Param({}, type="object", title="Overrides", description=changes),
    }


def day_arguments(
    run_type: str, interval_start: datetime | None, logical_date: datetime | None, day: str | None
) -> list[str]:
    """The arguments that tell `resolve_config` its day.

    A scheduled or backfill run retrains the day in which its data interval starts. A manual run
    takes the day it is given, else its logical date. With neither the job stops and says so.
    """
    if run_type in _TIMED and interval_start is not None:
        return ["--moment", interval_start.isoformat()]
    if day:
        return ["--day", day]
    return [] if logical_date is None else ["--moment", logical_date.isoformat()]


def closing_time(contract: LogContract) -> CronDataIntervalTimetable:
    """The daily schedule: as soon as a day of the log has closed, in the log's time zone.

    Raises:
        ConfigError: The day closes so late that its run would start on the day after next.
    """
    lag = contract.day_closes_after
    if lag >= timedelta(days=1):
        raise ConfigError(
            f"contract {contract.name}: day_closes_after: less than 24h, for the schedule is daily "
            f"and its sensor waits longer if need be; found {lag}; lower it"
        )
    hour, minute = divmod(lag // timedelta(minutes=1), 60)
    return CronDataIntervalTimetable(f"{minute} {hour} * * *", timezone=contract.time_zone)


def refusal(job: str, code: int, last: str) -> AirflowException:
    """What a job's exit code means, in one sentence that says where to look.

    Args:
        job: The job's name.
        code: Its exit code; negative for a signal.
        last: Its last log line.

    Returns:
        The exception; of a kind that is not retried where a retry would end the same.
    """
    why = last.removeprefix(_REFUSAL).rstrip(".")
    if code == 2:
        return AirflowFailException(f"{job}: bad configuration or input: {why}.")
    if code == 3:
        docs = lapidary_home() / "gx" / "docs" / "index.html"
        return AirflowFailException(f"{job}: a gate refused: {why}; its page is in {docs}")
    if code == 4:
        return AirflowFailException(
            f"{job}: another promotion landed since the gates judged: {why}; clear judge_family "
            "and what follows it, to judge against the new champion."
        )
    if code < 0:
        return AirflowException(
            f"{job}: killed by {signal.Signals(-code).name}; if nobody did it, memory ran out."
        )
    return AirflowException(f"{job}: crashed with exit code {code}: {why}; see the log above.")


def _require_day(day: date, last_day: date, log: str) -> None:
    if day > last_day:
        raise AirflowSkipException(
            f"The log {log!r} ended on {last_day}: nothing to retrain on {day}. Trigger the DAG "
            "with a day of the log, or pause its schedule."
        )


def _summary(job: str, stdout: IO[bytes]) -> dict[str, Any]:
    stdout.seek(0)
    lines = stdout.read().decode(errors="replace").strip().splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        found = lines[-1][:200] if lines else "nothing"
        raise AirflowException(
            f"{job}: a job's last line on stdout is its JSON summary; found {found!r}."
        ) from None
