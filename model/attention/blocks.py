"""Multi-head attention over jagged tokens: among themselves, and pooled by learned queries."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from model.attention import attend
from model.attention.rotary import rotate
from model.attention.windows import Windows


class SelfAttention(nn.Module):
    """Multi-head attention of tokens over tokens, turned by their times.

    MHA(X) = W_o · heads(softmax(R(τ) Q (R(τ) K)ᵀ / √d) V),  [Q; K; V] = W X

    Paper: ROTE of LLaTTE (arXiv 2601.20083) inside scaled dot-product attention.
    Differs: none.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(
        self, tokens: Float[Tensor, "N D"], tau: Float64[Tensor, " N"], windows: Windows
    ) -> Float[Tensor, "N D"]:
        heads = self.query_key_value(tokens).unflatten(1, (3, self.num_heads, -1))
        query, key, value = heads.unbind(1)
        attended = attend(rotate(query, tau), rotate(key, tau), value, windows)
        return self.output(attended.flatten(1))


class AttentionPooling(nn.Module):
    """Pooling by multi-head attention: learned queries read tokens (PMA).

    PMA(S) = W_o · heads(softmax(Q K(S)ᵀ / √d) V(S)),  Q a parameter of k queries

    Paper: InterFormer (arXiv 2411.09852), S_pma.
    Differs: none.
    """

    def __init__(self, width: int, num_heads: int, num_queries: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.randn(num_queries, width))
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "N D"], windows: Windows) -> Float[Tensor, "Q D"]:
        """Pools tokens.

        Args:
            tokens: What is pooled.
            windows: Windows of all queries; the k learned ones repeat, reader after reader.
        """
        key, value = self.key_value(tokens).unflatten(1, (2, self.num_heads, -1)).unbind(1)
        query = self.query.unflatten(1, (self.num_heads, -1))
        query = query.repeat(len(windows.start) // len(self.query), 1, 1)
        return self.output(attend(query, key, value, windows).flatten(1))
