"""What a teacher adds to a step: stacked losses, mixed labels, other sampling, and warm-up."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs.errors import ConfigError
from jobs.training.distillation import distillation_terms, mixed_labels
from jobs.training.networks import distillation_config
from jobs.training.segments import Segment
from jobs.training.students import domain_plan, student_reader
from jobs.training_settings import Distillation, SoftTerm, Student
from model import losses
from model.distillation.config import NegativeSampling
from tests.jobs.training import samples

ALL = [Segment(None, samples.END)]


@pytest.fixture(scope="module")
def world():
    return samples.world(300)


def taught(home, world, **distillation):
    """(learner, first piece) of a student of `blue`, with a score for two rows of three."""
    student = Student(training=samples.training(), distillation=Distillation(**distillation))
    config = samples.config(home, domain_student=student)
    packed = samples.packed(config, world)
    teacher = np.random.default_rng(0).uniform(0.05, 0.9, (packed.num_rows, 2))
    teacher[::3] = np.nan
    reader = student_reader(config, domain_plan(config, "blue"), packed, teacher.astype(np.float32))
    _, learner = samples.student(config, reader, ALL)
    return learner, next(reader.pieces(ALL[0], 0, 1))


def step_loss(learner, piece):
    """The loss of a step, which is then taken."""
    found = []
    learner._check_finite = lambda what, value, piece: found.append(value.item())
    learner.learn(piece, world=1)
    return found[0]


def test_a_term_teaches_its_tasks_where_the_student_has_them():
    terms = (SoftTerm(tasks=("buy",), weight=2.0), SoftTerm(loss="pairwise"))
    settings = Distillation(terms=terms, label_mixing=0.25, frozen=("history",))
    config = distillation_config(settings, ["click", "buy"])
    found = [(label.task, label.loss, label.weight) for label in config.soft_labels]
    assert found == [
        ("buy", "cross_entropy", 2.0),
        ("click", "pairwise", 1.0),
        ("buy", "pairwise", 1.0),
    ]
    assert (config.label_mixing, config.frozen, config.adapter) == (0.25, ("history",), True)
    assert distillation_config(settings, ["click"]).tasks == ("click",)


def test_a_task_that_the_contract_lacks_is_refused(tmp_path):
    wrong = Student(
        training=samples.training(), distillation=Distillation(terms=(SoftTerm(tasks=("bye",)),))
    )
    with pytest.raises(ValueError, match=r"vertical_student.distillation.terms: .*found \['bye'\]"):
        samples.config(tmp_path, vertical_student=wrong)


def test_a_step_adds_every_term_up(tmp_path, world):
    terms = (
        SoftTerm(weight=0.5),
        SoftTerm(loss="mean_squared", prediction="serving", weight=0.01, tasks=("buy",)),
        SoftTerm(loss="pairwise", within="batch"),
        SoftTerm(loss="listwise"),
    )
    parts = []
    for term in terms:
        learner, piece = taught(tmp_path, world, terms=(term,), adapter=False)
        parts.append(distillation_terms(learner.bare, learner.model(piece.batch), piece).item())
    assert min(parts) > 0
    learner, piece = taught(tmp_path, world, terms=terms, adapter=False)
    output = learner.model(piece.batch)
    label = losses.task_loss(output.logits, piece.labels, piece.mask, piece.num_labels).item()
    assert step_loss(learner, piece) == pytest.approx(label + sum(parts), rel=1e-5)


def test_rows_are_compared_within_their_users(tmp_path, world):
    learner, piece = taught(tmp_path, world, terms=(SoftTerm(loss="listwise"),), adapter=False)
    output = learner.model(piece.batch)
    whole = distillation_terms(learner.bare, output, piece)
    assert whole > 0
    alone = replace(piece, users=torch.arange(len(piece.rows)))
    assert distillation_terms(learner.bare, output, alone) == 0


def test_distillation_warms_up_and_the_adapter_does_not(tmp_path, world):
    parts = {}
    for name, settings in {
        "terms": {"adapter": False},
        "both": {"adapter": True},
    }.items():
        learner, piece = taught(tmp_path, world, **settings)
        learner.distillation_warmup_steps = 4
        output = learner.model(piece.batch)
        label = losses.task_loss(output.logits, piece.labels, piece.mask, piece.num_labels).item()
        full = distillation_terms(learner.bare, output, piece).item()
        parts[name] = (label, full, step_loss(learner, piece))
    label, full, found = parts["terms"]
    assert found == pytest.approx(label + full / 4, rel=1e-5)
    learner, piece = taught(tmp_path, world, adapter=True)
    adapted = learner.bare.adapter(piece.teacher, piece.batch.domain)
    own = losses.adapter_loss(adapted, piece.labels, piece.mask, piece.num_scores).item()
    label, full, found = parts["both"]
    assert found == pytest.approx(label + (full - own) / 4 + own, rel=1e-5)


def test_the_weight_of_distillation_rises_to_one(tmp_path, world):
    learner, _ = taught(tmp_path, world)
    learner.distillation_warmup_steps = 4
    shares = []
    for learner.num_steps in range(6):
        shares.append(learner._distillation_share())
    assert shares == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    learner.num_steps, learner.distillation_warmup_steps = 0, 0
    assert learner._distillation_share() == 1.0


def test_labels_are_mixed_where_there_is_a_score(tmp_path, world):
    learner, piece = taught(tmp_path, world, label_mixing=0.2)
    mixed = mixed_labels(learner.bare, piece, share=0.5)
    usable = piece.mask & ~piece.teacher.isnan()
    assert 0 < usable.sum() < piece.mask.sum()
    expected = torch.where(usable, 0.9 * piece.labels + 0.1 * piece.teacher, piece.labels)
    torch.testing.assert_close(mixed, expected, equal_nan=True)


def test_labels_of_shorter_windows_are_not_mixed(tmp_path, world):
    learner, piece = taught(tmp_path, world, label_mixing=0.2)
    window = torch.zeros_like(piece.labels, dtype=torch.int64)
    window[::2] = 1
    learner.bare.ranker.config = learner.ranker.config.model_copy(update={"num_windows": 2})
    mixed = mixed_labels(learner.bare, replace(piece, window=window), share=1.0)
    usable = piece.mask & ~piece.teacher.isnan()
    assert (mixed != piece.labels)[usable].tolist() == (window == 1)[usable].tolist()


def test_a_step_learns_mixed_labels_and_is_judged_by_the_plain_ones(tmp_path, world):
    learner, piece = taught(tmp_path, world, label_mixing=0.5, terms=(), adapter=False)
    logits = learner.model(piece.batch).logits
    mixed = mixed_labels(learner.bare, piece, share=1.0)
    expected = losses.task_loss(logits, mixed, piece.mask, piece.num_labels).item()
    plain = losses.task_loss(logits, piece.labels, piece.mask, piece.num_labels).item()
    assert step_loss(learner, piece) == pytest.approx(expected, rel=1e-6) != plain
    positives = (piece.labels.nan_to_num(0.0) * piece.mask).sum(0)
    assert learner.progress.positives.tolist() == positives.tolist()


def test_scores_are_converted_to_the_students_sampling(tmp_path, world):
    sampling = NegativeSampling(teacher_ratio=0.1, student_ratio=0.4)
    learner, piece = taught(tmp_path, world, negative_sampling=sampling, label_mixing=0.5)
    # Four times as many negatives for each positive.
    odds = piece.teacher / (1 - piece.teacher) / 4
    converted = replace(piece, teacher=odds / (1 + odds))
    plain, _ = taught(tmp_path, world, label_mixing=0.5)
    output = learner.model(piece.batch)
    torch.testing.assert_close(
        distillation_terms(learner.bare, output, piece),
        distillation_terms(plain.bare, output, converted),
    )
    torch.testing.assert_close(
        mixed_labels(learner.bare, piece, 1.0),
        mixed_labels(plain.bare, converted, 1.0),
        equal_nan=True,
    )


def test_losses_that_compare_rows_are_refused_among_workers(tmp_path, world):
    learner, piece = taught(tmp_path, world, terms=(SoftTerm(loss="pairwise"),))
    with pytest.raises(ConfigError, match=r"pairwise compare rows of a batch, .* found 2 workers"):
        learner.learn(piece, world=2)
    assert learner.num_steps == 0
    assert math.isfinite(step_loss(learner, piece))
