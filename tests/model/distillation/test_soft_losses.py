"""Soft losses against plain sums, what they ignore, and which weights each of them may move."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.distillation.config import SoftLabel
from model.distillation.soft_losses import distillation_loss
from model.losses import usable_scores
from model.ranker import Student
from tests.model.samples import distillation_config, make_batch, moved, ranker_config
from tests.reference import model_distillation, model_losses

NAN = float("nan")
TASKS = ("click", "buy")
LOGITS = torch.tensor([[0.5, -1.0], [-2.0, 0.3], [1.5, 0.0]])
MASK = torch.tensor([[True, True], [False, True], [True, False]])
COUNTS = torch.tensor([2.0, 2.0])
TEACHER = torch.tensor([[0.7, 0.2], [0.1, NAN], [0.4, 0.9]])
LOSSES = ("cross_entropy", "mean_squared", "pairwise", "listwise")


def learn(logits, teacher, mask, counts, *labels, users=None):
    """The loss where auxiliary and serving heads say the same."""
    return distillation_loss(
        {"auxiliary": logits, "serving": logits},
        teacher,
        mask,
        counts,
        soft_labels=labels,
        tasks=TASKS,
        users=torch.zeros(len(logits), dtype=torch.int64) if users is None else users,
    )


@pytest.mark.parametrize("amplification", [1.0, 5.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_loss_is_the_sum_over_rows_with_a_score(temperature, amplification):
    label = SoftLabel(task="buy", weight=3.0, temperature=temperature, amplification=amplification)
    expected = 0.0
    for b in (0, 2):
        softened = model_losses.soften(TEACHER[b, 1].item(), temperature)
        logit = LOGITS[b, 1].item() / temperature
        target = min(1.0, amplification * softened)
        expected += 3.0 * model_losses.cross_entropy(logit, target) / 2
    loss = learn(LOGITS, TEACHER, torch.ones_like(MASK), COUNTS, label)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_mean_squared_is_the_distance_of_the_log_odds():
    label = SoftLabel(task="click", loss="mean_squared", weight=2.0, temperature=0.5)
    expected = sum(
        2.0 * ((LOGITS[b, 0].item() - model_distillation.log_odds(p)) / 0.5) ** 2 / 2
        for b, p in ((0, 0.7), (2, 0.4))
    )
    loss = learn(LOGITS, TEACHER, MASK, COUNTS, label)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


ROWS = st.lists(
    st.tuples(st.floats(-4, 4), st.floats(0.01, 0.99), st.integers(0, 2), st.booleans()),
    min_size=1,
    max_size=9,
)


@settings(deadline=None, max_examples=25)
@given(rows=ROWS, temperature=st.sampled_from([0.5, 1.0, 3.0]))
@pytest.mark.parametrize("name", ["pairwise", "listwise"])
def test_losses_of_groups_equal_the_loop(name, rows, temperature):
    z, p, group, known = (list(column) for column in zip(*rows, strict=True))
    used = [i for i, usable in enumerate(known) if usable]
    own, reference = (
        ([values[i] for i in used] for values in (z, p)),
        getattr(model_distillation, name),
    )
    expected = reference(*own, [group[i] for i in used], temperature) / 2
    column = torch.tensor(p, dtype=torch.float64)[:, None]
    teacher = torch.where(torch.tensor(known)[:, None], column, torch.nan).expand(-1, 2)
    logits = torch.tensor(z, dtype=torch.float64)[:, None].expand(-1, 2)
    label = SoftLabel(task="buy", loss=name, temperature=temperature)
    mask = torch.ones(len(rows), 2, dtype=torch.bool)
    loss = learn(logits, teacher, mask, COUNTS.double(), label, users=torch.tensor(group))
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["pairwise", "listwise"])
def test_a_teacher_that_is_wrong_by_a_constant_teaches_no_bias(name):
    logits = torch.tensor([[0.5], [-2.0], [1.5]]).expand(-1, 2).clone().requires_grad_()
    teacher = torch.sigmoid(logits.detach() + 3.0)
    label = SoftLabel(task="click", loss=name)
    learn(logits, teacher, torch.ones_like(MASK), COUNTS, label).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(3, 2), atol=1e-6, rtol=0.0)


def test_a_low_temperature_leaves_the_order_alone():
    label = SoftLabel(task="click", loss="pairwise", temperature=0.01)
    teacher = torch.tensor([[0.6, 0.5], [0.1, 0.5], [0.3, 0.5]])
    logits = torch.tensor([[0.02, 0.0], [0.01, 0.0], [-0.01, 0.0]])
    pairs = ((0, 1), (0, 2), (2, 1))
    expected = sum(
        math.log1p(math.exp((logits[j, 0] - logits[i, 0]).item() / 0.01)) / 2 / 3 for i, j in pairs
    )
    loss = learn(logits, teacher, torch.ones_like(MASK), torch.tensor([3.0, 3.0]), label)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["pairwise", "listwise"])
def test_rows_of_other_users_are_compared_only_within_the_batch(name):
    users = torch.tensor([5, 6, 7])
    alone = learn(LOGITS, TEACHER, MASK, COUNTS, SoftLabel(task="click", loss=name), users=users)
    assert alone.item() == 0.0
    label = SoftLabel(task="click", loss=name, within="batch")
    assert learn(LOGITS, TEACHER, MASK, COUNTS, label, users=users).item() > 1e-3


@settings(deadline=None, max_examples=25)
@given(cut=st.integers(0, 3))
@pytest.mark.parametrize("name", LOSSES)
def test_workers_with_whole_groups_add_up_to_one_worker(name, cut):
    groups = torch.tensor([1, 1, 2, 2, 2, 3])
    cut = (0, 2, 5, 6)[cut]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 2, generator=generator)
    teacher = torch.rand(6, 2, generator=generator)
    teacher[1, 0] = NAN
    mask = torch.ones(6, 2, dtype=torch.bool)
    counts = torch.tensor([5.0, 6.0])
    labels = tuple(SoftLabel(task=task, loss=name) for task in TASKS)

    def of(rows):
        return learn(logits[rows], teacher[rows], mask[rows], counts, *labels, users=groups[rows])

    whole = of(slice(0, 6))
    torch.testing.assert_close(of(slice(0, cut)) + of(slice(cut, 6)), whole)


@pytest.mark.parametrize("name", LOSSES)
def test_missing_or_masked_score_gives_no_gradient(name):
    logits = torch.cat([LOGITS, LOGITS.flip(0)]).requires_grad_()
    teacher, mask = torch.cat([TEACHER, TEACHER]), torch.cat([MASK, MASK])
    labels = tuple(SoftLabel(task=task, loss=name) for task in TASKS)
    learn(logits, teacher, mask, COUNTS, *labels).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad != 0).tolist() == usable_scores(teacher, mask).tolist()
    assert usable_scores(TEACHER, MASK).tolist() == [[True, True], [False, False], [True, False]]


@pytest.mark.parametrize("name", LOSSES)
def test_certain_teacher_gives_a_finite_loss(name):
    label = SoftLabel(task="click", loss=name, temperature=2.0)
    teacher = torch.tensor([[0.0, 0.5], [1.0, 0.5], [0.5, 0.5]])
    assert math.isfinite(learn(LOGITS, teacher, torch.ones_like(MASK), COUNTS, label).item())


def test_stacked_losses_add_up_with_their_weights():
    mask, parts = torch.ones_like(MASK), []
    labels = [SoftLabel(task="click", loss=name, weight=i + 1.0) for i, name in enumerate(LOSSES)]
    for label in labels:
        plain = label.model_copy(update={"weight": 1.0})
        parts.append(label.weight * learn(LOGITS, TEACHER, mask, COUNTS, plain))
    together = learn(LOGITS, TEACHER, mask, COUNTS, *labels)
    torch.testing.assert_close(together, torch.stack(parts).sum())


def test_a_loss_teaches_the_prediction_that_it_names():
    auxiliary, serving = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    labels = (
        SoftLabel(task="click", prediction="auxiliary"),
        SoftLabel(task="buy", prediction="serving"),
    )
    logits = {"auxiliary": auxiliary, "serving": serving}
    distillation_loss(
        logits, TEACHER, torch.ones_like(MASK), COUNTS, soft_labels=labels, tasks=TASKS
    ).backward()
    assert (auxiliary.grad != 0).any(dim=0).tolist() == [True, False]
    assert (serving.grad != 0).any(dim=0).tolist() == [False, True]


def run_student(**changes):
    """A student's output with everything its losses need."""
    config = ranker_config(tasks=TASKS)
    settings = distillation_config(
        **{"soft_labels": tuple(SoftLabel(task=task) for task in TASKS), **changes}
    )
    student = Student(config, settings)
    batch = make_batch(config, (4, 0, 5))
    return student, student(batch), TEACHER.clone().requires_grad_()


