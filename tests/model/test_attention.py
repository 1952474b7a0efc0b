"""Attention over jagged sequences against dense attention, query by query."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from model.attention import attend
from model.attention import windows as windows_module
from model.attention.bucketed import bucketed_attention
from model.attention.flex import flex_window_attention
from model.attention.windows import Windows
from tests.reference import model_attention as reference


def make_inputs(windows, num_heads=2, head_dim=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(windows.start))
    counts = [len(windows.start), int(windows.key_offsets[-1]), int(windows.key_offsets[-1])]
    return [
        torch.randn(count, num_heads, head_dim, generator=generator, dtype=dtype)
        for count in counts
    ]


def offsets(*lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def gradients(output, inputs):
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(
        output, inputs, direction.to(output), allow_unused=True, materialize_grads=True
    )


@st.composite
def windows(draw):
    """Groups with queries that read any part of their keys; some have no query, some no key."""
    groups = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=9))
    first, bounds = 0, []
    for num_queries, num_keys in groups:
        for _ in range(num_queries):
            low = draw(st.integers(0, num_keys))
            bounds.append((first + low, first + draw(st.integers(low, num_keys))))
        first += num_keys
    start, end = torch.tensor(bounds, dtype=torch.int64).view(-1, 2).unbind(1)
    queries, keys = (offsets(*(group[i] for group in groups)) for i in range(2))
    return Windows(queries, keys, start, end)


def long_windows(kind):
    """Queries and keys over several blocks of the kernel, and over parts of blocks."""
    rows = offsets(300, 0, 5, 700, 128, 1, 260)
    if kind == "rows":
        return Windows.of_rows(rows, 40)
    if kind == "latest":
        return Windows.causal(rows, 150)
    if kind == "causal":
        return Windows.causal(rows, None)
    if kind == "within":
        return Windows.within(rows)
    draw = torch.Generator().manual_seed(0)
    keys = int(rows[-1])
    bounds = torch.randint(0, keys + 1, (500, 2), generator=draw).sort(dim=1).values
    bounds[::7, 0] = bounds[::7, 1]
    one = torch.tensor([0, 500]), torch.tensor([0, keys])
    return Windows(*one, *bounds.unbind(1))


@pytest.mark.parametrize("kind", ["rows", "latest", "causal", "within", "any"])
def test_blocks_are_those_that_reading_every_pair_of_query_and_key_gives(kind):
    windows = long_windows(kind)
    start, end = windows.start, windows.end
    num_keys = int(windows.key_offsets[-1])
    expected = create_block_mask(
        lambda _batch, _head, query, key: (key >= start[query]) & (key < end[query]),
        None,
        None,
        len(start),
        num_keys,
        device="cpu",
    )
    found = windows.block_mask
    assert found.shape == expected.shape
    for numbers, indices in (
        ("kv_num_blocks", "kv_indices"),
        ("full_kv_num_blocks", "full_kv_indices"),
        ("q_num_blocks", "q_indices"),
        ("full_q_num_blocks", "full_q_indices"),
    ):
        counts, listed = getattr(found, numbers)[0, 0], getattr(found, indices)[0, 0]
        theirs = getattr(expected, indices)[0, 0]
        assert torch.equal(counts, getattr(expected, numbers)[0, 0])
        for block, count in enumerate(counts.tolist()):
            assert listed[block, :count].tolist() == theirs[block, :count].tolist()
    assert (int(found.full_kv_num_blocks.sum()) > 0) == (kind in ("causal", "within"))


@settings(deadline=None, max_examples=40)
@given(windows=windows(), queries_per_block=st.sampled_from([2, 256]))
def test_attention_and_its_gradients_equal_dense_attention(windows, queries_per_block):
    with mock.patch.object(windows_module, "QUERIES_PER_BLOCK", queries_per_block):
        assert_equals_dense_attention(windows)


@given(windows=windows())
@settings(deadline=None, max_examples=25)
def test_buckets_of_few_scores_equal_dense_attention(windows):
    with mock.patch.object(windows_module, "SCORES_PER_BUCKET", 1):
        assert_equals_dense_attention(windows)


def assert_equals_dense_attention(windows):
    inputs = [x.requires_grad_() for x in make_inputs(windows)]
    actual = attend(*inputs, windows)
    if len(windows.start) == 0:
        assert actual.shape == inputs[0].shape
        return
    expected = reference.attend(*inputs, windows.start, windows.end)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-10)
    if not bool((windows.end > windows.start).any()):
        return
    for a, e in zip(gradients(actual, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(a, e, atol=1e-12, rtol=1e-10)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@settings(deadline=None, max_examples=15)
@given(windows=windows())
def test_the_kernel_of_a_gpu_reads_the_same_windows(windows):
    # On a CPU the same function runs unfused, forward only.
    inputs = make_inputs(windows)
    actual = flex_window_attention(*inputs, windows)
    torch.testing.assert_close(actual, bucketed_attention(*inputs, windows), atol=1e-9, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_kernel_of_a_gpu_forgets_keys_that_no_query_reads_even_as_nan():
    windows = Windows(
        offsets(2, 1), offsets(6, 4), torch.tensor([1, 2, 6]), torch.tensor([4, 3, 9])
    )
    assert windows.unread.nonzero()[:, 0].tolist() == [0, 4, 5, 9]
    assert Windows.causal(offsets(6, 4), 2).unread is None
    query, key, value = make_inputs(windows)
    before = flex_window_attention(query, key, value, windows)
    poisoned = [x.masked_fill(windows.unread[:, None, None], torch.nan) for x in (key, value)]
    assert torch.equal(flex_window_attention(query, *poisoned, windows), before)


def test_single_precision_stays_within_a_hundred_thousandth():
    windows = Windows.of_rows(offsets(0, 256, 1, 60, 200), 3)
    inputs = [x.requires_grad_() for x in make_inputs(windows, dtype=torch.float32)]
    actual, expected = (
        attend(*inputs, windows),
        reference.attend(*inputs, windows.start, windows.end),
    )
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    for a, e in zip(gradients(actual, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(a, e, atol=1e-4, rtol=1e-4)


def test_keys_of_other_groups_change_nothing_even_as_nan():
    lengths = offsets(3, 5, 2, 0, 7)
    windows = Windows.of_rows(lengths, 2)
    query, key, value = make_inputs(windows)
    before = attend(query, key, value, windows)
    for row in range(5):
        foreign = torch.ones(17, dtype=torch.bool)
        foreign[lengths[row] : lengths[row + 1]] = False
        poisoned = [x.masked_fill(foreign[:, None, None], torch.nan) for x in (key, value)]
        after = attend(query, *poisoned, windows)
        own = slice(2 * row, 2 * row + 2)
        torch.testing.assert_close(after[own], before[own], atol=0.0, rtol=0.0)


def test_keys_beyond_every_cut_off_change_nothing_even_as_nan():
    windows = Windows(
        offsets(2, 1), offsets(6, 4), torch.tensor([1, 2, 6]), torch.tensor([4, 3, 9])
    )
    query, key, value = make_inputs(windows)
    inputs = [query, key, value]
    unread = torch.tensor([0, 4, 5, 9])
    poisoned = [x.clone() for x in inputs]
    poisoned[1][unread], poisoned[2][unread] = torch.nan, torch.nan
    results = []
    for given_inputs in (inputs, poisoned):
        leaves = [x.requires_grad_() for x in given_inputs]
        output = attend(*leaves, windows)
        results.append((output, *gradients(output, leaves)))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


def test_keys_beyond_the_cut_off_of_one_query_get_exact_zeros():
    windows = Windows(offsets(2), offsets(6), torch.tensor([0, 0]), torch.tensor([3, 6]))
    query, key, value = make_inputs(windows)
    later = torch.tensor([3, 4, 5])
    poisoned = [x.clone() for x in (key, value)]
    for x in poisoned:
        x[later] = 1e30
    leaves = [x.requires_grad_() for x in (query, *poisoned)]
    output = attend(*leaves, windows)
    assert torch.equal(output[0], attend(query, key, value, windows)[0])
    for gradient in torch.autograd.grad(output[0].sum(), leaves[1:]):
        assert gradient[later].abs().max() == 0


def test_a_causal_token_reads_itself_and_at_most_the_width_before_it():
    windows = Windows.causal(offsets(3, 0, 2), 2)
    assert windows.start.tolist() == [0, 0, 1, 3, 3]
    assert windows.end.tolist() == [1, 2, 3, 4, 5]
    assert Windows.causal(offsets(3, 0, 2), None).start.tolist() == [0, 0, 0, 3, 3]


def test_a_block_of_queries_holds_no_key_that_none_of_them_reads():
    windows = Windows.causal(offsets(600, 3), 8)
    sizes = sorted((b.num_queries, b.num_keys) for b in windows.buckets)
    # The blocks of 256, 256 and 88 queries with 7 keys before their first, and the short group.
    assert sizes == [(3, 3), (88, 95), (256, 256), (256, 263)]
    with mock.patch.object(windows_module, "QUERIES_PER_BLOCK", 7):
        assert_equals_dense_attention(Windows.causal(offsets(30, 3), 8))


def test_order_of_keys_within_a_window_changes_nothing():
    windows = Windows.of_rows(offsets(4, 3), 3)
    query, key, value = make_inputs(windows)
    order = [2, 0, 3, 1, 6, 4, 5]
    torch.testing.assert_close(
        attend(query, key[order], value[order], windows), attend(query, key, value, windows)
    )


def test_large_scores_neither_overflow_nor_let_padding_in():
    windows = Windows.of_rows(offsets(1, 6), 2)
    query, key, value = make_inputs(windows, dtype=torch.float32)
    torch.testing.assert_close(
        attend(query * 1e4, key * -1e4, value, windows),
        reference.attend(query * 1e4, key * -1e4, value, windows.start, windows.end),
    )
