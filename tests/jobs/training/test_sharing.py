"""A student that starts with parts of its scorer has learnt from nothing that it will learn."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import family as members
from jobs.errors import ConfigError
from jobs.family import TWIN, segment_folder, stage_folder
from jobs.pack_examples import open_packed
from jobs.promotions import Ledger, read_ledger
from jobs.training import segments, trainee
from jobs.training.checkpoints import load_checkpoint, read_card
from jobs.training.inputs import to_us
from jobs.training.segments import Segment, training_segments
from jobs.training.sharing import SharedStart, share, shared_start
from jobs.training.students import (
    domain_plan,
    student_card,
    student_reader,
    train_student,
    vertical_plan,
)
from jobs.training_settings import Distillation, SoftTerm, Student
from model.distillation.config import NegativeSampling
from tests.jobs.training import family, samples

ALL = [Segment(None, samples.END)]
FIRST, SECOND = samples.segments(*samples.days(1.5, 2.5))
EVERYTHING = Distillation(
    terms=(
        SoftTerm(),
        SoftTerm(loss="mean_squared", prediction="serving", weight=0.01),
        SoftTerm(loss="pairwise", weight=0.1, temperature=2.0),
        SoftTerm(loss="listwise", weight=0.1, within="batch"),
    ),
    adapter=True,
    gradient_scale=2.0,
    label_mixing=0.1,
    negative_sampling=NegativeSampling(teacher_ratio=1.0, student_ratio=0.9),
    warmup_ratio=0.2,
    initialised=("tables.user_id", "interaction"),
    frozen=("tables.ad_id", "history"),
)


def everything(config):
    """The run with every option of distillation on."""
    student = Student(training=samples.training(trials=family.TRIALS), distillation=EVERYTHING)
    return config.model_copy(update={"domain_student": student, "vertical_student": student})


def apart(config, home):
    """A run that has not absorbed yet, with tables and an MLflow store of its own."""
    moved = family.moved(config, home)
    store = home / "mlflow.db"
    shutil.copy(Path(config.home) / "mlflow" / "mlflow.db", store)
    resources = moved.resources.model_copy(update={"mlflow_uri": f"sqlite:///{store}"})
    return moved.model_copy(update={"resources": resources})


@pytest.fixture(scope="module")
def trained(first_run, tmp_path_factory):
    """(config, domain summary, vertical summary) of a first run's students, all options on."""
    config = everything(apart(first_run[0], tmp_path_factory.mktemp("everything")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "MIN_FIRST_ROWS", 1)
        domain = family.run_job(config, family.train_domain_student.run, student="blue")
        vertical = family.run_job(config, family.train_vertical_student.run, student="blue-feed")
    return config, domain, vertical


def weights(folder, part):
    """A checkpoint's weights as served, without the student's prefix."""
    held = load_checkpoint(folder)
    names = {**held.weights, **held.averages}
    bare = {name.removeprefix("ranker."): tensor for name, tensor in names.items()}
    return {name: tensor for name, tensor in bare.items() if name.startswith(part)}


@pytest.mark.parametrize("name", ["tiny-blue", "tiny-blue-feed"])
def test_frozen_parts_stay_the_scorers_and_initialised_ones_go_on(trained, name):
    config, domain, _ = trained
    judged = stage_folder(config, name, "judged")
    if name == "tiny-blue":
        scorer, trial = "tiny-teacher", details(config, "train_teacher")["chosen_trial"]
    else:
        scorer, trial = "tiny-blue", domain.details["chosen_trial"]
    first = segment_folder(config, scorer, trial, 0)
    for part in ("tables.table_ad_id.", "history."):
        own, theirs = weights(judged, part), weights(first, part)
        assert own.keys() == theirs.keys() != set()
        assert all(torch.equal(own[key], theirs[key]) for key in own), part
    for part in ("tables.table_user_id.", "interaction."):
        own, theirs = weights(judged, part), weights(first, part)
        assert any(not torch.equal(own[key], theirs[key]) for key in own)
    assert read_card(judged).shared == {
        "scorer": scorer,
        "run_id": "run-1",
        "trained_until": read_card(first).trained_until,
    }


def details(config, job):
    return family.read_summary(config, job).details


def test_a_student_learns_nothing_that_its_scorer_had_learnt_before(trained):
    config, domain, vertical = trained
    ends = [curve["ends"] for curve in details(config, "train_teacher")["curve"]]
    assert [curve["ends"] for curve in domain.details["curve"]] == ends[1:]
    assert [curve["ends"] for curve in vertical.details["curve"]] == ends[2:]


def test_the_twin_shares_nothing_and_learns_from_the_start(trained):
    config, domain, _ = trained
    judged = stage_folder(config, "tiny-blue", "judged")
    twin = read_card(judged / TWIN)
    assert (twin.shared, twin.distillation) == (None, None)
    assert twin.num_steps > read_card(judged).num_steps
    ends = [curve["ends"] for curve in details(config, "train_teacher")["curve"]]
    assert [curve["ends"] for curve in domain.details["twin_curve"]] == ends


def test_a_sharing_domain_student_scores_what_follows_its_own_first_segment(trained):
    config, domain, _ = trained
    packed = open_packed(config)
    first = read_card(segment_folder(config, "tiny-blue", domain.details["chosen_trial"], 0))
    blue = packed.domain == packed.spec.domains.index("blue")
    later = packed.event_us >= to_us(first.learnt_until)
    assert domain.rows["scored"] == (blue & later).sum() > 100


def test_distillation_warms_up_over_a_share_of_the_first_steps(trained):
    config, *_ = trained
    card = read_card(stage_folder(config, "tiny-blue", "judged"))
    assert card.distillation_warmup_steps == int(0.2 * card.num_steps) > 0


def test_figures_of_every_option_are_finite(trained):
    for summary in trained[1:]:
        assert np.isfinite(summary.details["student_ne_before_update"]).all()


@pytest.fixture
def parts(tmp_path):
    """(config, reader, folder of a trained teacher) of a small world."""
    rows = samples.world(300)
    student = Student(training=samples.training(), distillation=EVERYTHING)
    config = samples.config(tmp_path, domain_student=student)
    reader = samples.reader(config, rows)
    card, learner = samples.teacher(config, reader, [FIRST])
    card, _ = trainee.train(card, learner, reader, [FIRST])
    trainee.save(tmp_path / "scorer", card, learner)
    return config, reader, tmp_path / "scorer"


def begin(config, reader, folder):
    """A fresh student of `blue` that has taken over its scorer's parts."""
    scores = np.full((reader.packed.num_rows, 2), 0.3, np.float32)
    own = student_reader(config, domain_plan(config, "blue"), reader.packed, scores)
    card, learner = samples.student(config, own, [SECOND])
    return share(card, learner, own, SharedStart("tiny-teacher", folder, [SECOND])), learner, own


def test_tables_bring_their_sums_and_averages_are_what_was_taken_over(parts):
    config, reader, folder = parts
    _, learner, _ = begin(config, reader, folder)
    held = load_checkpoint(folder)
    (group,) = held.sparse_state["param_groups"]
    names = dict(zip(group["param_names"], group["params"], strict=True))
    for table, taken in (("user_id", True), ("ad_id", True), ("surface", False)):
        key = f"tables.table_{table}.weight"
        own = learner.optimizers.sparse.state[learner.ranker.get_parameter(key)]["sum"]
        theirs = held.sparse_state["state"][names[key]]["sum"]
        assert torch.equal(own, theirs if taken else torch.zeros_like(theirs))
    for name, average in learner.average.averages.items():
        assert torch.equal(average, learner.bare.get_parameter(name)), name


def test_frozen_parts_stay_after_a_warm_start(parts, tmp_path):
    config, reader, folder = parts
    card, learner, own = begin(config, reader, folder)
    card, _ = trainee.train(card, learner, own, [SECOND])
    trainee.save(tmp_path / "student", card, learner)
    before = weights(tmp_path / "student", "history.")
    later = samples.segments(*samples.days(2.5, 3.5))[1]
    card, learner = samples.student(config, own, [later], tmp_path / "student")
    card, _ = trainee.train(card, learner, own, [later])
    trainee.save(tmp_path / "later", card, learner)
    after = weights(tmp_path / "later", "history.")
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert card.shared["scorer"] == "tiny-teacher"


def test_another_choice_of_parts_than_the_parents_is_refused(parts, tmp_path):
    config, reader, folder = parts
    card, learner, own = begin(config, reader, folder)
    trainee.save(tmp_path / "student", card, learner)
    less = EVERYTHING.model_copy(update={"frozen": ("history",)})
    student = Student(training=samples.training(), distillation=less)
    later = samples.config(tmp_path, domain_student=student)
    with pytest.raises(ConfigError, match=r"differs .* in \['distillation.frozen'\]"):
        samples.student(later, own, [SECOND], tmp_path / "student")


def test_a_scorer_of_another_width_is_refused(parts, tmp_path):
    _, reader, folder = parts
    network = samples.network(table_dim=6)
    student = Student(training=samples.training(network=network), distillation=EVERYTHING)
    wide = samples.config(tmp_path, domain_student=student)
    with pytest.raises(ConfigError, match=r"tiny-blue: tables.user_id: .*, 6\) in the student and"):
        begin(wide, reader, folder)


def test_a_scorer_with_other_columns_is_refused(parts):
    config, reader, folder = parts
    card, learner, own = begin(config, reader, folder)
    other = replace(card, dense=card.dense[1:])
    with pytest.raises(ConfigError, match="a student reads the columns of its scorer"):
        share(other, learner, own, SharedStart("tiny-teacher", folder, [SECOND]))


def test_a_scorer_with_another_vocabulary_is_refused(parts, monkeypatch):
    config, reader, folder = parts
    monkeypatch.setattr(type(reader.packed), "reassigned_tables", lambda *_: ["user_id"])
    with pytest.raises(ConfigError, match=r"vocabulary extends .* rows of \['user_id'\]"):
        begin(config, reader, folder)


def test_a_run_of_one_segment_leaves_nothing_to_learn(first_run):
    config = everything(first_run[0])
    whole = [Segment(None, config.plan.gate_start)]
    with pytest.raises(ConfigError, match=r"tiny-blue: .* of tiny-teacher .* read more days"):
        shared_start(config, domain_plan(config, "blue"), whole)


def test_a_student_that_shares_nothing_starts_alone(first_run):
    config = first_run[0]
    assert shared_start(config, domain_plan(config, "blue"), ALL) is None


@pytest.fixture
def newcomer(next_run, tmp_path, monkeypatch):
    """The next day's run of a family whose parent had no student of blue-video yet."""
    config = apart(next_run[0], tmp_path)
    ledger = read_ledger(config.table("promotions"))
    rows = tuple(
        replace(row, members={k: v for k, v in row.members.items() if k != "tiny-blue-video"})
        for row in ledger.rows
    )
    held = Ledger(ledger.uri, ledger.snapshot, rows)
    monkeypatch.setattr(members, "read_ledger", lambda uri: held)
    monkeypatch.setattr(segments, "MIN_FIRST_ROWS", 1)
    return config


def test_a_vertical_that_is_new_in_a_family_learns_from_the_first_row_on(newcomer):
    plan = vertical_plan(newcomer, "blue-video")
    summary = train_student(newcomer, plan)
    card = read_card(stage_folder(newcomer, plan.name, "judged"))
    assert card.parent is None
    assert card.learnt_until == newcomer.plan.gate_start
    packed = open_packed(newcomer)
    own = packed.vertical == packed.spec.verticals.index("blue-video")
    matured = packed.matured(None, newcomer.plan.gate_start)[:, 0]
    assert summary.rows["learnt"] == (own & matured).sum()
    client = family.tracking.parent_run(newcomer).client
    version = client.get_model_version(plan.name, summary.details["version"])
    assert version.tags["trained_from"] == "None"


def test_a_new_vertical_shares_what_an_earlier_family_had_learnt(newcomer):
    config = everything(newcomer)
    zone = config.contract.time_zone
    found = training_segments(config.plan, open_packed(config), zone, afresh=True)
    start = shared_start(config, vertical_plan(config, "blue-video"), found)
    assert start.folder == members.parent_folder(config, "tiny-blue")
    assert [segment.start for segment in start.segments] == [config.plan.trained_from]


def test_a_vertical_may_learn_straight_from_the_teacher(first_run, tmp_path):
    config = apart(first_run[0], tmp_path)
    config = config.model_copy(update={"teachers": {"blue-feed": "teacher"}})
    plan = vertical_plan(config, "blue-feed")
    assert plan.scorer == "tiny-teacher"
    assert vertical_plan(config, "blue-video").scorer == "tiny-blue"
    summary = train_student(config, plan)
    assert list(summary.inputs)[-1] == "teacher_scores/tiny-teacher"
    assert summary.details["teacher"] == "tiny-teacher"
    child = family.tracking.find_child(config, plan.name)
    assert child.client.get_run(child.id).data.params["teacher"] == "tiny-teacher"


def test_a_student_card_tells_how_it_is_taught(parts):
    config, reader, _ = parts
    plan = domain_plan(config, "blue")
    trial = plan.settings.training.trials[0]
    own = student_reader(config, plan, reader.packed, None)
    card = student_card(config, plan, own, trial, distilled=True)
    assert card.distillation_config.frozen == EVERYTHING.frozen
    assert student_card(config, plan, own, trial, distilled=False).distillation_config is None
    earlier = replace(card, distillation={**card.distillation, "head": "auxiliary"})
    assert earlier.distillation_config == card.distillation_config
