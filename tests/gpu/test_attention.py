"""On CUDA, attention equals attention with all scores in memory, masked by the windows."""

import pytest
import torch

from model.attention import attend
from model.attention.windows import Windows

pytestmark = pytest.mark.gpu

LENGTHS = (3, 0, 200, 1, 60)
NUM_QUERIES = (12, 4, 12, 4, 4)


def offsets(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def cut_offs():
    """Queries of each group that read more and more of it; those of the empty one read nothing."""
    firsts, parts = offsets(LENGTHS), zip(LENGTHS, NUM_QUERIES, strict=True)
    start, end = [], []
    for first, (length, n) in zip(firsts.tolist(), parts, strict=False):
        start += [first] * n
        end += [first + length * i // n for i in range(n)]
    return Windows(offsets(NUM_QUERIES), firsts, torch.tensor(start), torch.tensor(end))


WINDOWS = {
    "causal": lambda: Windows.causal(offsets(LENGTHS), None),
    "sliding": lambda: Windows.causal(offsets(LENGTHS), 17),
    "whole_rows": lambda: Windows.of_rows(offsets(LENGTHS), 3),
    "cut_offs": cut_offs,
}


def moved(windows, device):
    parts = (windows.query_offsets, windows.key_offsets, windows.start, windows.end)
    return Windows(*(part.to(device) for part in parts))


def make_inputs(windows, head_dim):
    generator = torch.Generator().manual_seed(len(windows.start))
    num_keys = int(windows.key_offsets[-1])
    return [
        torch.randn(count, 2, head_dim, generator=generator)
        for count in (len(windows.start), num_keys, num_keys)
    ]


def dense(query, key, value, windows):
    """All scores, in double precision on a CPU; a query that reads nothing gets zeros."""
    place = torch.arange(len(key))
    is_read = (place >= windows.start[:, None]) & (place < windows.end[:, None])
    scores = torch.einsum("qhd,khd->hqk", query, key) * query.shape[2] ** -0.5
    weights = scores.masked_fill(~is_read, -1e9).softmax(-1) * is_read
    return torch.einsum("hqk,khd->qhd", weights, value)


def outputs_and_gradients(function, inputs):
    leaves = [x.detach().requires_grad_() for x in inputs]
    output = function(*leaves)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return [output, *torch.autograd.grad(output, leaves, direction.to(output))]


@pytest.mark.parametrize("head_dim", [8, 48])
@pytest.mark.parametrize("kind", WINDOWS)
def test_attention_and_its_gradients_equal_dense_attention(kind, head_dim, device):
    windows = WINDOWS[kind]()
    inputs = make_inputs(windows, head_dim)
    expected = outputs_and_gradients(lambda *x: dense(*x, windows), [x.double() for x in inputs])
    there = moved(windows, device)
    actual = outputs_and_gradients(lambda *x: attend(*x, there), [x.to(device) for x in inputs])
    for a, e, tolerance in zip(actual, expected, [1e-5, 1e-4, 1e-4, 1e-4], strict=True):
        torch.testing.assert_close(a.cpu().double(), e, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", ["causal", "cut_offs"])
def test_half_precision_stays_within_a_hundredth_and_its_gradients_within_two(kind, device):
    windows = WINDOWS[kind]()
    inputs = [x.bfloat16() for x in make_inputs(windows, 32)]
    expected = outputs_and_gradients(lambda *x: dense(*x, windows), [x.double() for x in inputs])
    there = moved(windows, device)
    actual = outputs_and_gradients(lambda *x: attend(*x, there), [x.to(device) for x in inputs])
    for a, e, tolerance in zip(actual, expected, [1e-2, 2e-2, 2e-2, 2e-2], strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.cpu().double() - e).abs().max() < tolerance * e.abs().max()


def test_keys_beyond_every_cut_off_change_nothing_even_as_nan(device):
    windows = moved(cut_offs(), device)
    inputs = [x.to(device) for x in make_inputs(windows, 16)]
    # The last key of every group is after the last cut-off in it.
    unread = windows.key_offsets[1:][windows.key_offsets.diff() > 0] - 1
    poisoned = [x.clone() for x in inputs]
    for x in poisoned[1:]:
        x[unread] = torch.nan
    clean, dirty = (
        outputs_and_gradients(lambda *x: attend(*x, windows), each) for each in (inputs, poisoned)
    )
    for c, d in zip(clean, dirty, strict=True):
        torch.testing.assert_close(d, c, atol=0.0, rtol=0.0)
    for gradient in dirty[2:]:
        assert gradient[unread].abs().max() == 0


def test_keys_beyond_the_cut_off_of_one_query_get_exact_zeros(device):
    windows = Windows(*(torch.tensor(x) for x in ([0, 2], [0, 300], [0, 0], [150, 300])))
    windows = moved(windows, device)
    query, key, value = (x.to(device) for x in make_inputs(windows, 16))
    expected = attend(query, key, value, windows)[0]
    leaves = [query.requires_grad_(), key.clone(), value.clone()]
    for x in leaves[1:]:
        x[150:] = 1e15
        x.requires_grad_()
    output = attend(*leaves, windows)
    torch.testing.assert_close(output[0], expected, atol=0.0, rtol=0.0)
    for gradient in torch.autograd.grad(output[0].sum(), leaves[1:]):
        assert gradient[150:].abs().max() == 0


def test_a_query_without_keys_gets_zeros_and_gives_none_a_gradient(device):
    windows = moved(cut_offs(), device)
    leaves = [x.to(device).requires_grad_() for x in make_inputs(windows, 16)]
    output = attend(*leaves, windows)
    empty = windows.end == windows.start
    assert output[empty].abs().max() == 0
    for gradient in torch.autograd.grad(output[empty].sum(), leaves):
        assert gradient.abs().max() == 0
