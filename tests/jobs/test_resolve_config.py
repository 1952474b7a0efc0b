"""Which parent, champion and days a run gets: first, daily, repeated, backfilled, after a gap."""

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import pytest

from jobs import resolve_config
from jobs.config import REPOSITORY, Windows, load_config
from jobs.errors import ConfigError
from jobs.family import student_names
from jobs.resolve_config import _parse_moment, make_plan, resolve, run
from tests.jobs.samples import contract, ledger, promotion, recipe

# A day in Berlin ends at 23:00 UTC in winter; the gate window is its last twelve hours.
SETTINGS = recipe(
    contract(first_day=date(2024, 2, 1)), windows=Windows(bootstrap_days=10, gate_hours=12)
)
DAY = date(2024, 3, 5)


def end_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 23, tzinfo=UTC)


def days_ago(number: int) -> date:
    return DAY - timedelta(days=number)


FIRST = promotion(1, end_of(days_ago(2)))
SECOND = promotion(2, end_of(days_ago(1)), previous=1)
TODAY = promotion(3, end_of(DAY), previous=2)
ROLLED_BACK = promotion(4, end_of(days_ago(1)), previous=1)


@pytest.mark.parametrize(
    ("rows", "day", "expected"),
    [
        # (first day, bootstrap, champion, parent, promotable)
        ([], DAY, (days_ago(9), True, None, None, True)),
        ([FIRST, SECOND], DAY, (DAY, False, 2, 2, True)),
        # A repeat starts from the family before, never from what the first try promoted.
        ([FIRST, SECOND, TODAY], DAY, (DAY, False, 3, 2, False)),
        ([promotion(1, end_of(DAY))], DAY, (days_ago(9), True, 1, None, False)),
        # A day missed is built and learnt with the next.
        ([FIRST], DAY, (days_ago(1), False, 1, 1, True)),
        # A backfill of an old day, with a family that is older still, and without one.
        ([FIRST, SECOND, TODAY], days_ago(1), (days_ago(1), False, 3, 1, False)),
        ([FIRST, SECOND, TODAY], days_ago(5), (days_ago(14), True, 3, None, False)),
        # After a rollback the family before serves, and its successor is skipped.
        ([FIRST, SECOND, TODAY, ROLLED_BACK], DAY, (DAY, False, 4, 4, True)),
        ([FIRST, SECOND, TODAY, ROLLED_BACK], days_ago(1), (days_ago(1), False, 4, 1, False)),
    ],
    ids=[
        "first run",
        "daily run",
        "repeat",
        "repeat of the first run",
        "missed day",
        "backfill",
        "backfill before every family",
        "after a rollback",
        "backfill after a rollback",
    ],
)
def test_a_plan_follows_from_the_ledger(rows, day, expected):
    plan = make_plan(SETTINGS, day, ledger(*rows))
    found = (plan.first_day, plan.bootstrap, plan.champion, plan.parent, plan.promotable)
    assert found == expected
    assert plan.day == day
    assert plan.gate_end == end_of(day)
    assert plan.gate_start == end_of(day) - timedelta(hours=12)


def test_training_starts_where_the_parent_stopped():
    assert make_plan(SETTINGS, DAY, ledger(FIRST)).trained_from == FIRST.trained_until
    assert make_plan(SETTINGS, DAY, ledger()).trained_from is None


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "There is no family yet: this run bootstraps one."),
        ([FIRST], "The champion has learnt nothing after 2024-03-03 23:00 UTC."),
        (
            [FIRST, SECOND, TODAY],
            "Not promotable: champion 3 has already learnt up to 2024-03-05 23:00 UTC, past the "
            "start of the gate window (2024-03-05 11:00 UTC).",
        ),
    ],
)
def test_a_plan_says_why_in_one_sentence(rows, reason):
    assert make_plan(SETTINGS, DAY, ledger(*rows)).reason == reason


def test_a_family_that_stopped_at_the_gate_window_is_parent_and_may_be_replaced():
    gate_start = end_of(DAY) - timedelta(hours=12)
    at = make_plan(SETTINGS, DAY, ledger(promotion(1, gate_start)))
    past = make_plan(SETTINGS, DAY, ledger(promotion(1, gate_start + timedelta(microseconds=1))))
    assert (at.parent, at.promotable) == (1, True)
    assert (past.parent, past.promotable) == (None, False)


def test_no_run_reads_before_the_log_begins():
    settings = recipe(contract(first_day=date(2024, 3, 3)))
    assert make_plan(settings, DAY, ledger()).first_day == date(2024, 3, 3)


