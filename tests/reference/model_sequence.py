"""Slow oracles of the history baselines: one row, event, head and pair at a time."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import layer_norm


def deep_interest(
    target: Tensor, events: Tensor, offsets: Tensor, unit: Callable[[Tensor], Tensor]
) -> Tensor:
    """Σ_j a(e_j, v) e_j for each row, `unit` the MLP on one row."""
    rows = []
    for b in range(len(target)):
        total = torch.zeros_like(target[b])
        for j in range(int(offsets[b]), int(offsets[b + 1])):
            e, v = events[j], target[b]
            total = total + unit(torch.cat([e, v, e - v, e * v])[None])[0] * e
        rows.append(total)
    return torch.stack(rows)


def hstu_layer(
    events: Tensor, times: Tensor, offsets: Tensor, weights: dict[str, Tensor], num_heads: int
) -> Tensor:
    """One HSTU layer with every pair of events written out.

    Args:
        events: Events of all rows.
        times: Their times, in seconds.
        offsets: First event of each row, and the total.
        weights: `project` (U, V, Q, K side by side), `output`, `output_bias`, `position`, `time`.
        num_heads: Heads.
    """
    silu = torch.nn.functional.silu
    outputs = events.clone()
    max_events = len(weights["position"])
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        for i in range(start, end):
            mixed = []
            u_i, _, q_i, _ = _projected(events[i], weights)
            for h in range(num_heads):
                dim = len(u_i) // num_heads
                part = slice(h * dim, (h + 1) * dim)
                total = torch.zeros(dim)
                for j in range(start, i + 1):
                    _, v_j, _, k_j = _projected(events[j], weights)
                    gap = max(1, abs(int(times[i]) - int(times[j])))
                    bucket = min(int(math.log(gap) / 0.301), len(weights["time"]) - 1)
                    bias = weights["position"][i - j] + weights["time"][bucket]
                    total += silu(q_i[part] @ k_j[part] + bias) / max_events * v_j[part]
                mixed.append(total)
            attended = torch.cat(mixed)
            gated = layer_norm(attended, attended.shape, eps=1e-6) * u_i
            outputs[i] = events[i] + weights["output"] @ gated + weights["output_bias"]
    return outputs


def _projected(event: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, ...]:
    normed = layer_norm(event, event.shape, eps=1e-6)
    return torch.nn.functional.silu(normed @ weights["project"]).chunk(4)