def teach(student, output, teacher):
    return distillation_loss(
        {"auxiliary": output.distill_logits, "serving": output.logits},
        teacher,
        MASK,
        COUNTS,
        soft_labels=student.distillation.soft_labels,
        tasks=TASKS,
        users=torch.zeros(3, dtype=torch.int64),
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_soft_labels_move_backbone_and_auxiliary_head_but_never_the_serving_head(loss):
    labels = (SoftLabel(task="click", loss=loss),)
    student, output, teacher = run_student(soft_labels=labels)
    teach(student, output, teacher).backward()
    names = moved(student)
    assert teacher.grad is None
    assert not any(name.startswith("ranker.heads") for name in names)
    assert any(name.startswith("ranker.interaction") for name in names)
    assert any(name.startswith("distill_head") for name in names)


def test_plain_distillation_moves_the_serving_head():
    labels = (SoftLabel(task="click", prediction="serving"),)
    student, output, teacher = run_student(soft_labels=labels)
    teach(student, output, teacher).backward()
    assert student.distill_head is None
    assert any(name.startswith("ranker.heads") for name in moved(student))


@pytest.mark.parametrize("loss", LOSSES)
def test_backbone_receives_the_distillation_gradient_times_beta(loss):
    gradients = {}
    for beta in (1.0, 20.0):
        labels = (SoftLabel(task="click", loss=loss),)
        student, output, teacher = run_student(gradient_scale=beta, soft_labels=labels)
        teach(student, output, teacher).backward()
        gradients[beta] = {
            name: parameter.grad.to_dense()
            for name, parameter in student.named_parameters()
            if parameter.grad is not None
        }
    for name, gradient in gradients[1.0].items():
        factor = 1.0 if name.startswith("distill_head") else 20.0
        torch.testing.assert_close(gradients[20.0][name], factor * gradient, msg=name)
