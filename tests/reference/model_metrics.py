"""Slow oracles of the metrics: loops over rows, users, values and pairs."""

import math
from collections.abc import Sequence

import numpy as np


def log_loss(labels: Sequence[float], probabilities: Sequence[float]) -> float:
    """Mean cross-entropy."""
    losses = [
        -(y * math.log(p) + (1 - y) * math.log(1 - p))
        for y, p in zip(labels, probabilities, strict=True)
    ]
    return sum(losses) / len(losses)


def ne(labels: Sequence[float], probabilities: Sequence[float]) -> float:
    """Log loss over that of always predicting the rows' base rate."""
    rate = sum(labels) / len(labels)
    return log_loss(labels, probabilities) / log_loss(labels, [rate] * len(labels))


def auc(labels: Sequence[float], probabilities: Sequence[float]) -> float:
    """Share of (positive, negative) pairs in the right order, ties counted half."""
    pairs = [
        (p > q) + 0.5 * (p == q)
        for y, p in zip(labels, probabilities, strict=True)
        for z, q in zip(labels, probabilities, strict=True)
        if y == 1 and z == 0
    ]
    return sum(pairs) / len(pairs)


def gauc(labels: Sequence[float], probabilities: Sequence[float], users: Sequence[object]) -> float:
    """AUC of each user with both classes, weighted by impressions."""
    total = weight = 0.0
    for user in set(users):
        rows = [i for i, u in enumerate(users) if u == user]
        own = [labels[i] for i in rows]
        if 0 < sum(own) < len(own):
            total += len(own) * auc(own, [probabilities[i] for i in rows])
            weight += len(own)
    return total / weight


def field_calibration_error(
    labels: Sequence[float],
    probabilities: Sequence[float],
    values: Sequence[object],
    epsilon: float,
) -> float:
    """Field-RCE, one value of the field at a time."""
    total = 0.0
    for value in set(values):
        rows = [i for i, v in enumerate(values) if v == value]
        residual = abs(sum(labels[i] - probabilities[i] for i in rows))
        total += len(rows) * residual / sum(labels[i] + epsilon for i in rows)
    return total / len(labels)


def resampled_ne(
    labels: np.ndarray, probabilities: np.ndarray, users: np.ndarray, num_resamples: int, seed: int
) -> list[float]:
    """NE of each draw of users, the drawn users' rows put together one after the other."""
    names = np.unique(users)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(num_resamples):
        drawn = generator.integers(len(names), size=len(names))
        rows = np.concatenate([np.flatnonzero(users == names[i]) for i in drawn])
        values.append(ne(labels[rows].tolist(), probabilities[rows].tolist()))
    return values
