"""DLRM: the dot products of all pairs of tokens, and the top MLP over them.

Paper: DLRM (arXiv 1906.00091), section 2.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.interaction.config import DlrmConfig
from model.mlp import HiddenLayers, hidden_num_parameters, mlp_flops


class Dlrm(nn.Module):
    """Second-order interactions of embeddings and processed dense columns.

    X_out = reshape(hidden([x_kept; X_i · X_j for i < j]))

    Paper: DLRM, sections 2.1.3 and 2.2.
    Differs: the bottom MLP, which makes the dense tokens, is `model.features`; more than one
        token may be kept beside the dot products; the top MLP's last hidden layer is read as tokens
        and its output layer is `model.heads`.
    """

    pairs: Tensor

    def __init__(self, config: DlrmConfig, num_tokens: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.num_kept_tokens = config.num_kept_tokens
        first, second = torch.triu_indices(num_tokens, num_tokens, offset=1)
        # Where the pairs lie in the flattened n × n matrix; made from the config, never loaded.
        self.register_buffer("pairs", first * num_tokens + second, persistent=False)
        self.top_mlp = HiddenLayers(
            _widths(config, num_tokens, width), config.dropout, config.batch_norm
        )

    def forward(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B m D"]:
        products = torch.bmm(tokens, tokens.transpose(1, 2)).flatten(1)
        kept = tokens[:, tokens.shape[1] - self.num_kept_tokens :].flatten(1)
        interactions = torch.cat([kept, products.index_select(1, self.pairs)], dim=1)
        return self.top_mlp(interactions).unflatten(1, (-1, self.width))


def num_parameters(config: DlrmConfig, num_tokens: int, width: int) -> int:
    """Parameters of a `Dlrm`, in closed form: those of the top MLP."""
    return hidden_num_parameters(_widths(config, num_tokens, width), config.batch_norm)


def flops(config: DlrmConfig, num_tokens: int, width: int) -> int:
    """Forward FLOPs of a `Dlrm` for one row: 2 n² d for the dot products, and the top MLP."""
    return 2 * num_tokens**2 * width + mlp_flops(_widths(config, num_tokens, width))


def _widths(config: DlrmConfig, num_tokens: int, width: int) -> tuple[int, ...]:
    num_pairs = num_tokens * (num_tokens - 1) // 2
    return (config.num_kept_tokens * width + num_pairs, *config.top_hidden)
