"""Slow oracle of the losses that compare rows: plain Python numbers, one pair or list at a time."""

import math
from collections.abc import Sequence

from tests.reference.model_losses import cross_entropy, soften


def log_odds(probability: float) -> float:
    """ln(p / (1 − p))."""
    return math.log(probability / (1 - probability))


def pairwise(
    logits: Sequence[float], teacher: Sequence[float], group: Sequence[int], temperature: float
) -> float:
    """Σ over groups of Σ over unordered pairs of h(Δz / T, σ(Δt / T)) / (n − 1)."""
    total = 0.0
    for value in set(group):
        rows = [i for i, g in enumerate(group) if g == value]
        for first, b in enumerate(rows):
            for c in rows[first + 1 :]:
                preferred = 1 / (1 + math.exp(log_odds(teacher[c]) - log_odds(teacher[b])))
                target = soften(preferred, temperature)
                student = (logits[b] - logits[c]) / temperature
                total += cross_entropy(student, target) / (len(rows) - 1)
    return total


def listwise(
    logits: Sequence[float], teacher: Sequence[float], group: Sequence[int], temperature: float
) -> float:
    """Σ over groups of n · Σ_i p_i ln(p_i / q_i)."""
    total = 0.0
    for value in set(group):
        rows = [i for i, g in enumerate(group) if g == value]
        p = _softmax([log_odds(teacher[i]) / temperature for i in rows])
        q = _softmax([logits[i] / temperature for i in rows])
        total += len(rows) * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total


def _softmax(values: Sequence[float]) -> list[float]:
    exponentials = [math.exp(value) for value in values]
    return [e / sum(exponentials) for e in exponentials]
