"""The training jobs hand on what they say: checkpoints, scores, versions, and the day after."""

from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import delta, tracking, train_domain_student, train_teacher, train_vertical_student
from jobs.errors import ConfigError
from jobs.family import TWIN, segment_folder, stage_folder, student_names
from jobs.pack_examples import open_packed
from jobs.training import ray_loop
from jobs.training.checkpoints import load_checkpoint, read_card, weights_hash
from jobs.training.inputs import to_us
from jobs.training.scoring import read_scores, scores_table
from jobs.training.students import train_student, vertical_plan
from jobs.training.trainee import SegmentResult
from tests.jobs.training import family, samples

TEACHER, DOMAIN, VERTICAL = "tiny-teacher", "tiny-blue", "tiny-blue-feed"


def details(run, job):
    return run[1][job].details


def test_the_best_trial_of_the_teacher_is_judged(first_run):
    config = first_run[0]
    chosen = details(first_run, "train_teacher")["chosen_trial"]
    assert details(first_run, "train_teacher")["trial"] == family.TRIALS[chosen].model_dump()
    last = details(first_run, "train_teacher")["segments"] - 1
    kept = segment_folder(config, TEACHER, chosen, last)
    assert weights_hash(kept) == weights_hash(stage_folder(config, TEACHER, "judged"))


def test_the_trial_with_the_better_last_day_is_chosen(first_run, tmp_path, monkeypatch):
    config = samples.config(tmp_path, teacher=samples.training(trials=family.TRIALS))
    samples.packed(config, samples.world(50))
    checkpoint = stage_folder(first_run[0], TEACHER, "judged")

    def planted(config, job):
        # The first trial fares better in the last hours, the second over the day.
        day, hours = {"teacher-0": (690.0, 20.0), "teacher-1": (600.0, 30.0)}[job.name]
        sums = [[1000.0], [500.0], [day], [500.0]], [[40.0], [20.0], [hours], [20.0]]
        ends = samples.days(3, 3.5)
        return [(checkpoint, SegmentResult(*end)) for end in zip(ends, sums, strict=True)]

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    monkeypatch.setattr(ray_loop, "train_on_ray", planted)
    monkeypatch.setattr(tracking, "child_run", stop)
    with pytest.raises(Stop):
        train_teacher.run(config)
    folder = stage_folder(config, TEACHER, "judged").parent
    assert sorted(path.name for path in folder.iterdir()) == ["judged", "trial-1"]


def test_the_teacher_has_learnt_up_to_the_gate_window(first_run):
    config = first_run[0]
    card = read_card(stage_folder(config, TEACHER, "judged"))
    assert card.learnt_until == config.plan.gate_start
    packed = open_packed(config)
    labels = [
        packed.matured(segment.start, segment.end).sum(axis=0).max()
        for segment in samples.segments(*samples.days(1, 2, 2.5))
    ]
    assert first_run[1]["train_teacher"].rows == {"learnt": sum(labels)}


def test_of_a_students_trials_the_judged_ones_alone_are_kept(first_run):
    models = first_run[0].run_folder / "models"
    assert len(list(models.glob("*/judged/twin"))) == len(student_names(first_run[0]))
    assert list(models.glob("*/*/end")) == []


def test_every_row_after_the_first_segment_is_scored(first_run):
    config = first_run[0]
    packed = open_packed(config)
    first = read_card(
        segment_folder(config, TEACHER, details(first_run, "train_teacher")["chosen_trial"], 0)
    )
    scored = (packed.event_us >= to_us(first.learnt_until)).sum()
    assert first_run[1]["score_teacher"].rows == {
        "scored": scored,
        "unscored": packed.num_rows - scored,
    }


@pytest.mark.parametrize("name", [DOMAIN, VERTICAL])
def test_a_student_lies_beside_its_twin_after_as_many_steps(first_run, name):
    judged = stage_folder(first_run[0], name, "judged")
    student, twin = read_card(judged), read_card(judged / TWIN)
    assert (student.num_steps, student.trained_until) == (twin.num_steps, twin.trained_until)
    assert student.distillation is not None
    assert twin.distillation is None
    assert student.ranker == twin.ranker
    weights = [load_checkpoint(folder).weights for folder in (judged, judged / TWIN)]
    served = {name.removeprefix("ranker."): tensor for name, tensor in weights[0].items()}
    assert not all(torch.equal(served[name], tensor) for name, tensor in weights[1].items())


