"""The alignment loss against plain numbers, and whom it moves."""

import pytest
import torch

from model.ranker import Ranker, Student
from model.representations.alignment import alignment_loss
from model.representations.config import AlignmentConfig
from tests.model.samples import distillation_config, make_batch, ranker_config
from tests.reference import model_representations as reference

NAN = float("nan")
ALIGNED = torch.tensor([[0.5, -1.0], [2.0, 0.3], [1.5, 0.1], [0.2, 0.2]])
TEACHER = torch.tensor([[0.25, -0.75], [NAN, NAN], [-0.5, 0.75], [1.0, 0.0]])
MASK = torch.tensor([True, True, True, False])


def loss_config(kind, weight=1.0):
    return AlignmentConfig(dim=2, weight=weight, loss=kind)


@pytest.mark.parametrize("kind", ["cosine", "mean_squared"])
def test_the_loss_is_the_weighted_sum_over_rows_with_a_representation(kind):
    expected = 3.0 * reference.alignment(ALIGNED, TEACHER, [0, 2], kind, 2.0)
    n, config = torch.tensor(2.0), loss_config(kind, 3.0)
    assert alignment_loss(ALIGNED, TEACHER, MASK, n, config).item() == pytest.approx(expected)
    parts = [
        alignment_loss(ALIGNED[s], TEACHER[s], MASK[s], n, config).item()
        for s in (slice(0, 1), slice(1, 4))
    ]
    assert sum(parts) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["cosine", "mean_squared"])
def test_missing_or_masked_representation_gives_no_gradient_and_the_teacher_gets_none(kind):
    aligned, teacher = ALIGNED.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    alignment_loss(aligned, teacher, MASK, torch.tensor(2.0), loss_config(kind)).backward()
    assert (aligned.grad[[1, 3]] == 0).all()
    assert (aligned.grad[[0, 2]] != 0).any(dim=1).all()
    assert teacher.grad is None


def test_a_representation_of_zeros_has_no_direction_and_no_gradient():
    aligned = ALIGNED[:1].clone().requires_grad_()
    mask, n = torch.tensor([True]), torch.tensor(1.0)
    loss = alignment_loss(aligned, torch.zeros(1, 2), mask, n, loss_config("cosine"))
    loss.backward()
    assert loss.item() == 1.0
    assert (aligned.grad == 0).all()


def test_alignment_moves_the_backbone_and_its_head_and_is_not_served():
    student = Student(
        ranker_config(), distillation_config(alignment=AlignmentConfig(dim=3, weight=1.0)), seed=5
    )
    batch = make_batch(ranker_config(), (3, 0, 16))
    output = student(batch)
    assert torch.equal(output.logits, Ranker(ranker_config(), seed=5)(batch).logits)
    loss = alignment_loss(
        output.aligned,
        torch.rand(3, 3),
        torch.ones(3, dtype=torch.bool),
        torch.tensor(3.0),
        AlignmentConfig(dim=3, weight=1.0),
    )
    loss.backward()
    moved = {
        n for n, p in student.named_parameters() if p.grad is not None and p.grad.to_dense().any()
    }
    assert {"alignment_head.projection.weight", "alignment_head.projection.bias"} <= moved
    assert any(name.startswith("ranker.interaction") for name in moved)
    assert not any(name.startswith(("ranker.heads", "distill_head")) for name in moved)
