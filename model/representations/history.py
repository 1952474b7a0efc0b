"""A user's earlier representations, pooled into tokens of the row.

Paper: LoopFM (arXiv 2605.29280), history of compressed activations.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.events import NUM_AGE_KNOTS, AgeEncoding
from model.interaction.compress import LinearCompressBlock
from model.representations.config import RepresentationHistoryConfig
from model.representations.stored import StoredRepresentations
from model.sequence import din
from model.sequence.config import DinConfig
from model.sequence.din import DeepInterest


class RepresentationHistory(nn.Module):
    """Tokens made of what a teacher thought of the user's earlier impressions.

    p_j  = LN(W v_j + a(t_b − t_j)),  v_j the stored representations, a the encoding of their age
    mean  H_b = reshape(W_o (1/L_b) Σ_j p_j)
    DIN   C = W_c X_b,  W_c: k × F;  H_bs = Σ_j u(p_j, c_s) p_j,  u DIN's activation unit

    A row without any reads learned tokens.

    Paper: LoopFM: the L latest, the current row left out, pooled by sum, mean or DIN.
    Differs: the age, the norm and the learned tokens are ours; the candidate is made from all
        feature tokens.

    Args:
        config: Its shape.
        width: D.
        num_feature_tokens: Tokens of a row that the candidate is made from (F).
    """

    def __init__(
        self, config: RepresentationHistoryConfig, width: int, num_feature_tokens: int
    ) -> None:
        super().__init__()
        self.num_tokens = config.num_tokens
        self.projection = nn.Linear(config.dim, width, bias=False)
        self.age = AgeEncoding(width)
        self.norm = nn.LayerNorm(width)
        self.output = None
        self.compress = None
        self.interest = None
        if config.pooling == "mean":
            self.output = nn.Linear(width, config.num_tokens * width)
        else:
            self.compress = LinearCompressBlock(num_feature_tokens, config.num_tokens)
            self.interest = DeepInterest(_unit(config), width)
        self.default = nn.Parameter(torch.randn(config.num_tokens, width) * 0.02)

    def forward(
        self, tokens: Float[Tensor, "B F D"], stored: StoredRepresentations
    ) -> Float[Tensor, "B k D"]:
        """Pools each row's.

        Args:
            tokens: The row's own feature tokens.
            stored: What each row reads, at most L.
        """
        vectors = self.norm(self.projection(stored.values) + self.age(stored.age_us))  # P D
        pooled = (
            self._mean(vectors, stored)
            if self.output is not None
            else self._interest(tokens, vectors, stored)
        )
        is_empty = (stored.offsets.diff() == 0)[:, None, None]
        return torch.where(is_empty, self.default, pooled)

    def _mean(
        self, vectors: Float[Tensor, "P D"], stored: StoredRepresentations
    ) -> Float[Tensor, "B k D"]:
        lengths = stored.offsets.diff()
        row = torch.arange(stored.num_rows, device=vectors.device).repeat_interleave(
            lengths, output_size=len(vectors)
        )
        total = vectors.new_zeros(stored.num_rows, vectors.shape[1]).index_add(0, row, vectors)
        assert self.output is not None
        mean = total / lengths.clamp(min=1)[:, None]
        return self.output(mean).unflatten(1, (self.num_tokens, -1))

    def _interest(
        self,
        tokens: Float[Tensor, "B F D"],
        vectors: Float[Tensor, "P D"],
        stored: StoredRepresentations,
    ) -> Float[Tensor, "B k D"]:
        assert self.compress is not None and self.interest is not None
        candidates = self.compress(tokens).transpose(0, 1)  # k B D
        pooled = [
            self.interest(candidate, vectors, stored.age_us, stored.offsets)
            for candidate in candidates
        ]
        return torch.stack(pooled, dim=1)


def num_parameters(config: RepresentationHistoryConfig, width: int, num_feature_tokens: int) -> int:
    """Parameters of a `RepresentationHistory`, in closed form."""
    k, d = config.num_tokens, width
    shared = config.dim * d + NUM_AGE_KNOTS * d + 2 * d + k * d
    if config.pooling == "mean":
        return shared + (d + 1) * k * d
    return shared + k * num_feature_tokens + din.num_parameters(_unit(config), d)


def flops(
    config: RepresentationHistoryConfig, width: int, num_feature_tokens: int, number: float
) -> float:
    """Forward FLOPs of a `RepresentationHistory` for one row that reads so many."""
    k, d = config.num_tokens, width
    shared = number * 2 * (config.dim + NUM_AGE_KNOTS) * d
    if config.pooling == "mean":
        return shared + 2 * d * k * d
    return shared + k * (2 * num_feature_tokens * d + din.flops(_unit(config), d, number))


def _unit(config: RepresentationHistoryConfig) -> DinConfig:
    # PReLU: with Dice the loss of a row would depend on the other rows of its batch.
    return DinConfig(hidden=config.hidden, activation="prelu")
