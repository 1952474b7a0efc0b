"""Slow oracle of jagged attention: one row, one head, one query at a time."""

import math

import torch
from torch import Tensor


def jagged_attention(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
    """Dense softmax attention of each row over its own slice of the events."""
    num_rows, num_heads, num_queries, head_dim = query.shape
    rows = []
    for b in range(num_rows):
        events = slice(int(offsets[b]), int(offsets[b + 1]))
        heads = []
        for h in range(num_heads):
            keys, values = key[events, h], value[events, h]
            outputs = []
            for s in range(num_queries):
                if len(keys) == 0:
                    outputs.append(torch.zeros(head_dim, dtype=query.dtype))
                    continue
                scores = keys @ query[b, h, s] / math.sqrt(head_dim)
                weights = (scores - scores.max()).exp()
                outputs.append((weights / weights.sum()) @ values)
            heads.append(torch.stack(outputs))
        rows.append(torch.stack(heads))
    return torch.stack(rows)
