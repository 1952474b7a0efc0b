"""Slow oracle of InterFormer: one row, one token, one equation at a time."""

import math

import torch
from torch import Tensor

from model.attention.rotary import FREQUENCY_BASE
from tests.reference.model_attention import attend, log_time, rotate


def interformer(
    module: torch.nn.Module, config: object, tokens: Tensor, events: Tensor, ages_us: list[float]
) -> Tensor:
    """The summary of both sides of one row.

    Args:
        module: An `InterFormer`.
        config: Its `InterFormerConfig`.
        tokens: X¹, n × D.
        events: Embedded events that the row reads, oldest first.
        ages_us: Their ages at the row.
    """
    sequence, taus = None, None
    for layer in module.layers:
        summary = None
        if config.flow in ("two_way", "ns_to_s"):
            summary = token_summary(layer.token_summary, config, tokens)
        elif config.flow != "single":
            summary = layer.context
        if sequence is None and config.flow != "single":
            first = module.input
            sequence = list(summary)
            for x, age in zip(events, ages_us, strict=True):
                masked = first.compress(x * first.mask(x))
                sequence.append(masked + age_vector(first.age, age))
            taus = [0.0] * len(summary) + [log_time(age) for age in ages_us]
        inputs = tokens
        if config.flow in ("two_way", "s_to_ns"):
            inputs = torch.cat([tokens, sequence_summary(layer.sequence_summary, config, sequence)])
        tokens = layer.interaction(inputs[None])[0]
        if config.flow != "single":
            arch = layer.sequence
            matrix = summary.T @ arch.ffn.weight  # D × D, of rank m
            sequence = [s + matrix @ arch.ffn_norm(s) for s in sequence]
            normed = [arch.attention_norm(s) for s in sequence]
            heads = [
                arch.attention.query_key_value(x).view(3, arch.attention.num_heads, -1)
                for x in normed
            ]
            query, key = (
                torch.stack(
                    [
                        torch.stack([torch.stack(_rotated(h, t)) for h in head[part]])
                        for head, t in zip(heads, taus, strict=True)
                    ]
                )
                for part in range(2)
            )
            every = torch.zeros(len(query), dtype=torch.int64)
            value = torch.stack([head[2] for head in heads])
            attended = attend(query, key, value, every, every + len(key))
            sequence = [
                s + arch.attention.output(a.flatten())
                for s, a in zip(sequence, attended, strict=True)
            ]
    parts = [token_summary(module.token_summary, config, tokens)]
    if config.flow != "single":
        parts.append(sequence_summary(module.sequence_summary, config, sequence))
    return torch.cat(parts)


def token_summary(module: torch.nn.Module, config: object, tokens: Tensor) -> Tensor:
    """Gate(W X)."""
    return torch.stack([_gate(module.gate, config, z) for z in module.compress.weight @ tokens])


def sequence_summary(module: torch.nn.Module, config: object, sequence: list[Tensor]) -> Tensor:
    """Gate of CLS tokens, pooled tokens and the latest tokens."""
    pool = module.pool
    heads = torch.stack([pool.key_value(s).view(2, pool.num_heads, -1) for s in sequence])
    query = pool.query.view(len(pool.query), pool.num_heads, -1)
    every = torch.zeros(len(query), dtype=torch.int64)
    pooled = attend(query, heads[:, 0], heads[:, 1], every, every + len(sequence))
    parts = sequence[: config.num_cls_tokens]
    parts = [*parts, *(pool.output(p.flatten()) for p in pooled)]
    parts += sequence[len(sequence) - config.num_recent_tokens :]
    return torch.stack([_gate(module.gate, config, z) for z in parts])


def age_vector(module: torch.nn.Module, age_us: float) -> Tensor:
    """A line between the two knots beside the age."""
    table, knots = module.projection.weight.T, module.knots.tolist()
    tau = min(log_time(age_us), knots[-1])
    left = min(int(tau / knots[1]), len(knots) - 2)
    share = (tau - knots[left]) / knots[1]
    return (1 - share) * table[left] + share * table[left + 1]


def _gate(module: torch.nn.Module, config: object, z: Tensor) -> Tensor:
    product = z * module.mlp(z)
    if config.gate == "sigmoid":
        return 1 / (1 + (-product).exp())
    if config.gate == "tanh":
        return (product.exp() - (-product).exp()) / (product.exp() + (-product).exp())
    return product


def _rotated(head: Tensor, tau: float) -> list[Tensor]:
    """Like `rotate`, with gradients left out."""
    assert math.isfinite(tau)
    return [torch.tensor(x) for x in rotate(head.tolist(), tau, FREQUENCY_BASE)]
