"""The Wukong interaction stack: factorization machines that grow in order with depth.

Paper: Wukong (arXiv 2403.02545), section 3.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.interaction import cross_layer
from model.interaction.compress import LinearCompressBlock
from model.interaction.config import WukongConfig
from model.interaction.cross_layer import CrossLayers
from model.mlp import MLP, mlp_flops, mlp_num_parameters


def factorization_machine(
    tokens: Float[Tensor, "B n D"], projection: Float[Tensor, "*B n K"]
) -> Float[Tensor, "B n K"]:
    """All pairwise dot products of tokens, seen through a projection.

    FM(X) = X (Xᵀ Y), the products taken in this order: the n × n matrix X Xᵀ is never formed.

    Paper: Wukong, section 3.4.
    Differs: none.
    """
    return tokens @ (tokens.transpose(1, 2) @ projection)


class FactorizationMachineBlock(nn.Module):
    """Pairwise interactions of the tokens, turned back into tokens.

    FMB(X) = reshape(MLP(LN(flatten(X Xᵀ Y))))
    Y      = reshape(MLP(flatten(W_Y X)))   attentive,  or a parameter n × k

    Paper: Wukong, sections 3.3 and 3.4.
    Differs: the paper does not size the MLP that makes Y; here X is compressed to k tokens and the
        hidden widths are those of the other MLP. The bias that makes Y, or the fixed Y, starts
        normal with deviation 1/√n, so that X Xᵀ Y starts at the scale of one dot product.
    """

    def __init__(self, config: WukongConfig, num_tokens: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.rank = config.rank
        start = torch.randn(num_tokens, config.rank) * num_tokens**-0.5
        if config.attentive:
            self.projection = None
            self.compress = LinearCompressBlock(num_tokens, config.rank)
            self.projection_mlp = MLP(_projection_widths(config, num_tokens, width))
            last = self.projection_mlp[-1]
            assert isinstance(last, nn.Linear)
            last.bias.data.copy_(start.flatten())
        else:
            self.projection = nn.Parameter(start)
        self.norm = nn.LayerNorm(num_tokens * config.rank)
        self.mlp = MLP(_interaction_widths(config, num_tokens, width))

    def forward(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B m D"]:
        if self.projection is None:
            flat = self.projection_mlp(self.compress(tokens).flatten(1))
            projection = flat.unflatten(1, (-1, self.rank))  # B n K
        else:
            projection = self.projection
        interactions = factorization_machine(tokens, projection)
        return self.mlp(self.norm(interactions.flatten(1))).unflatten(1, (-1, self.width))


class WukongLayer(nn.Module):
    """One layer: interactions and compression side by side, with a residual.

    X_out = LN(concat(FMB(X), LCB(X)) + R(X)),  R the identity, or W_R X where shapes differ

    Paper: Wukong, sections 3.3 and 3.6.
    Differs: none.
    """

    def __init__(self, config: WukongConfig, num_tokens: int, width: int) -> None:
        super().__init__()
        num_outputs = config.num_fm_tokens + config.num_lcb_tokens
        self.fmb = FactorizationMachineBlock(config, num_tokens, width)
        self.lcb = LinearCompressBlock(num_tokens, config.num_lcb_tokens)
        self.residual = (
            nn.Identity()
            if num_tokens == num_outputs
            else LinearCompressBlock(num_tokens, num_outputs)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B m D"]:
        outputs = torch.cat([self.fmb(tokens), self.lcb(tokens)], dim=1)
        return self.norm(outputs + self.residual(tokens))


class Wukong(nn.Module):
    """The stack: after l layers the tokens hold interactions of orders 1 to 2^l.

    X_{i+1} = WukongLayer_i(X_i),  or WukongLayer_i(CrossLayers(X_i, X_1 … X_{i−1}))

    Paper: Wukong, section 3.3; GEM (Meta engineering, 2025) for the cross-layer connections.
    Differs: the cross-layer connections are ours and optional. The final MLP of the paper is
        `model.heads`.
    """

    def __init__(self, config: WukongConfig, num_tokens: int, width: int) -> None:
        super().__init__()
        counts = _input_tokens(config, num_tokens)
        self.layers = nn.ModuleList(WukongLayer(config, count, width) for count in counts)
        self.cross_layers = (
            CrossLayers(config.cross_layer, counts, width) if config.cross_layer else None
        )

    def forward(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B m D"]:
        earlier: list[Tensor] = []
        for layer in self.layers:
            if self.cross_layers is not None:
                tokens = self.cross_layers(tokens, earlier)
            tokens = layer(tokens)
        return tokens


def num_parameters(config: WukongConfig, num_tokens: int, width: int) -> int:
    """Parameters of a `Wukong` that is given `num_tokens` tokens, in closed form."""
    num_outputs = config.num_fm_tokens + config.num_lcb_tokens
    total = 0
    for n in _input_tokens(config, num_tokens):
        projection = (
            config.rank * n + mlp_num_parameters(_projection_widths(config, n, width))
            if config.attentive
            else n * config.rank
        )
        fmb = 2 * n * config.rank + mlp_num_parameters(_interaction_widths(config, n, width))
        residual = 0 if n == num_outputs else num_outputs * n
        total += projection + fmb + config.num_lcb_tokens * n + residual + 2 * width
    if config.cross_layer:
        counts = _input_tokens(config, num_tokens)
        total += cross_layer.num_parameters(config.cross_layer, counts, width)
    return total


def flops(config: WukongConfig, num_tokens: int, width: int) -> int:
    """Forward FLOPs of a `Wukong` for one row; a multiply-add counts 2, norms are left out."""
    num_outputs = config.num_fm_tokens + config.num_lcb_tokens
    total = 0
    for n in _input_tokens(config, num_tokens):
        projection = (
            2 * config.rank * n * width + mlp_flops(_projection_widths(config, n, width))
            if config.attentive
            else 0
        )
        fmb = 4 * n * width * config.rank + mlp_flops(_interaction_widths(config, n, width))
        residual = 0 if n == num_outputs else 2 * num_outputs * n * width
        total += projection + fmb + 2 * config.num_lcb_tokens * n * width + residual
    if config.cross_layer:
        total += cross_layer.flops(config.cross_layer, _input_tokens(config, num_tokens), width)
    return total


def _input_tokens(config: WukongConfig, num_tokens: int) -> list[int]:
    later = config.num_fm_tokens + config.num_lcb_tokens
    return [num_tokens] + [later] * (config.num_layers - 1)


def _projection_widths(config: WukongConfig, num_tokens: int, width: int) -> tuple[int, ...]:
    return (config.rank * width, *config.mlp_hidden, num_tokens * config.rank)


def _interaction_widths(config: WukongConfig, num_tokens: int, width: int) -> tuple[int, ...]:
    return (num_tokens * config.rank, *config.mlp_hidden, config.num_fm_tokens * width)