def test_a_vertical_student_has_the_tasks_of_its_level(first_run):
    config = first_run[0]
    card = read_card(stage_folder(config, VERTICAL, "judged"))
    assert card.ranker_config.tasks == ("click",)
    assert read_card(stage_folder(config, DOMAIN, "judged")).ranker_config.tasks == ("click", "buy")


def test_a_student_says_by_which_scores_it_was_taught(first_run):
    _, summaries, _ = first_run
    table, own = f"teacher_scores/{TEACHER}", f"teacher_scores/{DOMAIN}"
    assert summaries["blue"].inputs[table] == summaries["score_teacher"].outputs[table]
    assert summaries["blue-feed"].inputs[own] == summaries["blue"].outputs[own]


def test_a_domain_student_scores_its_own_rows_out_of_sample(first_run):
    config = first_run[0]
    packed = open_packed(config)
    scores = read_scores(config, DOMAIN, packed, ["click"])[:, 0]
    known = ~np.isnan(scores)
    assert known.sum() == first_run[1]["blue"].rows["scored"] > 100
    assert (packed.domain[known] == packed.spec.domains.index("blue")).all()
    table = delta.read_days(scores_table(config, DOMAIN))
    assert all(
        a <= b
        for a, b in zip(*(table[c].to_pylist() for c in ("trained_until", "event_ts")), strict=True)
    )


def test_every_model_has_a_run_a_version_and_is_challenger(first_run):
    config, summaries, _ = first_run
    client = tracking.parent_run(config).client
    for name in (TEACHER, *student_names(config)):
        run = tracking.find_child(config, name)
        assert client.get_run(run.id).info.status == "FINISHED"
        summary = summaries["train_teacher" if name == TEACHER else name.removeprefix("tiny-")]
        assert summary.mlflow_run == run.id
        version = client.get_model_version(name, summary.details["version"])
        assert version.tags["stage"] == "judged"
        assert version.tags["trained_until"] == config.plan.gate_start.isoformat()


@pytest.mark.parametrize("name", [TEACHER, DOMAIN, VERTICAL])
def test_the_next_day_goes_on_from_the_promoted_family(first_run, next_run, name):
    before = stage_folder(first_run[0], name, "final")
    after = stage_folder(next_run[0], name, "judged")
    for part in [""] if name == TEACHER else ["", TWIN]:
        parent, child = read_card(before / part), read_card(after / part)
        assert weights_hash(Path(child.parent)) == weights_hash(before / part)
        assert child.num_steps > parent.num_steps
        assert child.trial == parent.trial
        assert child.learnt_until == next_run[0].plan.gate_start


def test_the_next_day_is_scored_by_the_promoted_family_and_then_by_its_child(next_run):
    config = next_run[0]
    table = delta.read_days(scores_table(config, TEACHER), [config.plan.day])
    assert set(table["scorer_run"].to_pylist()) == {"run-1", "run-2"}
    ends = {config.plan.trained_from, config.plan.gate_start}
    assert set(table["trained_until"].to_pylist()) == ends


def test_a_student_without_a_label_is_refused(first_run, tmp_path, monkeypatch):
    config = first_run[0].model_copy(
        update={"plan": first_run[0].plan.model_copy(update={"gate_start": samples.START})}
    )
    with pytest.raises(ConfigError, match=r"tiny-red-home: a new model needs labels to learn"):
        train_student(config, vertical_plan(config, "red-home"))


@pytest.mark.parametrize(
    ("job", "names"), [(train_domain_student, "blue"), (train_vertical_student, "red-home")]
)
def test_an_unknown_student_is_refused_with_the_known_ones(first_run, job, names):
    with pytest.raises(ConfigError, match=f"unknown .* 'green'.*{names}"):
        job.run(first_run[0], student="green")


def test_a_student_before_its_teacher_is_refused(tmp_path):
    config = samples.config(tmp_path)
    samples.packed(config, samples.world(50))
    with pytest.raises(ConfigError, match="score_teacher has not run in run-1"):
        train_domain_student.run(config, student="blue")
