"""A stored vector of the user as tokens of the row.

Paper: LLaTTE (arXiv 2601.20083), cached user vector; Foundation-Expert (arXiv 2508.02929), norm and
    dropout on a foundation model's embedding.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from model.representations.config import UserVectorConfig


class UserVectorTokens(nn.Module):
    """Tokens of what the upstream of another model knew of the user.

    T_b = reshape(W dropout(LN(v_b)) + c), k × D;  learned tokens where there is no vector (NaN)

    Paper: LLaTTE, a cached vector as a dense feature; Foundation-Expert, LayerNorm and dropout.
    Differs: the learned tokens of users without one are ours.

    Args:
        config: Its shape.
        width: D.
    """

    def __init__(self, config: UserVectorConfig, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.projection = nn.Linear(config.dim, config.num_tokens * width)
        self.default = nn.Parameter(torch.randn(config.num_tokens, width) * 0.02)

    def forward(self, vectors: Float32[Tensor, "B U"]) -> Float[Tensor, "B k D"]:
        is_missing = vectors.isnan().any(dim=1)
        # Replaced before the norm: masking a NaN later leaves its gradient.
        known = torch.where(is_missing[:, None], 0.0, vectors)
        tokens = self.projection(self.dropout(self.norm(known)))
        tokens = tokens.unflatten(1, self.default.shape)
        return torch.where(is_missing[:, None, None], self.default, tokens)


def num_parameters(config: UserVectorConfig, width: int) -> int:
    """Parameters of `UserVectorTokens`, in closed form."""
    return 2 * config.dim + (config.dim + 2) * config.num_tokens * width


def flops(config: UserVectorConfig, width: int) -> int:
    """Forward FLOPs of `UserVectorTokens` for one row."""
    return 2 * config.dim * config.num_tokens * width
