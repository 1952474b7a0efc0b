"""Attention on a CPU: blocks of queries with similar numbers of keys are padded together."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from model.attention.windows import Windows


def bucketed_attention(
    query: Float[Tensor, "Q H d"],
    key: Float[Tensor, "E H d"],
    value: Float[Tensor, "E H d"],
    windows: Windows,
) -> Float[Tensor, "Q H d"]:
    """Softmax attention of each query over its window, by blocks of queries in padded rows.

    Free places hold zeros and are masked. A query that reads nothing gets zeros.
    """
    if not windows.buckets:
        # Nothing to compute; zero gradients still reach the projections.
        return query + (key.sum() + value.sum()) * 0.0
    outputs = []
    # In single precision whatever autocast would have: torch's kernel for bfloat16 on a CPU takes
    # several times as long for gradients.
    given = query.dtype
    query, key, value = (x.float() if x.dtype == torch.bfloat16 else x for x in (query, key, value))
    for bucket in windows.buckets:
        padded = (
            _padded(query, bucket.query, bucket.query_slot, bucket.num_blocks, bucket.num_queries),
            _padded(key, bucket.key, bucket.key_slot, bucket.num_blocks, bucket.num_keys),
            _padded(value, bucket.key, bucket.key_slot, bucket.num_blocks, bucket.num_keys),
        )
        with torch.autocast(query.device.type, enabled=False):
            attended = F.scaled_dot_product_attention(*padded, attn_mask=bucket.is_read)
        flat = attended.transpose(1, 2).reshape(-1, query.shape[1] * query.shape[2])
        outputs.append(flat.index_select(0, bucket.query_slot))
    order = torch.cat([bucket.query for bucket in windows.buckets])
    return torch.cat(outputs).index_select(0, order.argsort()).view(query.shape).to(given)


def _padded(
    values: Float[Tensor, "N H d"],
    source: Int64[Tensor, " n"],
    slot: Int64[Tensor, " n"],
    num_blocks: int,
    length: int,
) -> Float[Tensor, "g H length d"]:
    taken = values.flatten(1).index_select(0, source)
    block = taken.new_zeros(num_blocks * length, taken.shape[1]).index_copy(0, slot, taken)
    return block.view(num_blocks, length, *values.shape[1:]).transpose(1, 2)
