"""Everything that a report says of a run, gathered from what the run left."""

import pytest

from jobs.report.facts import busy_spans, gather
from jobs.report.runs import Job
from tests.jobs.report import samples
from tests.jobs.report.samples import absorbed

STOOD_STILL = (
    "No label matured between what the parent had learnt and the gate window, so the models that "
    "were judged have the parent's weights."
)


def job(started, seconds):
    return Job("x", state="done", started=started, seconds=seconds)


def learnt(config, number):
    samples.job(config, "train_teacher", rows={"learnt": number})
    return config


def test_a_teacher_that_learnt_leaves_no_remark(tmp_path):
    assert gather(learnt(samples.daily_run(tmp_path), 100)).remarks == []


def test_a_teacher_that_stood_still_is_remarked(tmp_path):
    assert gather(learnt(samples.daily_run(tmp_path), 0)).remarks == [STOOD_STILL]


def test_the_remark_tells_what_the_gate_window_gave_the_teacher(tmp_path):
    config = learnt(samples.daily_run(tmp_path), 0)
    of_student = absorbed("shop-app", versus_value=0.5)
    buy = absorbed(task="buy", versus_value=0.0017)
    samples.leave(config, "metrics_absorbed", absorbed(), buy, of_student)
    assert gather(config).remarks == [
        f"{STOOD_STILL} Predicting each label before learning it, the pass over the window changed "
        "the teacher's NE by −0.08 % (click), +0.17 % (buy)."
    ]


def test_a_change_that_does_not_exist_is_not_remarked(tmp_path):
    config = learnt(samples.daily_run(tmp_path), 0)
    samples.leave(config, "metrics_absorbed", absorbed(versus_value=None))
    assert gather(config).remarks == [STOOD_STILL]


def test_checks_that_are_switched_off_are_remarked(tmp_path):
    config = learnt(samples.daily_run(tmp_path), 100)
    samples.gate(config, "events", disabled=["events.rows_ratio"])
    assert gather(config).remarks == ["Switched off by configuration: events.rows_ratio."]


def test_a_run_that_may_not_promote_is_remarked(tmp_path):
    config = learnt(samples.repeat(tmp_path), 100)
    assert gather(config).remarks == [config.plan.reason]


@pytest.mark.parametrize(
    ("jobs", "spans"),
    [
        ([], []),
        ([job(0, 10), job(20, 5)], [(0, 10), (20, 25)]),
        ([job(0, 10), job(5, 10)], [(0, 15)]),
        # A job within another does not end the span.
        ([job(0, 10), job(2, 3), job(9, 4)], [(0, 13)]),
        ([job(20, 5), Job("never began"), job(0, 10)], [(0, 10), (20, 25)]),
    ],
)
def test_busy_time_counts_no_second_twice(jobs, spans):
    assert busy_spans(jobs) == spans


def test_figures_of_too_few_rows_are_gathered_from_all_models(tmp_path):
    config = samples.first_run(tmp_path)
    small = {"judged": False, **samples.of("app")}
    samples.leave(config, "metrics_teacher", samples.figures(), samples.figures(**small))
    samples.leave(config, "metrics_family", samples.figures("shop-app", **small))
    assert [record.model for record in gather(config).unjudged] == ["shop-teacher", "shop-app"]
