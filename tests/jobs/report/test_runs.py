"""What happened in a run: which jobs ran, how the gates judged, how it ended."""

from pathlib import Path

import pytest

from jobs.report.runs import Check, Gate, Job, find_outcome, page_parts, read_gates, read_jobs
from tests.jobs.report import samples

CHECK = Check("overall", "ne", "", True, 0.8, "≤ 1", [])
GATES = [Gate(number, "examples", "passed") for number in range(1, 6)]
PROMOTED = {"promoted": True, "champion": 2, "reason": "Better in all."}


def states(config):
    return {job.title: job.state for job in read_jobs(config)}


def job_of(config, name):
    return next(job for job in read_jobs(config) if job.name == name)


def gate_of(config, name):
    return next(gate for gate in read_gates(config) if gate.name == name)


def outcome(config, jobs, gates=GATES, champion: int | None = 1):
    return find_outcome(config, jobs, gates, champion)


def test_jobs_that_never_began_stand_where_they_would_have_run(tmp_path):
    config = samples.first_run(tmp_path)
    samples.jobs_until(config, "gate_events")
    assert list(states(config).items())[:5] == [
        ("ingest_log", "done"),
        ("gate_events", "done"),
        ("build_tables", "not run"),
        ("gate_examples", "not run"),
        ("pack_examples", "not run"),
    ]


def test_every_student_is_a_job_of_its_own(tmp_path):
    config = samples.first_run(tmp_path)
    assert [title for title in states(config) if "student" in title] == [
        "train_domain_student app",
        "train_vertical_student app-feed",
        "train_vertical_student app-search",
    ]


def test_a_student_that_ran_leaves_the_others_missing(tmp_path):
    config = samples.first_run(tmp_path)
    samples.job(config, "train_vertical_student", "app-feed")
    found = states(config)
    assert found["train_vertical_student app-feed"] == "done"
    assert found["train_vertical_student app-search"] == "not run"


def test_a_student_is_found_under_its_registered_name(tmp_path):
    config = samples.first_run(tmp_path)
    samples.job(config, "train_domain_student", "shop-app")
    assert "train_domain_student app" not in states(config)


def test_the_report_is_no_row_of_itself(tmp_path):
    config = samples.first_run(tmp_path)
    samples.job(config, "write_report")
    assert "write_report" not in states(config)


@pytest.mark.parametrize(
    ("failed", "state", "error"),
    [
        ("GateFailed: Gate 1 refused.", "refused", "Gate 1 refused."),
        ("ConfigError: labels: no table", "failed", "labels: no table"),
        ("KeyError: 'x'", "failed", "KeyError: 'x'"),
    ],
)
def test_a_job_says_how_it_failed(tmp_path, failed, state, error):
    config = samples.first_run(tmp_path)
    samples.job(config, "gate_events", failed=failed)
    found = job_of(config, "gate_events")
    assert (found.state, found.error) == (state, error)


@pytest.mark.parametrize(("started", "inner"), [(110.0, True), (300.0, False)])
def test_a_job_that_ran_within_another_is_inner(tmp_path, started, inner):
    config = samples.first_run(tmp_path)
    samples.job(config, "build_tables", started=100.0, seconds=60.0)
    samples.job(config, "build_labels", started=started, seconds=20.0)
    assert job_of(config, "build_labels").inner is inner


def test_a_gate_without_a_verdict_was_not_judged(tmp_path):
    config = samples.first_run(tmp_path)
    samples.gate(config, "events")
    assert [gate.state for gate in read_gates(config)] == ["passed", *["not judged"] * 4]


def test_a_gate_that_refused_tells_its_reason(tmp_path):
    config = samples.first_run(tmp_path)
    failed = samples.check("teacher.ne", passed=False)
    samples.gate(config, "teacher", failed, reason="Gate 3 (teacher) refused: too high.")
    found = gate_of(config, "teacher")
    assert (found.state, found.reason) == ("refused", "Gate 3 (teacher) refused: too high.")


