"""Slow oracle of row-wise AdaGrad: plain Python numbers, one row at a time."""

import math


def rowwise_adagrad(
    table: list[list[float]], gradients: list[list[list[float]]], lr: float, epsilon: float = 1e-8
) -> list[list[float]]:
    """The table after one step for each dense gradient."""
    table = [list(row) for row in table]
    sums = [0.0] * len(table)
    for gradient in gradients:
        for i, row in enumerate(gradient):
            sums[i] += sum(g * g for g in row) / len(row)
            for j, g in enumerate(row):
                table[i][j] -= lr * g / (math.sqrt(sums[i]) + epsilon)
    return table
