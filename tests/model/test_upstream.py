"""The long sequence: once per segment, and no row sees what it did not know."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model import upstream
from model.history import flops as sequence_flops
from model.history import upstream_ratio, user_flops
from model.ranker import Ranker
from model.sequence_config import BranchConfig, UpstreamConfig
from model.streams import Stream, latest, reduce, select, user_clock
from model.upstream import Upstream
from tests.model.samples import (
    config_without_history,
    history_config,
    make_batch,
    ranker_config,
    upstream_config,
)
from tests.reference import model_upstream as reference

LENGTHS = (9, 1, 0, 6)
ROWS = ((0, 5), (3, 6), (0, 9), (2, 0), (1, 1), (0, 4), (3, 2))


def make_parts(**changes):
    torch.manual_seed(0)
    config = history_config(upstream=upstream_config(**changes))
    batch = make_batch(ranker_config(history=config), LENGTHS, rows=ROWS)
    return Upstream(config, 8), torch.randn(sum(LENGTHS), 8), batch.history


def stream_of(history):
    return Stream.of_events(history)


@pytest.mark.parametrize(
    "branches",
    [
        (BranchConfig(),),
        (BranchConfig(), BranchConfig(window=2)),
        (BranchConfig(field="event_type", values=(1, 3)), BranchConfig(window=3)),
    ],
)
def test_summaries_equal_each_row_alone_step_by_step(branches):
    module, events, history = make_parts(branches=branches)
    actual = module(events, history)
    for row, (segment, known) in enumerate(ROWS):
        first = int(history.offsets[segment])
        own = slice(first, first + known)
        expected = reference.summaries(
            module, events[own], history.event_us[own], history.categorical[own, 1]
        )
        torch.testing.assert_close(actual[row], expected, atol=1e-5, rtol=1e-5)


def test_events_at_or_after_a_cut_off_change_nothing():
    module, events, history = make_parts()
    clean = module(events, history)
    for place in range(9):
        changed = events.clone()
        changed[place:9] = 1e6
        times = history.event_us.clone()
        times[place:9] += 10**12
        dirty = module(changed, dataclasses.replace(history, event_us=times))
        blind = [row for row, (s, known) in enumerate(ROWS) if s != 0 or known <= place]
        assert torch.equal(dirty[blind], clean[blind]), place
        # Tokens are whole pairs: a row that knows an odd number has not read the last one.
        sees = [row for row, (s, known) in enumerate(ROWS) if s == 0 and known // 2 * 2 > place]
        assert all(not torch.equal(dirty[row], clean[row]) for row in sees)


def test_nan_beyond_a_segment_reaches_no_other_segment():
    module, events, history = make_parts()
    clean = module(events, history)
    poisoned = events.clone()
    poisoned[:9] = torch.nan
    others = [row for row, (segment, _) in enumerate(ROWS) if segment != 0]
    torch.testing.assert_close(module(poisoned, history)[others], clean[others], atol=0, rtol=0)


def test_gradients_of_a_row_reach_no_event_that_it_did_not_know():
    module, events, history = make_parts()
    events.requires_grad_()
    (gradient,) = torch.autograd.grad(module(events, history)[5].sum(), events)
    assert gradient[4:].abs().max() == 0
    assert gradient[:4].abs().min() > 0


def test_all_times_may_shift_together():
    module, events, history = make_parts()
    shifted = dataclasses.replace(history, event_us=history.event_us + 10**15)
    torch.testing.assert_close(module(events, shifted), module(events, history))
    slower = dataclasses.replace(history, event_us=history.event_us * 40)
    assert (module(events, slower) - module(events, history)).abs().max() > 1e-4


def test_a_row_without_whole_tokens_gets_the_default():
    module, events, history = make_parts()
    summary = module(events, history)
    torch.testing.assert_close(summary[3], module.default.flatten(0, 1))
    torch.testing.assert_close(summary[4], module.default.flatten(0, 1))


def test_streams_know_when_their_tokens_were_complete():
    _, _, history = make_parts()
    every = stream_of(history)
    belongs = torch.zeros(16, dtype=torch.bool)
    belongs[[0, 2, 3, 8, 9, 15]] = True
    family, kept = select(every, belongs)
    assert kept.tolist() == [0, 2, 3, 8, 9, 15]
    assert family.offsets.tolist() == [0, 4, 5, 5, 6]
    assert family.until.tolist() == [1, 3, 4, 9, 10, 16]
    pairs, members = reduce(family, 2)
    assert pairs.offsets.tolist() == [0, 2, 2, 2, 2]
    assert members.tolist() == [[0, 1], [2, 3]]
    assert pairs.until.tolist() == [3, 9]
    assert pairs.known(torch.tensor([0, 2, 3, 8, 9, 16])).tolist() == [0, 0, 1, 1, 2, 2]
    at, exists = latest(every, pairs)
    assert exists.tolist() == [i in range(2, 9) for i in range(16)]
    assert at[2:9].tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_the_users_clock_adds_up_log_gaps():
    minutes = torch.tensor([5.0, 6.0, 4.0, 24.0, 100.0, 101.0], dtype=torch.float64)
    clock = user_clock((minutes * 60e6).long(), torch.tensor([0, 4, 4, 6]))
    log = torch.tensor([0, 1, 0, 20, 0, 1], dtype=torch.float64).log1p()
    expected = torch.cat([log[:4].cumsum(0), log[4:].cumsum(0)])
    torch.testing.assert_close(clock, expected)


def test_every_weight_takes_part():
    module, events, history = make_parts()
    module(events, history).square().sum().backward()
    assert [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("branches", [(BranchConfig(),), (BranchConfig(), BranchConfig(window=3))])
def test_parameters_and_flops_equal_the_closed_forms(branches):
    config = history_config(upstream=upstream_config(branches=branches))
    module = Upstream(config, 8)
    assert upstream.num_parameters(config, 8) == sum(p.numel() for p in module.parameters())
    rows = tuple((row % 4, 12) for row in range(8))
    history = make_batch(ranker_config(history=config), (12,) * 4, rows=rows).history
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        module(torch.randn(48, 8), history)
    # The counter sees whole squares where a causal layer uses a part of them.
    squares = 0
    for tokens in (12, 6):
        for branch in branches:
            w = min(tokens, branch.window or tokens)
            squares += tokens * tokens - (w * (w + 1) / 2 + (tokens - w) * w)
    unused = config.upstream.layers_per_stage * 4 * 8 * squares
    expected = 4 * (upstream.flops_per_segment(config, 8, 12) + unused)
    expected += 8 * upstream.flops_per_row(config, 8, 12)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_a_family_without_values_and_an_unknown_field_are_refused():
    with pytest.raises(ValueError, match="a family is a field and its values"):
        BranchConfig(field="event_type")
    branches = (BranchConfig(field="colour", values=(1,)),)
    with pytest.raises(ValueError, match=r"must be one of .*found 'colour'"):
        history_config(upstream=upstream_config(branches=branches))
    with pytest.raises(ValueError, match="at least 1 item"):
        UpstreamConfig(
            branches=(), num_stages=1, layers_per_stage=1, ffn_hidden=1, num_summary_tokens=1
        )


def test_a_users_vector_costs_the_closed_form_and_many_times_an_online_row():
    config = ranker_config(
        history=history_config(upstream=upstream_config(branches=(BranchConfig(),)))
    )
    model, batch = Ranker(config), make_batch(config, (12,))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.represent_user(batch.history)
    # The counter sees whole squares where a causal layer uses a part of them.
    unused = 4 * config.width * ((144 - 78) + (36 - 21))
    expected = user_flops(config, 12) + unused
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)
    online = ranker_config()
    ratio = upstream_ratio(config, online, 600, 10)
    own = sequence_flops(online, 10, rows_per_event=1.0)
    assert ratio == user_flops(config, 600) / own
    assert ratio > 45
    with pytest.raises(ValueError, match="found one without a history"):
        upstream_ratio(config, config_without_history(), 600, 10)