def test_failed_measured_and_formal_checks_are_told_apart(tmp_path):
    config = samples.first_run(tmp_path)
    samples.gate(
        config,
        "teacher",
        samples.check("ne", passed=False),
        samples.check("calibration"),
        samples.check("row", observed="0 of 17 break it"),
        samples.check("ne_known", observed=3),
        # A check that fails is never folded away, whatever it asks.
        samples.check("calibration_known", passed=False, observed="2 of 17 break it"),
    )
    found = gate_of(config, "teacher")
    names = [[c.name for c in kind] for kind in (found.failed, found.measured, found.formal)]
    assert names == [["ne", "calibration_known"], ["calibration"], ["row", "ne_known"]]


def test_the_newest_page_of_a_gate_is_linked(tmp_path):
    part = tmp_path / "docs" / "validations" / "3-teacher-overall" / "run"
    for at in ("20240305T01", "20240305T02"):
        (part / at).mkdir(parents=True)
        (part / at / "page.html").touch()
    found = page_parts(tmp_path, 3, "teacher", "run")
    assert found == {"overall": Path(part / "20240305T02" / "page.html")}


def test_a_promotion_is_told_with_its_gates(tmp_path):
    checks = [Gate(n, "", "passed", checks=[CHECK] * 24) for n in range(1, 6)]
    job = Job("promote_family", state="done", details=PROMOTED)
    found = outcome(samples.first_run(tmp_path), [job], checks)
    assert found.sentence == "Promoted as family #2: 5 gates passed with 120 checks."
    assert (found.kind, found.promotion, found.ok) == ("promoted", 2, True)


def test_a_refusal_names_gate_reason_and_who_serves(tmp_path):
    gates = [*GATES[:2], Gate(3, "teacher", "refused", "Too high.")]
    jobs = [Job("judge_teacher", state="refused")]
    found = outcome(samples.first_run(tmp_path), jobs, gates)
    assert found.sentence == "Refused by gate 3 (teacher); family #1 goes on serving."
    assert (found.kind, found.reason, found.gate, found.ok) == ("refused", "Too high.", 3, False)


def test_a_crash_names_the_job_and_its_error(tmp_path):
    jobs = [Job("train_domain_student", "app", "failed", "KeyError: 'x'")]
    found = outcome(samples.first_run(tmp_path), jobs, champion=None)
    assert found.sentence == "Crashed in train_domain_student app; no family serves yet."
    assert (found.kind, found.reason) == ("crashed", "KeyError: 'x'")


def test_a_lost_race_is_no_crash(tmp_path):
    jobs = [Job("promote_family", None, "failed", "PromotionConflict: promotions: 7 came first")]
    found = outcome(samples.first_run(tmp_path), jobs, champion=7)
    assert found.kind == "conflict"
    assert found.sentence == (
        "Not promoted: another promotion came first in promote_family; family #7 goes on serving."
    )


def test_a_run_that_stopped_tells_where_and_what_is_missing(tmp_path):
    jobs = [Job("ingest_log", state="done"), Job("gate_events"), Job("build_tables")]
    found = outcome(samples.first_run(tmp_path), jobs)
    assert found.sentence == (
        "Ended after ingest_log without a verdict; family #1 goes on serving."
    )
    assert (found.kind, found.reason) == ("unfinished", "Not run: gate_events, build_tables.")


def test_a_run_without_any_job_is_unfinished(tmp_path):
    found = outcome(samples.first_run(tmp_path), [], champion=None)
    assert found.sentence == "Ended before any job without a verdict; no family serves yet."


def test_a_run_that_may_not_promote_registers_and_says_why(tmp_path):
    config = samples.repeat(tmp_path)
    job = Job("promote_family", state="done", details={"promoted": False})
    found = outcome(config, [job])
    assert found.sentence == "Registered, not promoted; family #1 goes on serving."
    assert (found.kind, found.reason, found.ok) == ("registered", config.plan.reason, True)
