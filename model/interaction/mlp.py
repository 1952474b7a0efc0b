"""A plain deep network over all tokens: the baseline without an explicit interaction."""

from jaxtyping import Float
from torch import Tensor, nn

from model.interaction.config import MlpConfig
from model.mlp import HiddenLayers, hidden_num_parameters, mlp_flops


class FlatMLP(nn.Module):
    """Tokens, flattened, through fully connected layers.

    X_out = reshape(hidden(flatten(X)))

    Paper: the deep part of Wide & Deep (arXiv 1606.07792), section 3.2.
    Differs: the last hidden layer is read as tokens; the output layer is `model.heads`.
    """

    def __init__(self, config: MlpConfig, num_tokens: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = HiddenLayers(
            _widths(config, num_tokens, width), config.dropout, config.batch_norm
        )

    def forward(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B m D"]:
        return self.mlp(tokens.flatten(1)).unflatten(1, (-1, self.width))


def num_parameters(config: MlpConfig, num_tokens: int, width: int) -> int:
    """Parameters of a `FlatMLP`, in closed form."""
    return hidden_num_parameters(_widths(config, num_tokens, width), config.batch_norm)


def flops(config: MlpConfig, num_tokens: int, width: int) -> int:
    """Forward FLOPs of a `FlatMLP` for one row; a multiply-add counts 2."""
    return mlp_flops(_widths(config, num_tokens, width))


def _widths(config: MlpConfig, num_tokens: int, width: int) -> tuple[int, ...]:
    return (num_tokens * width, *config.hidden)
