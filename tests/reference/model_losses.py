"""Slow oracle of the losses: plain Python numbers, one row and task at a time."""

import math


def cross_entropy(logit: float, target: float) -> float:
    """−[q ln σ(z) + (1 − q) ln(1 − σ(z))]."""
    p = 1 / (1 + math.exp(-logit))
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def soften(probability: float, temperature: float) -> float:
    """σ(logit(p) / T)."""
    return 1 / (1 + math.exp(-math.log(probability / (1 - probability)) / temperature))
