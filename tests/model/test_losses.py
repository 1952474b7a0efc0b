"""Losses against plain sums, and which weights each of them may move."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.distillation.config import SoftLabel
from model.distillation.soft_losses import distillation_loss
from model.losses import (
    adapted_distillation_loss,
    adapter_loss,
    task_loss,
)
from model.ranker import Student
from tests.model.samples import distillation_config, make_batch, moved, ranker_config
from tests.reference import model_losses as reference

NAN = float("nan")
TASKS = ("click", "buy")
LOGITS = torch.tensor([[0.5, -1.0], [-2.0, 0.3], [1.5, 0.0]])
LABELS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, NAN]])
ALL = torch.ones(3, 2, dtype=torch.bool)
MASK = torch.tensor([[True, True], [False, True], [True, False]])
COUNTS = torch.tensor([2.0, 2.0])
TEACHER = torch.tensor([[0.7, 0.2], [0.1, NAN], [0.4, 0.9]])


def test_task_loss_is_the_masked_sum_over_the_normaliser():
    expected = sum(
        reference.cross_entropy(LOGITS[b, t].item(), LABELS[b, t].item()) / 2
        for b in range(3)
        for t in range(2)
        if MASK[b, t]
    )
    assert task_loss(LOGITS, LABELS, MASK, COUNTS).item() == pytest.approx(expected, rel=1e-6)


def test_masked_labels_give_no_gradient_even_where_they_are_nan():
    logits = LOGITS.clone().requires_grad_()
    task_loss(logits, LABELS, MASK, COUNTS).backward()
    assert (logits.grad == 0).tolist() == (~MASK).tolist()


def test_task_without_labels_adds_nothing():
    mask = MASK & torch.tensor([True, False])
    loss = task_loss(LOGITS, LABELS, mask, torch.tensor([2.0, 0.0]))
    assert loss.item() == pytest.approx(
        task_loss(LOGITS[:, :1], LABELS[:, :1], mask[:, :1], torch.tensor([2.0])).item()
    )


@given(cut=st.integers(0, 3))
def test_workers_with_parts_of_a_batch_add_up_to_one_worker(cut):
    parts = [
        task_loss(LOGITS[rows], LABELS[rows], MASK[rows], COUNTS)
        for rows in (slice(0, cut), slice(cut, 3))
    ]
    whole = task_loss(LOGITS, LABELS, MASK, COUNTS)
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_undistilled_task_gets_no_gradient_from_adapted_soft_labels():
    logits = LOGITS.clone().requires_grad_()
    adapted_distillation_loss(
        logits, torch.logit(TEACHER), ALL, COUNTS, distilled=("click",), tasks=TASKS
    ).backward()
    assert logits.grad[:, 1].tolist() == [0.0, 0.0, 0.0]
    assert logits.grad[:, 0].abs().min() > 0


def test_adapted_loss_is_cross_entropy_on_the_adapted_probability():
    adapted = torch.tensor([[1.0, -0.5], [NAN, 2.0], [0.0, NAN]])
    expected = sum(
        reference.cross_entropy(LOGITS[b, t].item(), 1 / (1 + math.exp(-adapted[b, t].item()))) / 2
        for b, t in ((0, 0), (0, 1), (1, 1), (2, 0))
    )
    loss = adapted_distillation_loss(LOGITS, adapted, ALL, COUNTS, distilled=TASKS, tasks=TASKS)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_adapter_loss_counts_mature_labels_with_a_score():
    adapted = torch.tensor([[1.0, -0.5], [NAN, NAN], [0.0, 0.3]])
    expected = (
        reference.cross_entropy(1.0, 1.0)
        + reference.cross_entropy(-0.5, 0.0)
        + reference.cross_entropy(0.0, 1.0)
    ) / 2
    assert adapter_loss(adapted, LABELS, MASK, COUNTS).item() == pytest.approx(expected, rel=1e-6)


def run_student(**changes):
    """A student's output with everything its losses need."""
    config = ranker_config(tasks=TASKS)
    settings = distillation_config(
        soft_labels=tuple(SoftLabel(task=task, weight=1.0) for task in TASKS), **changes
    )
    student = Student(config, settings)
    batch = make_batch(config, (4, 0, 5))
    teacher = TEACHER.clone().requires_grad_()
    adapted = student.adapter(teacher, batch.domain) if student.adapter else None
    return student, student(batch), teacher, adapted


def teach(student, output, teacher):
    return distillation_loss(
        {"auxiliary": output.distill_logits, "serving": output.logits},
        teacher,
        MASK,
        COUNTS,
        soft_labels=student.distillation.soft_labels,
        tasks=TASKS,
    )


def test_student_loss_gives_no_gradient_to_adapter_or_teacher():
    student, output, teacher, adapted = run_student(adapter=True)
    loss = task_loss(output.logits, LABELS, MASK, COUNTS)
    loss = loss + teach(student, output, teacher)
    loss = loss + adapted_distillation_loss(
        output.adapted_distill_logits,
        adapted,
        MASK,
        COUNTS,
        distilled=student.distillation.tasks,
        tasks=TASKS,
    )
    loss.backward()
    assert teacher.grad is None
    assert all(parameter.grad is None for parameter in student.adapter.parameters())
    assert any(name.startswith("adapted_distill_head") for name in moved(student))


def test_adapter_loss_moves_the_adapter_alone():
    student, _, teacher, adapted = run_student(adapter=True)
    adapter_loss(adapted, LABELS, MASK, COUNTS).backward()
    assert teacher.grad is None
    # The last layer starts at zero, so the first step moves nothing before it.
    assert moved(student) == {"adapter.mlp.weights.1", "adapter.mlp.biases.1"}
