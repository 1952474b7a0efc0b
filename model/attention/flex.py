"""Attention on CUDA: one kernel over all groups, with the windows as a block mask."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from model.attention.windows import Windows

MIN_HEAD_DIM = 16
"""Narrowest head that the compiled kernel takes; narrower ones are filled up with zeros."""


def flex_window_attention(
    query: Float[Tensor, "Q H d"],
    key: Float[Tensor, "E H d"],
    value: Float[Tensor, "E H d"],
    windows: Windows,
) -> Float[Tensor, "Q H d"]:
    """Softmax attention of each query over its window, all groups as one sequence.

    Blocks of keys that no query of a block reads are skipped. A query that reads nothing gets
    zeros. On a CPU it runs unfused, and forward only.
    """
    if len(query) == 0 or len(key) == 0:
        return query * 0.0 + (key.sum() + value.sum()) * 0.0
    num_heads, head_dim = query.shape[1:]
    kernel_dim = max(MIN_HEAD_DIM, 1 << (head_dim - 1).bit_length())
    queries, keys, values = (
        F.pad(each, (0, kernel_dim - head_dim)).transpose(0, 1)[None]
        for each in (query, key, value)
    )
    attended = _kernel(query.is_cuda)(
        queries, keys, values, block_mask=_block_mask(windows, query.device), scale=head_dim**-0.5
    )
    assert attended.shape[1] == num_heads
    return attended[0].transpose(0, 1)[..., :head_dim]


def _block_mask(windows: Windows, device: torch.device) -> BlockMask:
    start, end = windows.start, windows.end
    num_keys = int(windows.key_offsets[-1])
    return create_block_mask(
        # A lambda, for a decorated function would hide its arguments.
        lambda _batch, _head, query, key: (key >= start[query]) & (key < end[query]),
        None,
        None,
        len(start),
        num_keys,
        device=device,
        # Compiled, the mask is reduced to blocks without Q × E booleans in memory.
        _compile=device.type == "cuda",
    )


@cache
def _kernel(compiled: bool) -> Any:
    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention
