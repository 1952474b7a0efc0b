"""Attention on CUDA: one kernel over all groups, with the windows as a block mask."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from model.attention.windows import Windows

MIN_HEAD_DIM = 16
"""Narrowest head that the compiled kernel takes; narrower ones are filled up with zeros."""
MAX_KERNELS = 64
"""Forms of the compiled kernel, by widths of heads, precision and what needs a gradient."""


def flex_window_attention(
    query: Float[Tensor, "Q H d"],
    key: Float[Tensor, "E H d"],
    value: Float[Tensor, "E H d"],
    windows: Windows,
) -> Float[Tensor, "Q H d"]:
    """Softmax attention of each query over its window, all groups as one sequence.

    Blocks of keys that no query of a block reads are skipped; keys that no query at all reads are
    taken as zeros. A query that reads nothing gets zeros. On a CPU it runs unfused, and forward
    only.
    """
    if len(query) == 0 or len(key) == 0:
        return query * 0.0 + (key.sum() + value.sum()) * 0.0
    if windows.unread is not None:
        # A block that is read in part meets its other keys with weights of zero, and 0 · NaN = NaN.
        unread = windows.unread[:, None, None]
        key, value = key.masked_fill(unread, 0.0), value.masked_fill(unread, 0.0)
    num_heads, head_dim = query.shape[1:]
    kernel_dim = max(MIN_HEAD_DIM, 1 << (head_dim - 1).bit_length())
    queries, keys, values = (
        F.pad(each, (0, kernel_dim - head_dim)).transpose(0, 1)[None]
        for each in _in_one_precision(query, key, value)
    )
    attended = _kernel(query.is_cuda)(
        queries, keys, values, block_mask=windows.block_mask, scale=head_dim**-0.5
    )
    assert attended.shape[1] == num_heads
    return attended[0].transpose(0, 1)[..., :head_dim]


def _in_one_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors as autocast has a product read them; the kernel itself does not see to it."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(each.to(torch.get_autocast_dtype(device)) for each in tensors)


@cache
def _kernel(compiled: bool) -> Any:
    if not compiled:
        return flex_attention
    # Past its limit Dynamo would go on unfused, with Q × E scores in memory, and only warn.
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, MAX_KERNELS)
    return torch.compile(flex_attention, dynamic=True)
