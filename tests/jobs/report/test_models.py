"""The figures of a run's models, as the page shows them."""

import math

import pytest

from jobs.command import write_json
from jobs.report.models import read_models
from jobs.report.runs import Job
from tests.jobs.report import samples
from tests.jobs.report.samples import TEACHER, figures, record


def model_of(config, name, jobs=()):
    return next(model for model in read_models(config, list(jobs)) if model.name == name)


def test_models_are_in_the_order_of_the_family(tmp_path):
    config = samples.first_run(tmp_path)
    assert [(model.name, model.kind) for model in read_models(config, [])] == [
        ("shop-teacher", "teacher"),
        ("shop-app", "domain"),
        ("shop-app-feed", "vertical"),
        ("shop-app-search", "vertical"),
        ("shop", "family"),
    ]


def test_a_model_of_an_ended_run_has_no_figures(tmp_path):
    teacher = model_of(samples.first_run(tmp_path), TEACHER)
    assert (teacher.overall, teacher.absorbed, teacher.learnt) == ([], [], None)


def test_slices_are_not_among_the_overall_figures(tmp_path):
    config = samples.first_run(tmp_path)
    of_domain = figures(**samples.of("app"))
    samples.leave(config, "metrics_teacher", figures(), of_domain)
    teacher = model_of(config, TEACHER)
    assert [[r.slice for r in rs] for rs in (teacher.overall, teacher.slices)] == [["all"], ["app"]]


def test_a_student_is_judged_on_its_own_slice(tmp_path):
    config = samples.first_run(tmp_path)
    own = figures("shop-app-feed", slice_kind="vertical", slice="app-feed")
    samples.leave(config, "metrics_family", own)
    assert [r.slice for r in model_of(config, "shop-app-feed").overall] == ["app-feed"]


def test_the_pass_over_the_window_is_held_against_the_judged_model(tmp_path):
    config = samples.first_run(tmp_path)
    samples.leave(config, "metrics_absorbed", samples.absorbed(), samples.absorbed("shop-app"))
    (found,) = model_of(config, TEACHER).absorbed
    assert found.others["ne"] == {"judged": 0.8507}
    assert found.versus == (-0.0008, -0.0018, 0.0002)


def test_bounds_are_not_taken_for_predictors():
    assert record().others["ne"] == {"champion": 0.86, "trees": 0.87}


def test_what_stands_beside_a_model_is_in_reading_order():
    found = record(ne_base_rate=1.0, ne_other=0.9, ne_twin=0.86).others["ne"]
    assert list(found) == ["champion", "twin", "trees", "base_rate", "other"]


@pytest.mark.parametrize(
    ("metric", "changes", "best"),
    [
        ("ne", {"ne": 0.85}, {"model"}),
        ("ne", {"ne": 0.88}, {"champion"}),
        # Equal to what is shown: both are best.
        ("ne", {"ne": 0.86003}, {"model", "champion"}),
        ("ne", {"ne": None}, {"champion"}),
        ("auc", {"auc": 0.7}, {"champion"}),
        # 1.25 and 0.8 are equally far from 1, as ratios.
        ("calibration", {"calibration": 1.2, "calibration_trees": 0.8}, {"model"}),
        ("calibration", {"calibration": 1.3, "calibration_trees": 0.8}, {"trees"}),
        # Nothing to compare with.
        ("gauc", {}, set()),
    ],
)
def test_the_best_value_of_a_metric(metric, changes, best):
    assert record(**changes).best(metric) == best


@pytest.mark.parametrize(
    ("metric", "changes", "why"),
    [
        ("ne", {"rows": 0, "positives": 0}, "no rows"),
        ("ne", {"positives": 0}, "no positives"),
        ("ne", {"rows": 20, "positives": 20}, "no negatives"),
        ("gauc", {}, "no user has both outcomes"),
        ("auc", {}, "not recorded"),
    ],
)
def test_an_undefined_metric_has_a_reason(metric, changes, why):
    assert record(**changes, **{metric: None}).why_undefined(metric) == why


def test_null_in_json_is_an_undefined_figure():
    assert math.isnan(record(ne=None).own["ne"].value)


def test_eta_keeps_the_reason_why_it_is_undefined(tmp_path):
    config = samples.first_run(tmp_path)
    twin = figures("shop-app", twin_value=-0.001, eta=None, eta_reason="too small a gain")
    samples.leave(config, "metrics_twins", twin)
    gain = model_of(config, "shop-app").gain("click")
    assert gain is not None
    assert (math.isnan(gain.eta.value), gain.eta.told) == (True, "too small a gain")


def test_a_ratio_tells_its_interval(tmp_path):
    config = samples.first_run(tmp_path)
    twin = figures("shop-app", twin_value=-0.001, tr=0.5, tr_low=0.3, tr_high=0.8, tr_reason="")
    samples.leave(config, "metrics_twins", twin)
    gain = model_of(config, "shop-app").gain("click")
    assert gain is not None
    assert gain.tr.told == "95 %: 0.30 to 0.80"


def test_a_vertical_learns_only_its_own_tasks(tmp_path):
    curve = [{"ends": "2024-03-04T23:00:00+00:00", "ne": [0.9]}]
    job = Job("train_vertical_student", "app-feed", "done", details={"curve": curve})
    found = model_of(samples.first_run(tmp_path), "shop-app-feed", [job]).learning
    assert [(line.task, line.key, line.ne) for line in found] == [("click", "model", [0.9])]


def test_a_promoted_model_has_both_versions(tmp_path):
    trained = Job("train_teacher", state="done", details={"version": 3})
    final = Job("promote_family", state="done", details={"versions": {TEACHER: "4"}})
    teacher = model_of(samples.first_run(tmp_path), TEACHER, [trained, final])
    assert teacher.versions == {"judged": "3", "final": "4"}


def test_weights_are_told_by_their_hash(tmp_path):
    config = samples.first_run(tmp_path)
    folder = config.run_folder / "models" / TEACHER / "judged"
    write_json(folder / "manifest.json", {"model.safetensors": "0123456789abcdef"})
    write_json(folder / "card.json", {"trained_until": "2024-03-05T11:00:00"})
    teacher = model_of(config, TEACHER)
    assert teacher.hashes == {"judged": "0123456789ab"}
    assert teacher.trained_until == "2024-03-05T11:00:00"
