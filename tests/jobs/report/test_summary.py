"""The report on one screen."""

import pytest

from jobs.report.facts import gather
from jobs.report.summary import summarise
from tests.jobs import samples as logs
from tests.jobs.report import samples
from tests.jobs.report.samples import figures

PATHS = ("Report", "Data Docs", "MLflow")


def lines(config):
    return summarise(gather(config)).splitlines()


def wide_run(home, num_domains):
    """A refused run of many domains, with every text as long as it can get."""
    domains = {
        f"domain_of_a_long_name_{i}": {"verticals": {"feed": {"surfaces": [f"surface_{i}"]}}}
        for i in range(num_domains)
    }
    contract = logs.contract(domains=domains)
    config = samples.first_run(home, contract=contract)
    samples.jobs_until(config, "judge_family", train_teacher={"learnt": 0})
    versions = {f"teacher_scores/shop-{name}": 0 for name in domains}
    samples.job(config, "score_teacher", outputs=versions)
    for name in versions:
        logs.hold(config, name, [logs.DAY])
    off = [f"teacher.slices.check_number_{i}" for i in range(60)]
    failed = samples.check("family.ne", passed=False)
    samples.gate(config, "family", failed, reason="word " * 300, disabled=off)
    tasks = ("click", "buy")
    samples.leave(config, "metrics_teacher", *(figures(task=task) for task in tasks))
    students = [figures(f"shop-{d}", task, **samples.of(d)) for d in domains for task in tasks]
    samples.leave(config, "metrics_family", *students)
    samples.leave(config, "metrics_absorbed", *(samples.absorbed(task="t" * 60) for _ in range(9)))
    return config


def test_a_promoted_run_is_told_on_one_screen(tmp_path):
    found = lines(samples.promoted(samples.daily_run(tmp_path)))
    assert found[1:3] == [
        "Promoted as family #2: 5 gates passed with 5 checks.",
        "  All gates passed.",
    ]
    assert "teacher             click        0.8500   0.8600   0.8700   0.7500    1.020" in found


def test_the_columns_are_named_above_the_figures(tmp_path):
    found = lines(samples.promoted(samples.daily_run(tmp_path)))
    heads = next(line for line in found if line.startswith("model"))
    assert heads.split() == ["model", "task", "NE", "champion", "trees", "AUC", "calib."]


@pytest.mark.parametrize("num_domains", [1, 6, 40])
def test_the_summary_stays_within_its_lines(tmp_path, num_domains):
    assert len(lines(wide_run(tmp_path, num_domains))) <= 45


def test_the_summary_stays_within_its_columns(tmp_path):
    found = [line for line in lines(wide_run(tmp_path, 6)) if not line.startswith(PATHS)]
    assert max(map(len, found)) <= 100


def test_what_does_not_fit_is_counted(tmp_path):
    found = lines(wide_run(tmp_path, 40))
    assert sum(line.endswith("more lines in the report") for line in found) == 1


def test_a_figure_of_too_few_rows_is_marked(tmp_path):
    config = samples.promoted(samples.daily_run(tmp_path))
    samples.leave(config, "metrics_teacher", figures(judged=False))
    found = lines(config)
    assert "0.8500*  0.8600" in "\n".join(found)
    assert "* too small to judge" in found


def test_a_table_that_is_cut_still_explains_its_marks(tmp_path):
    config = wide_run(tmp_path, 40)
    samples.leave(config, "metrics_teacher", figures(judged=False))
    assert "* too small to judge" in lines(config)


def test_an_undefined_figure_keeps_its_column(tmp_path):
    config = samples.promoted(samples.daily_run(tmp_path))
    samples.leave(config, "metrics_teacher", figures(ne=None))
    found = next(line for line in lines(config) if line.startswith("teacher"))
    assert found.split()[2:] == ["–", "0.8600", "0.8700", "0.7500", "1.020"]


def test_a_run_that_ended_after_the_first_gate_has_no_figures(tmp_path):
    config = samples.first_run(tmp_path)
    samples.jobs_until(config, "gate_events")
    samples.gate(config, "events")
    found = lines(config)
    assert found[1] == "Ended after gate_events without a verdict; no family serves yet."
    assert "Rows       none" in found
    assert not any(line.startswith("model") for line in found)


def test_the_slowest_jobs_are_named_and_the_missing_counted(tmp_path):
    config = samples.first_run(tmp_path)
    samples.job(config, "ingest_log", started=0.0, seconds=30.0)
    samples.job(config, "gate_events", started=30.0, seconds=90.0)
    assert "Jobs       gate_events 90 s, ingest_log 30 s; 13 not run" in lines(config)


def test_a_remark_is_told_whole(tmp_path):
    config = samples.promoted(samples.daily_run(tmp_path))
    samples.job(config, "train_teacher", rows={"learnt": 0})
    assert "teacher's NE by −0.08 % (click), +0.31 % (buy)." in " ".join(
        " ".join(lines(config)).split()
    )