def test_the_gate_window_keeps_its_length_on_a_day_of_23_hours():
    plan = make_plan(SETTINGS, date(2024, 3, 31), ledger())
    assert plan.gate_end == datetime(2024, 3, 31, 22, tzinfo=UTC)
    assert plan.gate_start == datetime(2024, 3, 31, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "message"),
    [
        (
            None,
            """day: none given and the run has no logical date; trigger with --conf '{"day": """,
        ),
        (date(2022, 4, 8), "day: 2022-04-08 lies outside the log 'kuairand', which covers 2022-04"),
        (date(2022, 5, 5), "2022-04-09 to 2022-05-04; choose a day within"),
    ],
)
def test_a_day_that_cannot_be_resolved_is_told(tmp_path, monkeypatch, day, message):
    monkeypatch.setenv("LAPIDARY_HOME", str(tmp_path))
    with pytest.raises(ConfigError) as error:
        resolve("kuairand", {}, day, None, "test")
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_day_of_a_moment_is_that_of_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("LAPIDARY_HOME", str(tmp_path))
    monkeypatch.setattr(resolve_config, "start_parent", lambda *_: "mlflow-run")
    moment = datetime(2022, 5, 1, 16, tzinfo=UTC)  # midnight in Shanghai
    config = resolve("kuairand", {}, None, moment, "test")
    assert config.plan.day == date(2022, 5, 2)
    earlier = resolve("kuairand", {}, None, moment - timedelta(microseconds=1), "test")
    assert earlier.plan.day == date(2022, 5, 1)


def test_a_retry_shares_its_folder_and_another_run_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("LAPIDARY_HOME", str(tmp_path))
    monkeypatch.setattr(resolve_config, "start_parent", lambda *_: "mlflow-run")
    day = date(2022, 5, 2)
    one = resolve("tiny", {}, day, None, "run-1")
    again = resolve("tiny", {}, day, None, "run-1")
    others = [
        resolve("tiny", {}, day, None, "run-2"),
        resolve("tiny", {"teacher.seed": 5}, day, None, "run-1"),
        resolve("tiny", {}, date(2022, 5, 3), None, "run-1"),
    ]
    assert one == again == load_config(str(one.run_folder / "config.json"))
    assert len({config.run_folder for config in [one, *others]}) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [("tomorrow", "--moment: an ISO time; found"), ("2022-05-01T16:00", "with its offset")],
)
def test_a_moment_needs_its_offset(text, message):
    with pytest.raises(ConfigError, match=message):
        _parse_moment(text)


def command(home, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.resolve_config", *options],
        cwd=REPOSITORY,
        env={**os.environ, "LAPIDARY_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_where_the_frozen_configuration_lies(tmp_path):
    done = command(
        tmp_path, "--recipe", "tiny", "--day", "2022-05-02", "--overrides", '{"teacher.seed": 3}'
    )
    assert done.returncode == 0, done.stderr
    details = json.loads(done.stdout.splitlines()[-1])["details"]
    config = load_config(details["config"])
    assert config.teacher.seed == 3
    assert config.run.config_hash == config.content_hash
    assert details["day"] == "2022-05-02"
    assert details["verticals"] == [
        "single_column-main",
        "single_column-side",
        "two_column-home",
        "two_column-browse",
    ]


def test_the_command_ends_with_code_2_on_bad_overrides(tmp_path):
    done = command(tmp_path, "--recipe", "tiny", "--day", "2022-05-02", "--overrides", "{seed}")
    assert done.returncode == 2
    assert "lapidary: --overrides: not JSON" in done.stderr
    assert done.stdout == ""


def test_verticals_are_listed_by_who_teaches_them(tmp_path, monkeypatch):
    monkeypatch.setenv("LAPIDARY_HOME", str(tmp_path))
    monkeypatch.setattr(resolve_config, "start_parent", lambda *_: "mlflow-run")
    overrides = {"teachers": {"two_column-home": "teacher", "single_column-main": "domain"}}
    details = run(resolve("tiny", overrides, date(2022, 5, 2), None, "run-1")).details
    assert details["direct_verticals"] == ["two_column-home"]
    others = ["single_column-main", "single_column-side", "two_column-browse"]
    assert details["verticals"] == others


def test_a_vertical_of_the_contract_alone_is_taught_and_promoted(tmp_path, monkeypatch):
    monkeypatch.setenv("LAPIDARY_HOME", str(tmp_path))
    monkeypatch.setattr(resolve_config, "start_parent", lambda *_: "mlflow-run")
    added = {"contract.domains.two_column.verticals.search": {"surfaces": ["99"]}}
    config = resolve("tiny", added, date(2022, 5, 2), None, "run-1")
    assert "two_column-search" in run(config).details["verticals"]
    assert "kuairand-two_column-search" in student_names(config)


def test_a_teacher_of_an_unknown_vertical_is_refused():
    with pytest.raises(ConfigError, match=r"teachers: keys .* found \['two_column-hom'\]; correct"):
        resolve("tiny", {"teachers": {"two_column-hom": "teacher"}}, date(2022, 5, 2), None, "r")
