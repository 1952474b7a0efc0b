"""Slow oracle of the upstream: one row's own events, one token at a time."""

import torch
from torch import Tensor

from model.attention.rotary import FREQUENCY_BASE
from tests.reference.model_attention import attend, log_time, rotate


def summaries(module: torch.nn.Module, events: Tensor, event_us: Tensor, family: Tensor) -> Tensor:
    """Summary tokens of a row that knows exactly these events.

    Args:
        module: An `Upstream`.
        events: Embedded events, oldest first.
        event_us: Their times.
        family: The field that tells families.
    """
    clock, tau = [], 0.0
    for i in range(len(events)):
        tau += log_time(float(event_us[i] - event_us[i - 1])) if i else 0.0
        clock.append(tau)
    branches = []
    for branch in module.branches:
        kept = [i for i in range(len(events)) if not branch.values or family[i] in branch.values]
        branches.append([(events[i], i + 1, clock[i]) for i in kept])
    for index, stage in enumerate(module.stages):
        if index:
            reductions = module.reductions[index - 1]
            branches = [
                _reduced(r, module.reduction, t) for r, t in zip(reductions, branches, strict=True)
            ]
        branches = [_layers(*parts) for parts in zip(stage, module.branches, branches, strict=True)]
        if module.merges:
            branches = _merged(module.merges[index], branches)
    parts = []
    for tokens, norm, pool, default in zip(
        branches, module.norms, module.pools, module.default, strict=True
    ):
        if not tokens:
            parts.append(default)
            continue
        pooled = torch.stack([norm(x) for x, _, _ in tokens])
        key, value = pool.key_value(pooled).view(len(pooled), 2, pool.num_heads, -1).unbind(1)
        query = pool.query.view(len(pool.query), pool.num_heads, -1)
        every = torch.zeros(len(query), dtype=torch.int64)
        parts.append(pool.output(attend(query, key, value, every, every + len(key)).flatten(1)))
    return torch.cat(parts)


def _layers(layers, branch, tokens):
    for layer in layers:
        normed = [layer.attention_norm(x) for x, _, _ in tokens]
        heads = [
            layer.attention.query_key_value(x).view(3, layer.attention.num_heads, -1)
            for x in normed
        ]
        turned = [
            [_turn(h[part], tau) for part in range(2)]
            for h, (_, _, tau) in zip(heads, tokens, strict=True)
        ]
        outputs = []
        for i, (x, until, tau) in enumerate(tokens):
            low = 0 if branch.window is None else max(0, i + 1 - branch.window)
            attended = attend(
                turned[i][0][None],
                torch.stack([turned[j][1] for j in range(i + 1)]),
                torch.stack([heads[j][2] for j in range(i + 1)]),
                torch.tensor([low]),
                torch.tensor([i + 1]),
            )
            y = x + layer.attention.output(attended.flatten())
            y = y + layer.ffn_out(layer.ffn_in(layer.ffn_norm(y)).relu())
            outputs.append((y, until, tau))
        tokens = outputs
    return tokens


def _turn(heads: Tensor, tau: float) -> Tensor:
    return torch.tensor([rotate(head, tau, FREQUENCY_BASE) for head in heads.tolist()])


def _reduced(reduction, factor, tokens):
    made = []
    for j in range(len(tokens) // factor):
        parts = tokens[j * factor : (j + 1) * factor]
        mean = sum(x for x, _, _ in parts) / factor
        _, until, tau = parts[-1]
        made.append((reduction.projection(torch.cat([x for x, _, _ in parts])) + mean, until, tau))
    return made


def _merged(merge, branches):
    normed = [
        [(norm(x), until) for x, until, _ in tokens]
        for norm, tokens in zip(merge.norms, branches, strict=True)
    ]
    merged = []
    for own, projection in zip(branches, merge.projections, strict=True):
        outputs = []
        for x, until, tau in own:
            seen = []
            for tokens in normed:
                complete = [y for y, at in tokens if at <= until]
                seen.append(complete[-1] if complete else torch.zeros_like(x))
            outputs.append((x + projection(torch.cat(seen)), until, tau))
        merged.append(outputs)
    return merged
