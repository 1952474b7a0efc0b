"""Mixed labels are a weighted sum of two losses, and plain where there is no score."""

import torch

from model.distillation.mixing import mix_labels
from model.losses import task_loss

NAN = float("nan")
LABELS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [NAN, 1.0]])
TEACHER = torch.tensor([[0.7, 0.2], [NAN, 0.4], [0.3, 0.9]])
MASK = torch.tensor([[True, True], [True, True], [False, True]])
USABLE = torch.tensor([[True, True], [False, True], [False, False]])


def test_a_mixed_label_lies_between_label_and_score():
    mixed = mix_labels(LABELS, TEACHER, USABLE, 0.25)
    expected = torch.tensor([[0.925, 0.05], [0.0, 0.85], [NAN, 1.0]])
    torch.testing.assert_close(mixed, expected, equal_nan=True)


def test_the_loss_is_the_weighted_sum_of_both_objectives():
    logits, counts = torch.tensor([[0.5, -1.0], [-2.0, 0.3], [1.5, 0.0]]), torch.ones(2)
    share = 0.3
    mixed = task_loss(logits, mix_labels(LABELS, TEACHER, USABLE, share), MASK, counts)
    plain = task_loss(logits, LABELS, MASK, counts)
    scored = task_loss(logits, LABELS, USABLE, counts), task_loss(logits, TEACHER, USABLE, counts)
    torch.testing.assert_close(mixed, plain + share * (scored[1] - scored[0]))


def test_no_gradient_reaches_the_teacher():
    teacher = TEACHER.clone().requires_grad_()
    assert not mix_labels(LABELS, teacher, USABLE, 0.5).requires_grad
