"""InterFormer against its equations, and what flows where."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model import interformer
from model.interaction.config import (
    CrossLayerConfig,
    DcnV2Config,
    DlrmConfig,
    RankMixerConfig,
)
from model.interformer import InterFormer
from tests.model.samples import (
    history_config,
    interformer_config,
    make_batch,
    ranker_config,
    wukong_config,
)
from tests.reference import model_interformer as reference

FLOWS = ["two_way", "ns_to_s", "s_to_ns", "separate", "single"]
LENGTHS = (9, 3)
ROWS = ((0, 9), (1, 2), (0, 4), (1, 0), (0, 1))
INTERACTIONS = [
    wukong_config(num_layers=2),
    wukong_config(num_layers=3, cross_layer=CrossLayerConfig(num_tokens=2, num_heads=2)),
    DcnV2Config(num_cross_layers=2, deep_hidden=(16,)),
    DcnV2Config(num_cross_layers=2, deep_hidden=(16,), structure="stacked"),
    RankMixerConfig(num_layers=2, num_mixed_tokens=4, expansion=2),
    DlrmConfig(num_kept_tokens=1, top_hidden=(24,)),
]


def make_config(interaction=INTERACTIONS[0], **changes):
    history = history_config(interformer=interformer_config(**changes))
    return ranker_config(history=history, interaction=interaction)


def make_parts(rows=ROWS, lengths=LENGTHS, **changes):
    torch.manual_seed(0)
    config = make_config(**changes)
    history = make_batch(config, lengths, rows=rows).history
    module = InterFormer(config)
    tokens = torch.randn(len(rows), config.num_tokens, 8)
    return module, tokens, torch.randn(sum(lengths), 8), history


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("gate", ["identity", "sigmoid", "tanh"])
def test_output_equals_the_equations_step_by_step(flow, gate):
    module, tokens, events, history = make_parts(flow=flow, gate=gate)
    actual = module(tokens, events, history)
    config = interformer_config(flow=flow, gate=gate)
    for row, (segment, known) in enumerate(ROWS):
        first = int(history.offsets[segment])
        read = slice(first + max(0, known - config.max_events), first + known)
        ages = (history.row_us[row] - history.event_us[read]).tolist()
        expected = reference.interformer(module, config, tokens[row], events[read], ages)
        torch.testing.assert_close(actual[row], expected, atol=1e-5, rtol=1e-5)


def test_cross_layer_connections_are_silent_at_the_start_and_then_speak():
    plain, tokens, events, history = make_parts(interaction=wukong_config(num_layers=3))
    connected, *_ = make_parts(interaction=INTERACTIONS[1])
    assert torch.equal(connected(tokens, events, history), plain(tokens, events, history))
    for attention in connected.cross_layers.attentions:
        torch.nn.init.ones_(attention.output.weight)
    assert not torch.equal(connected(tokens, events, history), plain(tokens, events, history))


def moved(flow):
    """Which half of the output moves when the other side's input does."""
    module, tokens, events, history = make_parts(flow=flow)
    clean = module(tokens, events, history)
    by_tokens = (module(tokens + 1.0, events, history) - clean)[:, 3:]
    by_events = (module(tokens, events.flip(0), history) - clean)[:, :3]
    return bool(by_tokens.any()), bool(by_events.any())


def test_each_flow_lets_through_what_it_says():
    # (features reach the sequence's summary, events reach the features' summary)
    assert moved("two_way") == (True, True)
    assert moved("ns_to_s") == (True, False)
    assert moved("s_to_ns") == (False, True)
    assert moved("separate") == (False, False)


def test_a_flow_without_sequence_reads_no_event():
    module, tokens, events, history = make_parts(flow="single")
    assert module(tokens, events, history).shape == (5, 3, 8)
    nothing = torch.full_like(events, torch.nan)
    assert torch.equal(module(tokens, nothing, history), module(tokens, events, history))


def test_events_at_or_after_a_cut_off_change_nothing():
    module, tokens, events, history = make_parts()
    clean = module(tokens, events, history)
    changed, times = events.clone(), history.event_us.clone()
    changed[4:9], times[4:9] = torch.nan, 0
    dirty = module(tokens, changed, dataclasses.replace(history, event_us=times))
    assert torch.equal(dirty[1:], clean[1:])
    assert dirty[0].isnan().any()


def test_neighbours_change_nothing_even_as_nan():
    module, tokens, events, history = make_parts()
    clean = module(tokens, events, history)
    poisoned = events.clone()
    poisoned[:9] = torch.nan
    torch.testing.assert_close(
        module(tokens, poisoned, history)[[1, 3]], clean[[1, 3]], atol=0.0, rtol=0.0
    )
    tokens[0] = torch.nan
    torch.testing.assert_close(module(tokens, events, history)[1:], clean[1:], atol=0.0, rtol=0.0)


def test_all_times_may_shift_together():
    module, tokens, events, history = make_parts()
    shifted = dataclasses.replace(
        history, event_us=history.event_us + 10**15, row_us=history.row_us + 10**15
    )
    assert torch.equal(module(tokens, events, shifted), module(tokens, events, history))


@pytest.mark.parametrize("flow", FLOWS)
def test_every_weight_takes_part(flow):
    module, tokens, events, history = make_parts(flow=flow)
    module(tokens, events, history).square().sum().backward()
    assert [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("interaction", INTERACTIONS, ids=lambda one: one.kind)
def test_parameters_and_flops_equal_the_closed_forms(flow, interaction):
    rows = ((0, 5), (1, 5)) * 4
    config = make_config(interaction, flow=flow)
    module, tokens, events, history = make_parts(rows, (5, 5), flow=flow, interaction=interaction)
    counted = sum(p.numel() for p in module.parameters())
    assert counted == interformer.num_parameters(config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        outputs = module(tokens, events, history)
    assert outputs.shape == (8, config.representation_dim // 8, 8)
    expected = 8 * interformer.flops_per_row(config, 5)
    expected += 10 * interformer.flops_per_event(config)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_more_recent_tokens_than_stand_ins_are_refused():
    with pytest.raises(ValueError, match="at most num_cls_tokens"):
        interformer_config(num_recent_tokens=4)
    with pytest.raises(ValueError, match=r"at most history.max_events .16."):
        history_config(interformer=interformer_config(max_events=17))
