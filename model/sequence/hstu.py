"""HSTU: gated pointwise attention over a history, with biases for distance and time.

Paper: HSTU (arXiv 2402.17152), section 3.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from model.sequence.config import HstuConfig
from model.sequence.padding import padded_buckets

INIT_STD = 0.02
"""Standard deviation of the fresh projection and biases."""
EPSILON = 1e-6
"""Of the norms, which have no scale or shift."""
BUCKET_WIDTH = 0.301
"""Natural logarithm between two time buckets: one bucket per doubling and a bit more than two."""


class RelativeBias(nn.Module):
    """A learned bias for how far, in events and in time, a query lies after a key.

    rab_ij = w_pos[i − j] + w_time[⌊ln(max(1, |t_i − t_j|)) / 0.301⌋]

    Paper: HSTU, section 3.1 (rab^{p,t}).
    Differs: none.
    """

    def __init__(self, max_events: int, num_time_buckets: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(max_events) * INIT_STD)
        self.time = nn.Parameter(torch.randn(num_time_buckets) * INIT_STD)

    def forward(self, times: Int64[Tensor, "b T"]) -> Float[Tensor, "b T T"]:
        place = torch.arange(times.shape[1], device=times.device)
        # Keys after their query are masked later: any position serves for them.
        distance = (place[:, None] - place).clamp(min=0)
        gap = (times[:, :, None] - times[:, None, :]).abs().clamp(min=1)
        bucket = (gap.double().log() / BUCKET_WIDTH).long().clamp(max=len(self.time) - 1)
        return self.position[distance] + self.time[bucket]


class HstuLayer(nn.Module):
    """One layer of pointwise projection, spatial aggregation and pointwise transformation.

    U, V, Q, K = split(SiLU(W_1 LN(X)))
    A          = SiLU(Q Kᵀ + rab) / N, zero where the key lies after the query
    X_out      = X + W_2 (LN(A V) ⊙ U) + b_2

    Paper: HSTU, section 3, equations 1 to 3.
    Differs: none; A is divided by the longest history N, as in the authors' code.
    """

    def __init__(self, config: HstuConfig, width: int, max_events: int) -> None:
        super().__init__()
        self.config = config
        self.max_events = max_events
        inner = config.num_heads * config.head_dim
        self.project = nn.Parameter(torch.randn(width, 4 * inner) * INIT_STD)
        self.bias = RelativeBias(max_events, config.num_time_buckets)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(inner, width)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(
        self,
        events: Float[Tensor, "E D"],
        times: Int64[Tensor, " E"],
        offsets: Int64[Tensor, " num_offsets"],
    ) -> Float[Tensor, "E D"]:
        normed = layer_norm(events, events.shape[1:], eps=EPSILON)
        gate, *heads = silu(normed @ self.project).chunk(4, dim=1)
        value, query, key = (x.unflatten(1, (self.config.num_heads, -1)) for x in heads)
        attended = torch.zeros_like(gate)
        for index, is_event in padded_buckets(offsets):
            # Zeros, not weights of zero: a place without event may read one that is NaN.
            v, q, k = (
                torch.where(is_event[:, :, None, None], x[index], 0.0).transpose(1, 2)
                for x in (value, query, key)
            )
            bias = self.bias(times[index])[:, None]  # b 1 T T
            weights = silu(q @ k.transpose(2, 3) + bias).tril() / self.max_events
            mixed = (weights @ v).transpose(1, 2).flatten(2)  # b T H·d_h
            attended = attended.index_put((index[is_event],), mixed[is_event])
        normed = layer_norm(attended, attended.shape[1:], eps=EPSILON)
        return events + self.output(self.dropout(normed * gate))


class Hstu(nn.Module):
    """The stack: every event comes back with what the events up to it say.

    Paper: HSTU, section 3.
    Differs: the history alone is read; interleaved actions and candidates are the caller's.

    Args:
        config: The stack.
        width: Width of an event.
        max_events: Longest row (N): attention is divided by it, and positions differ by less.
    """

    def __init__(self, config: HstuConfig, width: int, max_events: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            HstuLayer(config, width, max_events) for _ in range(config.num_layers)
        )

    def forward(
        self,
        events: Float[Tensor, "E D"],
        times: Int64[Tensor, " E"],
        offsets: Int64[Tensor, " num_offsets"],
    ) -> Float[Tensor, "E D"]:
        """Encodes each row's events, oldest first.

        Args:
            events: Events of all rows.
            times: When they happened, in seconds; only differences within a row matter.
            offsets: First event of each row and, last, the total; at most N apart.
        """
        for layer in self.layers:
            events = layer(events, times, offsets)
        return events


def num_parameters(config: HstuConfig, width: int, max_events: int) -> int:
    """Parameters of a `Hstu`: 5 H d_h d + d for a layer's products, and its biases."""
    inner = config.num_heads * config.head_dim
    layer = 5 * inner * width + width + max_events + config.num_time_buckets
    return config.num_layers * layer


def flops(config: HstuConfig, width: int, num_events: float) -> float:
    """Forward FLOPs of a `Hstu` for a row of T events: 10 T d H d_h + 4 T² H d_h for a layer.

    The masked half of the attention is computed and counted.
    """
    inner = config.num_heads * config.head_dim
    return config.num_layers * (10 * num_events * width * inner + 4 * num_events**2 * inner)
