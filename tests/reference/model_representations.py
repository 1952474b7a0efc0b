"""Slow oracles of stored representations: one number, row and representation at a time."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import layer_norm


def quantised(value: float, bits: int) -> int:
    """The nearest of the 2^b integers, halves to the even one."""
    half = 2 ** (bits - 1)
    return min(half - 1, max(-half, round(value * half)))


def packed(codes: list[int], bits: int) -> list[int]:
    """Bytes of one vector, each number in two's complement."""
    numbers = [code % 2**bits for code in codes]
    if bits == 8:
        return numbers
    numbers += [0] * (len(numbers) % 2)
    return [low + 16 * high for low, high in zip(numbers[0::2], numbers[1::2], strict=True)]


def age_weights(age_us: int, num_knots: int = 8) -> list[float]:
    """Hat functions over the logarithm of an age."""
    last = math.log1p(366 * 86_400.0 / 60.0)
    step = last / (num_knots - 1)
    tau = min(math.log1p(max(age_us, 0) / 60e6), last)
    return [max(0.0, 1.0 - abs(tau - j * step) / step) for j in range(num_knots)]


def pooled(
    values: Tensor,
    ages: list[int],
    weights: dict[str, Tensor],
    activation: Callable[[Tensor], Tensor] | None,
    tokens: Tensor,
) -> Tensor:
    """Tokens of one row: the mean of its representations, or each weighed by every candidate.

    Args:
        values: What the row reads, L × V.
        ages: Their ages in microseconds.
        weights: The module's state.
        activation: DIN's unit on one pair; None for the mean.
        tokens: The row's own, F × D.
    """
    vectors = []
    for value, age in zip(values, ages, strict=True):
        x = weights["projection.weight"] @ value
        for j, share in enumerate(age_weights(age)):
            x = x + share * weights["age.projection.weight"][:, j]
        vectors.append(layer_norm(x, x.shape, weights["norm.weight"], weights["norm.bias"]))
    if not vectors:
        return weights["default"]
    if activation is None:
        mean = torch.stack(vectors).mean(0)
        flat = weights["output.weight"] @ mean + weights["output.bias"]
        return flat.unflatten(0, weights["default"].shape)
    found = []
    for row in weights["compress.weight"]:
        candidate = row @ tokens
        total = torch.zeros_like(candidate)
        for p in vectors:
            pair = torch.cat([p, candidate, p - candidate, p * candidate])
            total = total + activation(pair[None])[0] * p
        found.append(total)
    return torch.stack(found)


def reconstruction(target: Tensor, decoded: list[Tensor], rows: list[int], n: float) -> list[float]:
    """Mean squared error of each width over the rows that count."""
    return [
        sum(
            (float(x[b, r]) - float(target[b, r])) ** 2 / target.shape[1]
            for b in rows
            for r in range(target.shape[1])
        )
        / n
        for x in decoded
    ]


def alignment(aligned: Tensor, teacher: Tensor, rows: list[int], kind: str, n: float) -> float:
    """Cosine or squared distance, summed over the rows that count."""
    total = 0.0
    for b in rows:
        y, v = aligned[b].tolist(), teacher[b].tolist()
        if kind == "cosine":
            dot = sum(i * j for i, j in zip(y, v, strict=True))
            total += 1.0 - dot / math.hypot(*y) / math.hypot(*v)
        else:
            total += sum((i - j) ** 2 for i, j in zip(y, v, strict=True)) / len(v)
    return total / n
