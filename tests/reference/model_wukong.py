"""Slow oracle of the factorization machine: every pair of tokens, one by one."""

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
