"""Later layers of a stack look back at the inputs of all earlier ones.

Paper: GEM (Meta engineering, 2025) names cross-layer attention connections and gives no equation.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.interaction.compress import LinearCompressBlock
from model.interaction.config import CrossLayerConfig


class CrossLayerAttention(nn.Module):
    """A layer's tokens attend over the compressed inputs of the layers before it.

    X_l ← X_l + W_o · heads(softmax(Q Kᵀ / √d_h) V)
    Q = W_q LN(X_l),  K = W_k Z,  V = W_v Z,  Z = [Z_1; …; Z_{l−1}]

    W_o starts at zero: a fresh stack is bit-equal to the one without these connections.

    Paper: none; see the module.
    Differs: the equations are ours.
    """

    def __init__(self, config: CrossLayerConfig, width: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(
        self, tokens: Float[Tensor, "B n D"], earlier: Sequence[Float[Tensor, "B _ D"]]
    ) -> Float[Tensor, "B n D"]:
        query = self.query(self.norm(tokens)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        memory = self.key_value(torch.cat([*earlier], dim=1))
        key, value = memory.unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5  # B H n (l − 1) m
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        return tokens + self.output(attended)


class CrossLayers(nn.Module):
    """The connections of a stack of layers.

    Z_j = W_j X_j,  X_l ← CrossLayerAttention_l(X_l, [Z_1; …; Z_{l−1}])

    Its weights are drawn apart, so that all others start as they do without connections.

    Paper: none; see the module.
    Differs: the equations are ours; each input is compressed once for all later layers.

    Args:
        config: Tokens and heads.
        layer_tokens: Tokens into each layer.
        width: D.
    """

    def __init__(self, config: CrossLayerConfig, layer_tokens: Sequence[int], width: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.compressions = nn.ModuleList(
                LinearCompressBlock(count, config.num_tokens) for count in layer_tokens[:-1]
            )
            self.attentions = nn.ModuleList(
                CrossLayerAttention(config, width) for _ in layer_tokens[1:]
            )

    def forward(
        self, tokens: Float[Tensor, "B n D"], earlier: list[Float[Tensor, "B m D"]]
    ) -> Float[Tensor, "B n D"]:
        """Connects the layer that comes after those of `earlier`.

        Args:
            tokens: The layer's input.
            earlier: Compressed inputs of the layers before it; this layer's is added.
        """
        number = len(earlier)
        connected = self.attentions[number - 1](tokens, earlier) if number else tokens
        if number < len(self.compressions):
            earlier.append(self.compressions[number](tokens))
        return connected


def num_parameters(config: CrossLayerConfig, layer_tokens: Sequence[int], width: int) -> int:
    """Parameters of the connections between layers that read the given numbers of tokens.

    m n_j for every layer but the last, which none looks back at; 4d² + 2d for all but the first.
    """
    compressed = config.num_tokens * sum(layer_tokens[:-1])
    return compressed + (len(layer_tokens) - 1) * (4 * width**2 + 2 * width)


def flops(config: CrossLayerConfig, layer_tokens: Sequence[int], width: int) -> int:
    """Forward FLOPs of those connections for one row; a multiply-add counts 2, norms are left out.

    Compression 2 m n_j d; at layer l 4 n_l d² for its queries and outputs, 4 s d² for keys and
    values and 4 n_l s d for the attention, s = (l − 1) m.
    """
    m, d = config.num_tokens, width
    total = 2 * m * sum(layer_tokens[:-1]) * d
    for num_earlier, n in enumerate(layer_tokens[1:], start=1):
        s = num_earlier * m
        total += 4 * n * d**2 + 4 * s * d**2 + 4 * n * s * d
    return total
