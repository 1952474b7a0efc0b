"""Deep Interest Network against the loop over events."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from model.sequence import din
from model.sequence.config import DinConfig
from model.sequence.din import DeepInterest, Dice
from tests.reference import model_sequence as reference

WIDTH = 4


def make_inputs(lengths):
    generator = torch.Generator().manual_seed(len(lengths))
    target = torch.randn(len(lengths), WIDTH, generator=generator)
    events = torch.randn(sum(lengths), WIDTH, generator=generator)
    return target, events, torch.arange(sum(lengths)), torch.tensor([0, *lengths]).cumsum(0)


def make_network(activation="prelu"):
    torch.manual_seed(0)
    return DeepInterest(DinConfig(hidden=(6, 5), activation=activation), WIDTH)


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_interest_and_its_gradients_equal_the_loop(lengths):
    network = make_network()
    target, events, times, offsets = make_inputs(lengths)
    inputs = [target.requires_grad_(), events.requires_grad_()]
    actual = network(target, events, times, offsets)
    expected = reference.deep_interest(target, events, offsets, network.unit.mlp)
    torch.testing.assert_close(actual, expected)
    for a, e in zip(
        torch.autograd.grad(actual.square().sum(), inputs, materialize_grads=True),
        torch.autograd.grad(
            expected.square().sum() + 0 * target.sum(),
            inputs,
            allow_unused=True,
            materialize_grads=True,
        ),
        strict=True,
    ):
        torch.testing.assert_close(a, e, atol=1e-5, rtol=1e-4)


def test_weights_are_not_normalised_so_a_history_twice_as_long_counts_twice():
    network = make_network()
    target, events, times, offsets = make_inputs((3,))
    once = network(target, events, times, offsets)
    twice = network(target, events.repeat(2, 1), times.repeat(2), 2 * offsets)
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize("activation", ["dice", "prelu"])
def test_order_of_events_changes_nothing_and_an_empty_history_is_zero(activation):
    network = make_network(activation)
    target, events, times, offsets = make_inputs((4, 0, 2))
    expected = network(target, events, times, offsets)
    assert torch.equal(expected[1], torch.zeros(WIDTH))
    order = torch.tensor([2, 0, 3, 1, 5, 4])
    network = make_network(activation)
    torch.testing.assert_close(network(target, events[order], times[order], offsets), expected)


@pytest.mark.parametrize("activation", ["dice", "prelu"])
def test_poisoned_events_of_one_row_reach_no_other_row(activation):
    network = make_network(activation).eval()
    target, events, times, offsets = make_inputs((4, 3, 2))
    expected = network(target, events, times, offsets)
    events[4:7] = torch.nan
    poisoned = network(target, events, times, offsets)
    assert poisoned[1].isnan().all()
    assert torch.equal(poisoned[[0, 2]], expected[[0, 2]])


def test_dice_bends_at_the_mean_of_the_batch_and_later_at_the_moving_mean():
    dice = Dice(1)
    dice.alpha.data.fill_(0.25)
    inputs = torch.tensor([[1.0], [3.0]])
    # Mean 2, deviation 1: p = σ(∓1) = 0.26894, 0.73106.
    expected = torch.tensor([[0.26894 + 0.25 * 0.73106], [3 * (0.73106 + 0.25 * 0.26894)]])
    torch.testing.assert_close(dice(inputs), expected, atol=1e-4, rtol=0.0)
    torch.testing.assert_close(dice.mean, torch.tensor([0.02]))
    dice.eval()
    dice.mean.fill_(2.0)
    torch.testing.assert_close(dice(inputs), expected, atol=1e-4, rtol=0.0)
    torch.testing.assert_close(dice(inputs[:1]), expected[:1], atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("num_events", [0, 1])
def test_dice_is_finite_for_hardly_any_event(num_events):
    dice = Dice(3)
    assert dice(torch.ones(num_events, 3)).isfinite().all()
    assert dice.mean.isfinite().all()


@pytest.mark.parametrize("activation", ["dice", "prelu"])
def test_parameters_and_flops_equal_the_closed_forms(activation):
    network = make_network(activation)
    counted = sum(parameter.numel() for parameter in network.parameters())
    config = DinConfig(hidden=(6, 5), activation=activation)
    assert din.num_parameters(config, WIDTH) == counted
    with FlopCounterMode(display=False) as counter:
        network(*make_inputs((5, 5)))
    expected = 2 * din.flops(config, WIDTH, num_events=5)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)
