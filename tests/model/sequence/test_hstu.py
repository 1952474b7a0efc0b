"""HSTU against the loop over pairs of events."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from model.sequence import hstu
from model.sequence.config import HstuConfig
from model.sequence.hstu import Hstu, HstuLayer, RelativeBias
from tests.reference import model_sequence as reference

WIDTH, MAX_EVENTS = 6, 12
CONFIG = HstuConfig(num_layers=2, num_heads=2, head_dim=4, num_time_buckets=40)


def make_inputs(lengths):
    generator = torch.Generator().manual_seed(len(lengths))
    events = torch.randn(sum(lengths), WIDTH, generator=generator)
    times = torch.randint(10**5, (sum(lengths),), generator=generator)
    return events, times, torch.tensor([0, *lengths]).cumsum(0)


def loud(module):
    """Weights of the size of one, so that no term hides below the tolerance."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=10))
def test_layer_equals_the_loop_over_pairs(lengths):
    layer = loud(HstuLayer(CONFIG, WIDTH, MAX_EVENTS))
    events, times, offsets = make_inputs(lengths)
    weights = {
        "project": layer.project,
        "output": layer.output.weight,
        "output_bias": layer.output.bias,
        "position": layer.bias.position,
        "time": layer.bias.time,
    }
    weights = {name: weight.detach() for name, weight in weights.items()}
    expected = reference.hstu_layer(events, times, offsets, weights, num_heads=2)
    torch.testing.assert_close(layer(events, times, offsets), expected, atol=1e-4, rtol=1e-4)


def test_an_event_sees_nothing_after_it():
    network = loud(Hstu(CONFIG, WIDTH, MAX_EVENTS))
    events, times, offsets = make_inputs((5, 3))
    expected = network(events, times, offsets)
    events[3], times[3] = 9.0, 0
    changed = network(events, times, offsets)
    assert torch.equal(changed[[0, 1, 2, 5, 6, 7]], expected[[0, 1, 2, 5, 6, 7]])
    assert (changed[4] - expected[4]).abs().max() > 1e-3


def test_poisoned_events_of_one_row_reach_no_other_row():
    network = loud(Hstu(CONFIG, WIDTH, MAX_EVENTS))
    lengths = (0, 5, 1, 3, 2, 12, 4, 4, 1, 7)
    events, times, offsets = make_inputs(lengths)
    expected = network(events, times, offsets)
    events[9:11] = torch.nan
    events.requires_grad_()
    poisoned = network(events, times, offsets)
    others = [e for e in range(sum(lengths)) if e not in (9, 10)]
    assert poisoned[9:11].isnan().all()
    torch.testing.assert_close(poisoned[others], expected[others], atol=0.0, rtol=0.0)
    poisoned[others].sum().backward()
    assert events.grad[others].isfinite().all()


def test_rows_beside_it_do_not_change_a_row():
    network = loud(Hstu(CONFIG, WIDTH, MAX_EVENTS))
    events, times, offsets = make_inputs((3, 12, 1, 0, 6))
    expected = network(events, times, offsets)[3:15]
    alone = network(events[3:15], times[3:15], torch.tensor([0, 12]))
    torch.testing.assert_close(alone, expected, atol=1e-4, rtol=1e-4)


def test_a_shift_of_all_times_changes_nothing():
    network = loud(Hstu(CONFIG, WIDTH, MAX_EVENTS))
    events, times, offsets = make_inputs((5, 3))
    expected = network(events, times, offsets)
    assert torch.equal(network(events, times + 1_700_000_000, offsets), expected)
    assert not torch.equal(network(events, 2 * times, offsets), expected)


def test_biases_of_two_literal_events():
    bias = RelativeBias(max_events=2, num_time_buckets=3)
    bias.position.data = torch.tensor([0.0, 10.0])
    bias.time.data = torch.tensor([1.0, 2.0, 3.0])
    # A gap of 0 is bucket 0; ln(2) / 0.301 = 2.3 is bucket 2; a year is the last.
    found = bias(torch.tensor([[100, 102], [0, 31_536_000]]))
    assert found[:, 1, 0].tolist() == [13.0, 13.0]
    assert found[:, 0, 0].tolist() == [1.0, 1.0]


def test_fresh_stack_passes_no_event_at_all_through():
    network = Hstu(CONFIG, WIDTH, MAX_EVENTS)
    assert network(*make_inputs((0, 0))).shape == (0, WIDTH)


def test_parameters_and_flops_equal_the_closed_forms():
    network = Hstu(CONFIG, WIDTH, MAX_EVENTS)
    assert hstu.num_parameters(CONFIG, WIDTH, MAX_EVENTS) == sum(
        p.numel() for p in network.parameters()
    )
    with FlopCounterMode(display=False) as counter:
        network(*make_inputs((7,) * 3))
    expected = 3 * hstu.flops(CONFIG, WIDTH, num_events=7)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_every_weight_takes_part():
    network = Hstu(CONFIG, WIDTH, MAX_EVENTS)
    network(*make_inputs((5, 3))).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in network.parameters())
