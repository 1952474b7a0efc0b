"""Conversions that follow clicks, their expected errors, and several attribution windows."""

import pytest
import torch

from model import ranker
from model.heads_config import ChainConfig
from model.ranker import Ranker, Student
from tests.model.samples import (
    distillation_config,
    make_batch,
    ranker_config,
)

LENGTHS = (3, 0, 16, 1, 7, 2)


def test_a_conversion_is_served_as_its_product_with_the_click():
    chain = ChainConfig(click="click", conversions=("buy",))
    chained, plain = Ranker(ranker_config(chain=chain)), Ranker(ranker_config())
    batch = make_batch(ranker_config(), LENGTHS)
    output, alone = chained(batch), plain(batch)
    assert torch.equal(output.tower_logits, alone.logits)
    assert torch.equal(alone.tower_logits, alone.logits)
    assert torch.equal(output.logits[:, :2], alone.logits[:, :2])
    p = alone.logits.double().sigmoid()
    torch.testing.assert_close(output.logits[:, 2].double().sigmoid(), p[:, 0] * p[:, 2])
    count = ranker.num_parameters(ranker_config(chain=chain))
    assert count == ranker.num_parameters(ranker_config())


def test_a_chain_starts_at_the_base_rates_of_all_impressions():
    model = Ranker(ranker_config(chain=ChainConfig(click="click", conversions=("buy", "like"))))
    rates = torch.tensor([[0.2, 0.05, 0.04], [0.1, 0.02, 0.2]])
    model.set_prior(rates)
    towers = model.heads(torch.zeros(2, 40), torch.arange(2))
    expected = torch.tensor([[0.2, 0.05, 0.04], [0.1, 0.02, 0.095]])
    torch.testing.assert_close(model._chained(towers).sigmoid(), expected)


IMPUTING = ranker_config(
    chain=ChainConfig(click="click", conversions=("buy", "like")), imputes_errors=True
)


def test_expected_errors_are_told_in_training_and_change_no_score():
    model = Ranker(IMPUTING)
    batch = make_batch(IMPUTING, LENGTHS)
    output = model(batch)
    plain = Ranker(IMPUTING.model_copy(update={"imputes_errors": False}))(batch)
    assert torch.equal(output.logits, plain.logits)
    assert plain.imputed_errors is None
    assert model.eval()(batch).imputed_errors is None
    towers = model.imputation.heads(output.representation, batch.domain)
    torch.testing.assert_close(output.imputed_errors, towers.exp().log1p())


def test_expected_errors_start_at_the_entropy_of_the_base_rate():
    model = Ranker(IMPUTING)
    model.set_prior(torch.tensor([[0.2, 0.05, 0.04], [0.1, 0.02, 0.2]]))
    errors = model.imputation(torch.zeros(2, 40), torch.arange(2))
    rates = torch.tensor([[0.04 / 0.2, 0.05 / 0.2], [0.95, 0.02 / 0.1]])
    torch.testing.assert_close(errors, torch.distributions.Bernoulli(rates).entropy())


def test_expected_errors_without_a_chain_are_refused():
    with pytest.raises(ValueError, match=r"imputes_errors: .* found no chain"):
        ranker_config(imputes_errors=True)


def test_the_longest_of_several_windows_is_served():
    model = Ranker(ranker_config(num_windows=3))
    output = model(make_batch(ranker_config(), LENGTHS))
    assert output.window_logits.shape == (6, 3, 3)
    assert torch.equal(output.logits, output.window_logits[:, 2])
    assert torch.equal(output.tower_logits, output.logits)
    assert Ranker(ranker_config())(make_batch(ranker_config(), LENGTHS)).window_logits is None


def test_heads_of_each_window_start_at_its_rates_and_auxiliary_ones_at_the_longest():
    student = Student(ranker_config(num_windows=2), distillation_config())
    student.set_prior(torch.tensor([[[0.1] * 3] * 2, [[0.3] * 3] * 2]))
    windows = student.ranker.heads(torch.zeros(2, 40), torch.arange(2)).sigmoid()
    torch.testing.assert_close(windows[:, 0], torch.full((2, 3), 0.1))
    torch.testing.assert_close(windows[:, 1], torch.full((2, 3), 0.3))
    auxiliary = student.distill_head(torch.zeros(2, 40), torch.arange(2)).sigmoid()
    torch.testing.assert_close(auxiliary, torch.full((2, 3), 0.3))


def test_a_chain_over_several_windows_is_refused():
    chain = ChainConfig(click="click", conversions=("buy",))
    with pytest.raises(ValueError, match=r"chain: .* found num_windows 2"):
        ranker_config(chain=chain, num_windows=2)


@pytest.mark.parametrize("conversions", [("share",), ("click",), ("buy", "buy")])
def test_a_chain_of_other_tasks_is_refused(conversions):
    with pytest.raises(ValueError, match="a click and its conversions are different tasks of"):
        ranker_config(chain=ChainConfig(click="click", conversions=conversions))
