"""Fewer tokens, or others, by one matrix over the tokens.

Paper: Wukong (arXiv 2403.02545), section 3.5.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LinearCompressBlock(nn.Module):
    """Mixes n tokens linearly into fewer, and so keeps the interaction orders that it is given.

    LCB(X) = W_L X,  W_L: n_L × n

    Paper: Wukong, section 3.5.
    Differs: none.
    """

    def __init__(self, num_tokens: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_outputs, num_tokens) * num_tokens**-0.5)

    def forward(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B m D"]:
        # Expanded by hand: matmul would copy the tokens to fold the batch into one product.
        return torch.bmm(self.weight.expand(len(tokens), -1, -1), tokens)
