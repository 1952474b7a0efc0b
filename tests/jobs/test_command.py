"""What a job's command promises whoever starts it: a code, one line, and a summary."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from datetime import date

import pytest

from jobs import command
from jobs.command import JobSummary, read_summaries, read_summary, run_job, write_json
from jobs.config import REPOSITORY
from jobs.errors import ConfigError, GateFailed, PromotionConflict
from tests.jobs.training import samples


@pytest.fixture
def config(tmp_path):
    return samples.config(tmp_path)


def strict(text):
    """JSON as everyone but Python reads it."""

    def refuse(name):
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


def exits(body):
    with pytest.raises(SystemExit) as stop:
        command.exit_with(body)
    return stop.value.code


def failing(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError, 2), (GateFailed, 3), (PromotionConflict, 4)]
)
def test_an_expected_failure_has_its_code_and_one_sentence(capfd, error, code):
    assert exits(failing(error("what, found, remedy"))) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "lapidary: what, found, remedy\n"


def test_any_other_error_is_a_crash(capfd):
    with pytest.raises(KeyError):
        command.exit_with(failing(KeyError("x")))
    assert capfd.readouterr().out == ""


def test_the_last_line_is_the_summary(capfd):
    def body():
        print("something that a library had to say")
        return asdict(JobSummary(job="a_job", rows={"learnt": 3}))

    assert exits(body) == 0
    assert strict(capfd.readouterr().out.splitlines()[-1])["rows"] == {"learnt": 3}


def test_undefined_figures_are_null_for_every_reader(capfd, config):
    details = {"ne": [0.5, math.nan], "deep": {"calibration": math.inf}, "pair": (math.nan, 1)}
    summary = JobSummary(job="a_job", details=details)
    expected = {"ne": [0.5, None], "deep": {"calibration": None}, "pair": [None, 1]}
    assert exits(lambda: asdict(run_job(config, lambda _: summary))) == 0
    assert strict(capfd.readouterr().out)["details"] == expected
    text = (config.run_folder / "summaries" / "a_job.json").read_text()
    assert strict(text)["details"] == expected


def run_command(*arguments):
    """The command of a job that is at hand, in a process of its own."""
    script = (
        "from jobs.command import JobSummary, main\n"
        "def run(config, student):\n"
        "    if student == 'crash': raise RuntimeError('boom')\n"
        "    return JobSummary(job='a_job', part=student, rows={'n': 1})\n"
        "main(run, 'What it does.', 'student')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_command_runs_its_job(config):
    path = str(config.run_folder / "config.json")
    done = run_command("--config", path, "--student", "blue")
    assert done.returncode == 0
    summary = strict(done.stdout.splitlines()[-1])
    assert (summary["job"], summary["part"], summary["rows"]) == ("a_job", "blue", {"n": 1})
    assert read_summaries(config) == [JobSummary(**summary)]


def test_a_crash_has_code_one_its_traceback_and_a_summary_of_the_error(config):
    path = str(config.run_folder / "config.json")
    done = run_command("--config", path, "--student", "crash")
    assert done.returncode == 1
    assert "RuntimeError: boom" in done.stderr
    assert done.stdout == ""
    (summary,) = read_summaries(config)
    assert (summary.part, summary.details) == ("crash", {"failed": "RuntimeError: boom"})


def failing_job(config):
    raise GateFailed("too late")


def test_a_job_that_failed_is_not_taken_for_done(config):
    with pytest.raises(GateFailed):
        run_job(config, failing_job)
    with pytest.raises(
        ConfigError, match=r"has failed in run-1 \(GateFailed: too late\); run jobs"
    ):
        read_summary(config, failing_job.__module__)


def test_a_job_that_failed_may_run_again(config):
    with pytest.raises(GateFailed):
        run_job(config, failing_job)
    name = failing_job.__module__
    run_job(config, lambda _: JobSummary(job=name, rows={"n": 1}))
    assert read_summary(config, name).rows == {"n": 1}


@pytest.mark.parametrize(
    "arguments", [[], ["--config", "x"], ["--config", "nowhere.json", "--student", "a"]]
)
def test_bad_arguments_have_code_two(arguments):
    done = run_command(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""


def test_a_summary_is_kept_with_times_and_memory(config):
    kept = run_job(config, lambda _: JobSummary(job="a_job", outputs={"examples": 3}))
    assert read_summary(config, "a_job") == kept
    assert kept.seconds >= 0
    assert kept.started > 1.7e9
    assert kept.peak_memory_bytes > 10**7


def test_summaries_of_parts_lie_side_by_side_in_order_of_start(config):
    for part in ("violet", "blue"):
        run_job(config, lambda _, part=part: JobSummary(job="train", part=part))
    assert [summary.part for summary in read_summaries(config)] == ["violet", "blue"]


def test_a_job_run_again_replaces_its_summary(config):
    for rows in (1, 2):
        run_job(config, lambda _, rows=rows: JobSummary(job="a_job", rows={"n": rows}))
    assert [summary.rows for summary in read_summaries(config)] == [{"n": 2}]


def test_a_job_that_has_not_run_is_named(config):
    with pytest.raises(
        ConfigError, match=r"build_tables has not run in run-1; run jobs.build_tables"
    ):
        read_summary(config, "build_tables")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"day": date(2026, 3, 1)})
    monkeypatch.setattr(type(path), "replace", failing_replace)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"day": "another"})
    assert strict(path.read_text()) == {"day": "2026-03-01"}
    # What was written in part is not taken for a summary.
    assert [p.name for p in tmp_path.glob("*.json")] == ["summary.json"]


def failing_replace(self, target):
    raise OSError("disk full")
