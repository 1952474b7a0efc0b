"""Slow oracles of the interaction stacks: every pair, part and product one by one."""

import math

import torch
from torch import Tensor


def factorization_machine(tokens: Tensor, projection: Tensor) -> Tensor:
    """X Xᵀ Y with the n × n matrix of dot products written out."""
    num_rows, num_tokens, width = tokens.shape
    outputs = []
    for b in range(num_rows):
        products = torch.zeros(num_tokens, num_tokens, dtype=tokens.dtype)
        for i in range(num_tokens):
            for j in range(num_tokens):
                products[i, j] = sum(tokens[b, i, d] * tokens[b, j, d] for d in range(width))
        row_projection = projection[b] if projection.ndim == 3 else projection
        outputs.append(products @ row_projection)
    return torch.stack(outputs)


def cross_network(inputs: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l, one number after the other."""
    outputs = inputs.clone()
    for b in range(len(inputs)):
        x = inputs[b].tolist()
        for weight, bias in zip(weights, biases, strict=True):
            seen = [
                sum(w * value for w, value in zip(row, x, strict=True)) + shift
                for row, shift in zip(weight.tolist(), bias.tolist(), strict=True)
            ]
            x = [x_0 * s + old for x_0, s, old in zip(inputs[b].tolist(), seen, x, strict=True)]
        outputs[b] = torch.tensor(x)
    return outputs


def dot_products(tokens: Tensor) -> Tensor:
    """X_i · X_j for every i < j, rows of the upper triangle one after the other."""
    num_rows, num_tokens, width = tokens.shape
    return torch.tensor(
        [
            [
                sum(float(tokens[b, i, d]) * float(tokens[b, j, d]) for d in range(width))
                for i in range(num_tokens)
                for j in range(i + 1, num_tokens)
            ]
            for b in range(num_rows)
        ]
    )


def mix_tokens(tokens: Tensor) -> Tensor:
    """Part p of output token h is part h of input token p."""
    num_tokens, width = tokens.shape[1:]
    part = width // num_tokens
    mixed = torch.empty_like(tokens)
    for h in range(num_tokens):
        for t in range(num_tokens):
            for j in range(part):
                mixed[:, h, t * part + j] = tokens[:, t, h * part + j]
    return mixed


def gelu(value: float) -> float:
    """x Φ(x), Φ the normal distribution function."""
    return value * 0.5 * (1.0 + math.erf(value / math.sqrt(2.0)))


def cross_layer_attention(
    tokens: Tensor, earlier: list[Tensor], weights: dict[str, Tensor], num_heads: int
) -> Tensor:
    """Attention of layer-normed tokens over earlier ones, one row, head and query at a time.

    Args:
        tokens: Tokens that ask.
        earlier: Compressed tokens of each earlier layer.
        weights: `query`, `key`, `value` and `output`, each width × width and applied as x Wᵀ.
        num_heads: Heads.
    """
    width = tokens.shape[2]
    dim = width // num_heads
    outputs = torch.empty_like(tokens)
    for b in range(len(tokens)):
        memory = torch.cat([z[b] for z in earlier])
        for i in range(tokens.shape[1]):
            normed = torch.nn.functional.layer_norm(tokens[b, i], (width,))
            attended = []
            for h in range(num_heads):
                part = slice(h * dim, (h + 1) * dim)
                query = (weights["query"] @ normed)[part]
                scores = [float(query @ (weights["key"] @ z)[part]) / dim**0.5 for z in memory]
                exps = [math.exp(score) for score in scores]
                values = [(weights["value"] @ z)[part] for z in memory]
                attended.append(sum(e / sum(exps) * v for e, v in zip(exps, values, strict=True)))
            outputs[b, i] = weights["output"] @ torch.cat(attended)
    return outputs
