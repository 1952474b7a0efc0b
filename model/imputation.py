"""Heads that expect the error of a conversion's tower, for impressions that nobody clicked too."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from model import heads
from model.config import RankerConfig
from model.heads import DomainTaskHeads


class ImputationHeads(nn.Module):
    """What the cross-entropy of each conversion of a chain is expected to be.

    ê_bt = softplus(heads_{domain(b), t}(r_b))

    Paper: ESCM² (arXiv 2204.05125), section 4.3, the imputation tower of ESCM²-DR.
    Differs: softplus, for a cross-entropy is never negative; heads of the same form as those that
        are served, per domain and conversion; they start at the entropy of the base rate.

    Args:
        config: Shape of the ranker, with a chain.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.heads = DomainTaskHeads(config, _num_conversions(config))

    @torch.no_grad()
    def set_prior(self, conversion_rates: Float[Tensor, "P C"]) -> None:
        """Starts at the error of a model that knows each domain's base rate and nothing else.

        Args:
            conversion_rates: Share of the clicked impressions of each domain (P) that converted,
                per conversion of the chain (C); strictly between 0 and 1.
        """
        p = conversion_rates
        errors = -(p * p.log() + (1.0 - p) * (1.0 - p).log())
        # σ(x) with the odds e^ê − 1 has the bias log(e^ê − 1), which softplus turns into ê.
        self.heads.set_prior(torch.sigmoid(errors.expm1().log()))

    def forward(
        self, representation: Float[Tensor, "B R"], domain: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B C"]:
        return F.softplus(self.heads(representation, domain))


def num_parameters(config: RankerConfig) -> int:
    """Parameters of `ImputationHeads`: as those of the served heads, per conversion."""
    return heads.num_parameters(config) // len(config.tasks) * _num_conversions(config)


def flops(config: RankerConfig) -> int:
    """Forward FLOPs of `ImputationHeads` for one row."""
    return heads.flops(config) // len(config.tasks) * _num_conversions(config)


def _num_conversions(config: RankerConfig) -> int:
    assert config.chain is not None, "RankerConfig asks for a chain"
    return len(config.chain.conversions)
