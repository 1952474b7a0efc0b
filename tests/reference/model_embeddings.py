"""Slow oracle of pooled bags: every bag and value, one by one."""

import torch
from torch import Tensor


def pool(weight: Tensor, values: Tensor, offsets: Tensor, pooling: str) -> Tensor:
    """Sum or mean of each bag's rows; zero for an empty one."""
    pooled = []
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        total = torch.zeros(weight.shape[1])
        for i in range(start, end):
            total = total + weight[values[i]]
        pooled.append(total / (end - start) if pooling == "mean" and end > start else total)
    return torch.stack(pooled)
