"""Learning with products in bfloat16: what changes by a little, and what does not change."""

import pytest
import torch

from model.losses import task_loss
from model.ranker import Ranker, Student
from tests.model.samples import (
    config_without_history,
    distillation_config,
    make_batch,
    ranker_config,
    rich_config,
)
from tests.model.test_ranker import FORMS, LENGTHS, gem_config

EVERY_FORM = [*FORMS, pytest.param(config_without_history(), id="no_history")]


def gradient(model, batch):
    """Log-odds, and the gradient of a loss on them as one vector."""
    model.zero_grad()
    logits = model(batch).logits
    labels = (torch.arange(logits.numel()).view(logits.shape) % 2).float()
    mask = torch.ones_like(labels, dtype=torch.bool)
    task_loss(logits, labels, mask, torch.full((labels.shape[1],), len(labels) * 1.0)).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(p.dtype == torch.float32 for p in (*grads, *model.parameters()))
    return logits.detach(), torch.cat([g.to_dense().flatten() for g in grads])


@pytest.mark.parametrize("config", EVERY_FORM)
def test_a_step_in_bfloat16_goes_nearly_where_one_in_single_precision_goes(config):
    model, batch = Ranker(config), make_batch(config, LENGTHS)
    exact, towards = gradient(model, batch)
    model.training_precision = torch.bfloat16
    rounded, nearly = gradient(model, batch)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)
    assert torch.cosine_similarity(nearly, towards, dim=0) > 0.97


@pytest.mark.parametrize("config", EVERY_FORM)
def test_what_is_served_is_in_single_precision(config):
    model, batch = Ranker(config).eval(), make_batch(config, LENGTHS)
    expected = model(batch).logits
    model.training_precision = torch.bfloat16
    assert torch.equal(model(batch).logits, expected)


def test_log_odds_are_not_rounded_to_three_digits():
    model, batch = Ranker(ranker_config()), make_batch(ranker_config(), LENGTHS)
    model.training_precision = torch.bfloat16
    output = model(batch)
    representation, logits = output.representation, output.logits
    assert representation.dtype == torch.float32
    assert torch.equal(model.heads(representation, batch.domain), logits)
    assert not torch.equal(logits, logits.bfloat16().float())


def test_a_student_learns_from_the_rounded_representation_of_its_ranker():
    student = Student(rich_config(), distillation_config(adapter=True))
    batch = make_batch(rich_config(), LENGTHS)
    exact = student(batch)
    student.ranker.training_precision = torch.bfloat16
    rounded = student(batch)
    for one, other in (
        (rounded.logits, exact.logits),
        (rounded.distill_logits, exact.distill_logits),
    ):
        assert one.dtype == torch.float32
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)


def test_a_users_vector_is_the_same_whatever_a_step_is_computed_in():
    model, batch = Ranker(gem_config()).eval(), make_batch(gem_config(), LENGTHS)
    expected = model.represent_user(batch.history)
    model.training_precision = torch.bfloat16
    assert torch.equal(model.represent_user(batch.history), expected)
