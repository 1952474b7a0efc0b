"""Parameters that domains do not share: a feed-forward layer per domain."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import one_hot

from model.config import RankerConfig
from model.mlp import MLP, mlp_flops, mlp_num_parameters


class DomainFFN(nn.Module):
    """Every token of a row passes the feed-forward layer of the row's domain.

    X_b ← X_b + FFN_{domain(b)}(LN(X_b)),  FFN_p(x) = W2_p ReLU(W1_p x + b1_p) + b2_p

    The last layer starts at zero, so that a fresh ranker scores as one without; domains grow apart
    by what they learn.

    Paper: Lattice (arXiv 2512.09200), domain-specific FFN and untied parameters.
    Differs: the paper's digest has it in the transformer blocks of the sequences; here it stands
        once, on all tokens that enter the interaction, those of the history among them. Norm
        before and residual around it, the norm shared by all domains; the zero start is ours.

    Args:
        config: Shape of the ranker, with a domain_ffn.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        assert config.domain_ffn is not None
        self.norm = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(MLP(_widths(config)) for _ in range(_num_layers(config)))
        for layer in self.layers:
            assert isinstance(layer, MLP)
            last = layer[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self, tokens: Float[Tensor, "B n D"], domain: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B n D"]:
        normed = self.norm(tokens)
        if len(self.layers) == 1:
            return tokens + self.layers[0](normed)
        order = domain.argsort(stable=True)
        sizes = one_hot(domain, len(self.layers)).sum(0).tolist()
        groups = normed.index_select(0, order).split(sizes)
        changed = [layer(group) for layer, group in zip(self.layers, groups, strict=True)]
        return tokens + torch.cat(changed).index_select(0, order.argsort())


def num_parameters(config: RankerConfig) -> int:
    """Parameters of a `DomainFFN`: the norm's, and an MLP for each layer."""
    return 2 * config.width + _num_layers(config) * mlp_num_parameters(_widths(config))


def flops(config: RankerConfig) -> int:
    """Forward FLOPs of a `DomainFFN` for one row: one MLP for each token, untied or not."""
    return config.num_tokens * mlp_flops(_widths(config))


def _num_layers(config: RankerConfig) -> int:
    assert config.domain_ffn is not None
    return len(config.domains) if config.domain_ffn.untied else 1


def _widths(config: RankerConfig) -> tuple[int, int, int]:
    assert config.domain_ffn is not None
    return config.width, config.domain_ffn.hidden, config.width
