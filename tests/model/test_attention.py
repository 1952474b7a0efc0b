"""Attention over jagged timelines against dense attention, row by row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from model import attention
from model.attention import EventEmbedding, TargetAttention, jagged_attention
from tests.model.samples import history_config, ranker_config
from tests.reference import model_attention as reference


def make_inputs(lengths, num_heads=2, num_queries=3, head_dim=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(lengths))
    query = torch.randn(len(lengths), num_heads, num_queries, head_dim, generator=generator)
    key = torch.randn(sum(lengths), num_heads, head_dim, generator=generator)
    value = torch.randn(sum(lengths), num_heads, head_dim, generator=generator)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return query.to(dtype), key.to(dtype), value.to(dtype), offsets


@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_jagged_attention_and_its_gradients_equal_dense_attention(lengths):
    *inputs, offsets = make_inputs(lengths)
    inputs = [x.requires_grad_() for x in inputs]
    actual = jagged_attention(*inputs, offsets)
    expected = reference.jagged_attention(*inputs, offsets)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-10)
    direction = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1)).double()
    for a, e in zip(
        torch.autograd.grad(actual, inputs, direction, materialize_grads=True),
        torch.autograd.grad(expected, inputs, direction, allow_unused=True, materialize_grads=True)
        if sum(lengths)
        else [torch.zeros_like(x) for x in inputs],
        strict=True,
    ):
        torch.testing.assert_close(a, e, atol=1e-12, rtol=1e-10)


def test_single_precision_stays_within_a_millionth():
    inputs = make_inputs([0, 256, 1, 60, 200], dtype=torch.float32)
    torch.testing.assert_close(
        jagged_attention(*inputs), reference.jagged_attention(*inputs), atol=1e-6, rtol=1e-5
    )


def test_events_of_other_rows_change_nothing():
    query, key, value, offsets = make_inputs([3, 5, 2, 0, 7])
    before = jagged_attention(query, key, value, offsets)
    for row in range(5):
        foreign = torch.ones(17, dtype=torch.bool)
        foreign[offsets[row] : offsets[row + 1]] = False
        poisoned_key, poisoned_value = key.clone(), value.clone()
        poisoned_key[foreign] = torch.nan
        poisoned_value[foreign] = torch.nan
        after = jagged_attention(query, poisoned_key, poisoned_value, offsets)
        torch.testing.assert_close(after[row], before[row], atol=0.0, rtol=0.0)


def test_order_of_events_within_a_row_changes_nothing():
    query, key, value, offsets = make_inputs([4, 3])
    order = [2, 0, 3, 1, 6, 4, 5]
    torch.testing.assert_close(
        jagged_attention(query, key[order], value[order], offsets),
        jagged_attention(query, key, value, offsets),
    )


def test_large_scores_neither_overflow_nor_let_padding_in():
    query, key, value, offsets = make_inputs([1, 6], dtype=torch.float32)
    inputs = (query * 1e4, key * -1e4, value, offsets)
    torch.testing.assert_close(jagged_attention(*inputs), reference.jagged_attention(*inputs))


def test_empty_history_yields_the_default_token():
    torch.manual_seed(0)
    config = ranker_config()
    module = TargetAttention(config)
    tokens = torch.randn(3, config.num_feature_tokens, 8)
    summary = module(tokens, torch.randn(4, 8), torch.tensor([0, 0, 4, 4]))
    torch.testing.assert_close(summary[0], module.default)
    torch.testing.assert_close(summary[2], module.default)
    assert (summary[1] - module.default).abs().min() > 1e-4
    (gradient,) = torch.autograd.grad(summary.sum(), module.default)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 2.0))


def test_candidate_decides_what_is_read_from_the_history():
    torch.manual_seed(0)
    config = ranker_config()
    module = TargetAttention(config)
    tokens = torch.randn(2, config.num_feature_tokens, 8)
    events = torch.randn(6, 8).repeat(2, 1)
    summary = module(tokens, events, torch.tensor([0, 6, 12]))
    assert (summary[0] - summary[1]).abs().max() > 1e-3


def test_event_embedding_is_the_normalised_sum_of_its_projections():
    torch.manual_seed(0)
    module = EventEmbedding(ranker_config())
    item, event_type, dense = torch.randn(4, 5), torch.randn(4, 3), torch.randn(4, 2)
    weight = module.projection.weight
    total = item @ weight[:, :5].T + event_type @ weight[:, 5:8].T + dense @ weight[:, 8:].T
    expected = torch.nn.functional.layer_norm(total + module.projection.bias, (8,))
    torch.testing.assert_close(module((item, event_type), dense), expected)


def test_parameters_equal_the_closed_form():
    config = ranker_config(history=history_config(num_summary_tokens=5))
    modules = (EventEmbedding(config), TargetAttention(config))
    counted = sum(p.numel() for module in modules for p in module.parameters())
    assert attention.num_parameters(config) == counted


def test_flops_equal_the_closed_form_without_padding():
    config = ranker_config()
    embedding, module = EventEmbedding(config), TargetAttention(config)
    offsets = torch.arange(0, 16 * 6 + 1, 6)  # 16 rows of 6 events
    with FlopCounterMode(display=False) as counter:
        events = embedding((torch.randn(96, 5), torch.randn(96, 3)), torch.randn(96, 2))
        module(torch.randn(16, config.num_feature_tokens, 8), events, offsets)
    expected = 16 * attention.flops(config, num_events=6)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)
