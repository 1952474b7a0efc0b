"""The student around a ranker, beside its twin."""

import pytest
import torch

from model.distillation.config import SoftLabel
from model.ranker import Ranker, Student
from tests.model.samples import (
    distillation_config,
    make_batch,
    ranker_config,
)

LENGTHS = (3, 0, 16, 1, 7, 2)


SERVED = SoftLabel(task="click", prediction="serving")


@pytest.mark.parametrize(
    "changes",
    [{}, {"adapter": True, "gradient_scale": 3.0}, {"soft_labels": (SERVED,)}],
)
def test_student_and_its_twin_start_equal_and_serve_alike(changes):
    config = ranker_config()
    student = Student(config, distillation_config(**changes), seed=5)
    twin = Ranker(config, seed=5)
    weights = student.ranker.state_dict()
    assert weights.keys() == twin.state_dict().keys()
    assert all(torch.equal(weights[name], weight) for name, weight in twin.state_dict().items())
    batch = make_batch(config, LENGTHS)
    assert torch.equal(student(batch).logits, twin(batch).logits)
    assert torch.equal(student.ranker(batch).logits, student(batch).logits)


def test_plain_distillation_teaches_the_serving_head():
    student = Student(ranker_config(), distillation_config(soft_labels=(SERVED,)))
    output = student(make_batch(ranker_config(), LENGTHS))
    assert output.distill_logits is output.logits
    assert output.adapted_distill_logits is None


def test_auxiliary_heads_differ_from_the_serving_heads_and_each_other():
    student = Student(ranker_config(), distillation_config(adapter=True))
    output = student(make_batch(ranker_config(), LENGTHS))
    assert (output.logits - output.distill_logits).abs().max() > 1e-3
    assert (output.adapted_distill_logits - output.distill_logits).abs().max() > 1e-3


def test_prior_reaches_serving_and_auxiliary_heads():
    student = Student(ranker_config(), distillation_config(adapter=True))
    student.set_prior(torch.full((2, 3), 0.25))
    for head in (
        student.ranker.heads,
        student.distill_head.heads,
        student.adapted_distill_head.heads,
    ):
        for stack in head.domains:
            torch.testing.assert_close(
                stack.biases[-1].flatten(), torch.full((3,), -1.0986123), atol=1e-6, rtol=0.0
            )


def test_soft_label_for_an_unknown_task_is_refused():
    labels = (SoftLabel(task="share", weight=1.0),)
    with pytest.raises(ValueError, match=r"one of .'click', 'like', 'buy'.; found 'share'"):
        Student(ranker_config(), distillation_config(soft_labels=labels))
