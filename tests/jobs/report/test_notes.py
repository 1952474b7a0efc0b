"""What MLflow's pages say of a run and its models, without MLflow."""

import math

import pytest

from jobs.report import notes
from jobs.report.facts import gather
from tests.jobs.report import samples
from tests.jobs.report.samples import figures


@pytest.fixture
def config(tmp_path):
    return samples.promoted(samples.daily_run(tmp_path))


def refused(home):
    config = samples.daily_run(home)
    failed = samples.check("ne", passed=False)
    samples.gate(config, "teacher", failed, reason="x" * 1000)
    return config


def test_a_promotion_is_tagged_with_its_number(config):
    assert notes.tags(gather(config)) == {
        "verdict": "promoted",
        "outcome": "Promoted as family #2: 5 gates passed with 5 checks.",
        "reason": "All gates passed.",
        "promoted": "true",
        "promotion": "2",
    }


def test_a_refusal_is_tagged_with_its_gate(tmp_path):
    found = notes.tags(gather(refused(tmp_path)))
    assert (found["promoted"], found["refused_by_gate"]) == ("false", "3")


def test_a_tag_is_short_enough_to_be_shown(tmp_path):
    assert len(notes.tags(gather(refused(tmp_path)))["reason"]) == 480


def test_figures_of_teacher_and_family_are_metrics(config):
    found = notes.metrics(gather(config))
    assert found["teacher/ne_click"] == 0.85
    assert found["family/versus_champion_buy"] == -0.01


def test_rows_and_gates_are_metrics(config):
    found = notes.metrics(gather(config))
    names = ("rows_learnt", "rows_judged", "gates_passed")
    assert [found[f"run/{name}"] for name in names] == [1234, 2000, 5]


def test_rows_that_were_never_counted_are_no_metric(tmp_path):
    found = notes.metrics(gather(samples.first_run(tmp_path)))
    assert sorted(found) == ["run/gates_passed", "run/peak_memory_gb", "run/seconds"]


def test_an_undefined_figure_stays_undefined(config):
    samples.leave(config, "metrics_teacher", figures(ne=None))
    assert math.isnan(notes.metrics(gather(config))["teacher/ne_click"])


def test_the_note_of_a_run_begins_with_its_verdict(config):
    first = notes.run_note(gather(config)).splitlines()[0]
    assert first == "**Promoted as family #2: 5 gates passed with 5 checks.** All gates passed."


def test_the_note_of_a_run_has_a_row_for_every_model_and_task(config):
    found = notes.run_note(gather(config)).splitlines()
    row = "| shop-teacher | click | 0.8500 | −1.00 % champion | 0.7500 | 1.020 |  |"
    assert found.count(row) == 1
    assert sum(line.startswith("| shop") for line in found) == 6


def test_the_note_of_a_run_tells_its_remarks(config):
    samples.job(config, "train_teacher", rows={"learnt": 0})
    assert "the pass over the window changed" in notes.run_note(gather(config))


def test_text_of_a_gate_is_no_markdown(tmp_path):
    config = samples.daily_run(tmp_path)
    failed = samples.check("ne", passed=False)
    samples.gate(config, "teacher", failed, reason="long_view | 2*3")
    first = notes.run_note(gather(config)).splitlines()[0]
    assert first.endswith("** long\\_view \\| 2\\*3")


def test_a_note_keeps_within_what_mlflow_takes(config):
    many = [figures("shop-app", f"task_{i}", **samples.of("app")) for i in range(50)]
    samples.leave(config, "metrics_family", *many)
    found = notes.run_note(gather(config)).splitlines()
    assert sum(line.startswith("| shop") for line in found) == 30
    assert "| 22 more in the report |" in found


def test_a_note_of_a_run_without_figures_says_so(tmp_path):
    assert "No model was judged." in notes.run_note(gather(samples.first_run(tmp_path)))


def test_the_name_of_a_run_tells_how_it_ended(config, tmp_path):
    assert notes.run_name(gather(config)) == "2024-03-05 promoted #2"
    assert notes.run_name(gather(refused(tmp_path / "other"))) == "2024-03-05 refused by gate 3"
    assert notes.run_name(gather(samples.first_run(tmp_path / "third"))) == "2024-03-05 unfinished"


@pytest.mark.parametrize(
    ("index", "begins"),
    [
        (0, "Teacher of all domains and tasks, in the family `shop`."),
        (1, "Student of the domain app, distilled from the teacher, in the family `shop`."),
        (2, "Student of app, feed, distilled from its domain student, in the family `shop`."),
    ],
)
def test_a_model_says_what_it_is(config, index, begins):
    facts = gather(config)
    assert notes.model_about(facts, facts.models[index]).startswith(begins)
