"""A task runs a job as a program and tells its exit code; a run knows its day."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
)

from dags import common
from dags.common import JobOperator, LogSensor, ResolveConfig, closing_time, day_arguments, refusal
from jobs.errors import ConfigError
from jobs.recipes import kuairand
from tests.dags.stubs import calls, control, make_repository

INTERVAL = datetime(2026, 3, 4, 17, tzinfo=UTC)
LOGICAL = datetime(2026, 3, 9, tzinfo=UTC)


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    root = make_repository(tmp_path / "repository", ["gate_events", "train_domain_student"])
    monkeypatch.setattr(common, "ROOT", root)
    return root


def _run(task: JobOperator) -> dict:
    return task._run(task.arguments({}))


def test_a_job_gets_its_configuration_and_student_and_its_summary_comes_back(repository):
    summary = _run(JobOperator(task_id="train_domain_student", config="c.json", student="left"))
    assert summary["rows"] == {"t": 3}
    assert calls(repository) == [
        ("train_domain_student", {"--config": "c.json", "--student": "left"})
    ]


def test_a_tasks_result_is_small_and_plain(repository):
    task = JobOperator(task_id="gate_events", config="c.json")
    result = task.execute({})
    assert result == {"rows": {"t": 3}, "outputs": {"t": 7}, "seconds": 0.5, "mlflow_run": None}
    assert json.loads(json.dumps(result)) == result


def test_log_lines_are_passed_on_and_the_last_state_of_a_progress_bar(repository, monkeypatch):
    told: list[tuple[str, str]] = []
    log = SimpleNamespace(
        info=lambda _, line: told.append(("info", line)),
        error=lambda _, line: told.append(("error", line)),
    )
    monkeypatch.setattr(JobOperator, "log", log)
    control(repository, gate_events={"say": "10 %\r50 %\rall rows read\nlapidary: too few"})
    _run(JobOperator(task_id="gate_events", config="c.json"))
    assert told == [
        ("info", "-m jobs.gate_events --config c.json"),
        ("info", "gate_events: at work"),
        ("info", "all rows read"),
        ("error", "lapidary: too few"),
        ("info", "a line on stderr after the summary"),
    ]


@pytest.mark.parametrize(
    ("code", "kind", "told"),
    [
        (2, AirflowFailException, "bad configuration or input: too few rows."),
        (3, AirflowFailException, "a gate refused: too few rows; its page is in "),
        (4, AirflowFailException, "another promotion landed since the gates judged: too few rows;"),
        (1, AirflowException, "crashed with exit code 1: too few rows; see the log above."),
        (-9, AirflowException, "killed by SIGKILL; if nobody did it, memory ran out."),
    ],
)
def test_an_exit_code_becomes_one_sentence(code, kind, told):
    error = refusal("gate_events", code, "lapidary: too few rows.")
    assert type(error) is kind
    assert str(error).startswith(f"gate_events: {told}")
    assert "\n" not in str(error)


def test_a_failing_job_raises_what_its_exit_code_means(repository):
    control(repository, gate_events={"exit": 3, "say": "lapidary: no rows"})
    with pytest.raises(AirflowFailException, match="gate_events: a gate refused"):
        _run(JobOperator(task_id="gate_events", config="c.json"))


def test_a_job_without_summary_is_a_failure(repository):
    control(repository, gate_events={"mute": True})
    with pytest.raises(AirflowException, match="JSON summary; found \"a library's line"):
        _run(JobOperator(task_id="gate_events", config="c.json"))


def test_without_configuration_there_is_nothing_to_run():
    with pytest.raises(AirflowSkipException, match="resolve_config left no configuration"):
        JobOperator(task_id="gate_events", config="").arguments({})


def test_killing_a_task_stops_its_job(repository):
    control(repository, gate_events={"seconds": 60})
    task = JobOperator(task_id="gate_events", config="c.json")
    failures: list[AirflowException] = []

    def body() -> None:
        try:
            _run(task)
        except AirflowException as error:
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    while not (repository / "calls.jsonl").exists():
        time.sleep(0.05)
    task.on_kill()
    thread.join(10)
    assert not thread.is_alive()
    assert "killed by SIGTERM" in str(failures[0])


@pytest.mark.parametrize(
    ("run_type", "interval", "logical", "day", "expected"),
    [
        ("scheduled", INTERVAL, INTERVAL, None, ["--moment", "2026-03-04T17:00:00+00:00"]),
        ("backfill", INTERVAL, INTERVAL, "2026-01-01", ["--moment", "2026-03-04T17:00:00+00:00"]),
        ("manual", INTERVAL, LOGICAL, "2026-01-01", ["--day", "2026-01-01"]),
        ("manual", INTERVAL, LOGICAL, None, ["--moment", "2026-03-09T00:00:00+00:00"]),
        ("manual", None, None, "2026-01-01", ["--day", "2026-01-01"]),
        ("manual", None, None, None, []),
        ("asset_triggered", None, LOGICAL, None, ["--moment", "2026-03-09T00:00:00+00:00"]),
    ],
)
def test_a_run_knows_its_day(run_type, interval, logical, day, expected):
    assert day_arguments(run_type, interval, logical, day) == expected


def _context(run_type: str, start: datetime | None) -> dict:
    run = SimpleNamespace(
        run_type=run_type, data_interval_start=start, logical_date=start, run_id="r1"
    )
    params = {"recipe": "kuairand", "day": None, "overrides": {"teacher.batch_size": 256}}
    return {"params": params, "dag_run": run}


def test_resolve_config_is_told_recipe_day_overrides_and_run():
    task = ResolveConfig(task_id="resolve_config")
    start = datetime(2022, 5, 2, 17, tzinfo=UTC)
    assert task.arguments(_context("scheduled", start)) == [
        *("--recipe", "kuairand", "--moment", "2022-05-02T17:00:00+00:00"),
        *("--overrides", '{"teacher.batch_size": 256}', "--dag-run", "r1"),
    ]


def test_a_scheduled_run_after_a_closed_log_is_skipped_and_a_manual_one_is_not():
    task = ResolveConfig(task_id="resolve_config")
    after = datetime(2022, 5, 4, 17, tzinfo=UTC)  # 5 May in Shanghai; the log ends on the 4th
    with pytest.raises(AirflowSkipException, match="ended on 2022-05-04"):
        task.arguments(_context("scheduled", after))
    assert task.arguments(_context("manual", after))[2] == "--moment"


@pytest.mark.parametrize(
    ("lag", "cron"),
    [
        (timedelta(0), "0 0 * * *"),
        (timedelta(minutes=90), "30 1 * * *"),
        (timedelta(hours=23), "0 23 * * *"),
    ],
)
def test_the_schedule_follows_the_logs_day(lag, cron):
    changes = {"time_zone": "America/New_York", "day_closes_after": lag}
    timetable = closing_time(kuairand().contract.model_copy(update=changes))
    assert (timetable.expression, str(timetable.timezone)) == (cron, "America/New_York")


def test_a_day_that_closes_too_late_for_a_daily_schedule_is_refused():
    contract = kuairand().contract.model_copy(update={"day_closes_after": timedelta(hours=24)})
    with pytest.raises(ConfigError, match="day_closes_after: less than 24h"):
        closing_time(contract)


def test_a_log_that_never_comes_ends_the_wait_with_one_sentence():
    sensor = LogSensor(task_id="wait_for_log", timeout=3600)
    sensor.filepath = "/logs/day=2026-03-04/_SUCCESS"
    with pytest.raises(AirflowSensorTimeout) as caught:
        sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, {})
    assert str(caught.value) == (
        "The day's log is not complete: /logs/day=2026-03-04/_SUCCESS did not appear within "
        "1:00:00; deliver it, then clear this task."
    )


def test_the_day_of_a_scheduled_run_is_the_day_that_closed():
    """From the cron to the day: the run of 5 March 01:00 in Shanghai retrains 4 March."""
    start = datetime(2026, 3, 3, 17, tzinfo=UTC)
    (_, moment) = day_arguments("scheduled", start, start, None)
    day = common.day_of(datetime.fromisoformat(moment), "Asia/Shanghai")
    assert day == date(2026, 3, 4)
