"""RankMixer: tokens exchange parts of themselves, and each has a feed-forward network of its own.

Paper: RankMixer (arXiv 2507.15551), section 3.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from model.interaction.config import RankMixerConfig


class PerTokenLinear(nn.Module):
    """One affine map per token.

    y_t = x_t W_t + b_t

    Paper: RankMixer, section 3.3.
    Differs: weights start uniform within 1/√(input width), biases at zero.
    """

    def __init__(self, num_tokens: int, width_in: int, width_out: int) -> None:
        super().__init__()
        bound = width_in**-0.5
        self.weight = nn.Parameter(
            torch.empty(num_tokens, width_in, width_out).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.zeros(num_tokens, 1, width_out))

    def forward(self, tokens: Float[Tensor, "B T width_in"]) -> Float[Tensor, "B T width_out"]:
        return torch.baddbmm(self.bias, tokens.transpose(0, 1), self.weight).transpose(0, 1)


def mix_tokens(tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    """Gives every token one part of each token; it has no parameters.

    s_h = [x_1^h; …; x_T^h],  x_t^h the h-th of T equal parts of token t

    Paper: RankMixer, section 3.2 (multi-head token mixing, as many heads as tokens).
    Differs: none.
    """
    num_tokens = tokens.shape[1]
    return tokens.unflatten(2, (num_tokens, -1)).transpose(1, 2).flatten(2)


class RankMixerBlock(nn.Module):
    """Mixing, then a feed-forward network per token, each with a residual.

    S = LN(mix(X) + X)
    X_out = LN(PFFN(S) + S),  PFFN_t(s) = W_t2 GELU(W_t1 s + b_t1) + b_t2

    Paper: RankMixer, section 3.1, equation 1.
    Differs: none; the sparse mixture of experts is left out.
    """

    def __init__(self, num_tokens: int, width: int, expansion: int) -> None:
        super().__init__()
        self.mixing_norm = nn.LayerNorm(width)
        self.expand = PerTokenLinear(num_tokens, width, expansion * width)
        self.contract = PerTokenLinear(num_tokens, expansion * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        mixed = self.mixing_norm(mix_tokens(tokens) + tokens)
        return self.norm(self.contract(gelu(self.expand(mixed))) + mixed)


class RankMixer(nn.Module):
    """The stack: features become T tokens of one width, and L blocks mix them.

    x_t = W_t e_t + b_t,  e_t the t-th of T equal parts of the flattened features

    Paper: RankMixer, sections 3.1 and 3.4 (tokenisation).
    Differs: features already are tokens of one width, in the order of the config, which takes the
        place of the paper's grouping by meaning. The tokens go on as they are, not averaged.
    """

    def __init__(self, config: RankMixerConfig, num_tokens: int, width: int) -> None:
        super().__init__()
        self.num_mixed_tokens = config.num_mixed_tokens
        part = num_tokens * width // config.num_mixed_tokens
        self.tokenise = PerTokenLinear(config.num_mixed_tokens, part, width)
        self.blocks = nn.Sequential(
            *(
                RankMixerBlock(config.num_mixed_tokens, width, config.expansion)
                for _ in range(config.num_layers)
            )
        )

    def forward(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B m D"]:
        parts = tokens.flatten(1).unflatten(1, (self.num_mixed_tokens, -1))
        return self.blocks(self.tokenise(parts))


def num_parameters(config: RankMixerConfig, num_tokens: int, width: int) -> int:
    """Parameters of a `RankMixer`: about 2 k L T d², and the tokenisation's n d²."""
    t, d, hidden = config.num_mixed_tokens, width, config.expansion * width
    block = t * ((d + 1) * hidden + (hidden + 1) * d) + 4 * d
    return num_tokens * d * d + t * d + config.num_layers * block


def flops(config: RankMixerConfig, num_tokens: int, width: int) -> int:
    """Forward FLOPs of a `RankMixer` for one row: 4 k L T d², and 2 n d² to make the tokens."""
    block = 4 * config.num_mixed_tokens * config.expansion * width**2
    return 2 * num_tokens * width**2 + config.num_layers * block
