"""No interaction: what remains of a ranker is a logistic regression."""

from jaxtyping import Float
from torch import Tensor, nn

from model.interaction.config import LogisticConfig


class Logistic(nn.Module):
    """The sum of the tokens.

    X_out = Σ_i X_i

    Tokens and heads being linear, the log-odds are w_0 + Σ_c w_c[value_c] + wᵀ z, z the
    standardised dense columns. At width 1 a value has one weight; at width d the weights that
    domains and tasks give it may differ in d ways.

    Paper: McMahan et al. 2013 (Ad click prediction: a view from the trenches), section 2.
    Differs: optimiser and regularisation are those of every other ranker.
    """

    def __init__(self, config: LogisticConfig, num_tokens: int, width: int) -> None:
        super().__init__()

    def forward(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B 1 D"]:
        return tokens.sum(1, keepdim=True)


def num_parameters(config: LogisticConfig, num_tokens: int, width: int) -> int:
    """A sum has no parameters."""
    return 0


def flops(config: LogisticConfig, num_tokens: int, width: int) -> int:
    """Additions alone are not counted."""
    return 0
