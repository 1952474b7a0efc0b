"""Slow oracle of jagged attention: one query, one head at a time."""

import math

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Dense softmax attention of each query over its own slice of the keys."""
    outputs = []
    for q, first, last in zip(query, start.tolist(), end.tolist(), strict=True):
        heads = []
        for h in range(query.shape[1]):
            keys, values = key[first:last, h], value[first:last, h]
            if len(keys) == 0:
                heads.append(torch.zeros_like(q[h]))
                continue
            scores = keys @ q[h] / math.sqrt(query.shape[2])
            weights = (scores - scores.max()).exp()
            heads.append((weights / weights.sum()) @ values)
        outputs.append(torch.stack(heads))
    return torch.stack(outputs)


def log_time(microseconds: float) -> float:
    """log(1 + minutes)."""
    return math.log(1.0 + max(microseconds, 0.0) / 60e6)


def rotate(x: list[float], tau: float, base: float) -> list[float]:
    """One head, pair by pair, as complex numbers times exp(i θ τ)."""
    half = len(x) // 2
    turned = [
        complex(x[i], x[i + half])
        * complex(math.cos(tau * base ** (-i / half)), math.sin(tau * base ** (-i / half)))
        for i in range(half)
    ]
    return [z.real for z in turned] + [z.imag for z in turned]
