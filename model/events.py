"""Events of a timeline as vectors: what depends on the event alone, and its age at a row."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from model.attention.rotary import TIME_SCALE_SECONDS, log_time
from model.config import RankerConfig
from model.embeddings import DenseNormaliser

NUM_AGE_KNOTS = 8
"""Ages between which the effect of an event's age is a line (J)."""
MAX_AGE_SECONDS = 366 * 86_400.0
"""The last knot; older events count as this old."""


class EventEmbedding(nn.Module):
    """Embeds the events of all timelines, each once for all rows that read it.

    x_e = LN(Σ_g P_g e_g + P_z z_e + Σ_v P_v v_e + b),  z the standardised dense columns of the
    event, v its content vectors, 0 where one is missing

    Paper: event-based features (Meta engineering, 2024): attributes, then a linear compression; the
        time at the impression is added where a row reads the event, by `AgeEncoding`.
    Differs: it gives no equation; the sum of projections and the norm are ours. Content in the
        sequence is as in LLaTTE (arXiv 2601.20083).
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        assert config.history is not None
        self.normaliser = DenseNormaliser(config.history.num_dense)
        # One product over the concatenation is the sum of one projection per field.
        self.projection = nn.Linear(_event_width(config), config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self,
        embedded: Sequence[Float[Tensor, "E _"]],
        dense: Float32[Tensor, "E M"],
        content: Sequence[Float[Tensor, "E _"]] = (),
    ) -> Float[Tensor, "E D"]:
        given = [vectors.nan_to_num(0.0) for vectors in content]
        columns = torch.cat([*embedded, self.normaliser(dense), *given], dim=1)
        return self.norm(self.projection(columns))


class AgeEncoding(nn.Module):
    """A vector for the age of an event at an impression, piecewise linear in the age's logarithm.

    a = Σ_j max(0, 1 − |τ − c_j| / Δ) A_j,  τ = log(1 + age / 1 min), c_j evenly spaced by Δ

    Paper: event-based features (Meta engineering, 2024), timestamp encoding.
    Differs: it gives no equation; this one is ours.
    """

    knots: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        last = torch.log1p(torch.tensor(MAX_AGE_SECONDS / TIME_SCALE_SECONDS)).item()
        self.register_buffer("knots", torch.linspace(0.0, last, NUM_AGE_KNOTS), persistent=False)
        self.projection = nn.Linear(NUM_AGE_KNOTS, width, bias=False)

    def forward(self, age_us: Int64[Tensor, " P"]) -> Float[Tensor, "P width"]:
        """Encodes ages in microseconds; a negative one counts as none."""
        tau = log_time(age_us).float().clamp(max=self.knots[-1])
        weights = 1.0 - (tau[:, None] - self.knots).abs() / self.knots[1]
        return self.projection(weights.clamp(min=0.0))


def num_parameters(config: RankerConfig) -> int:
    """Parameters of `EventEmbedding`, in closed form."""
    return (_event_width(config) + 1) * config.width + 2 * config.width


def flops(config: RankerConfig) -> int:
    """Forward FLOPs of `EventEmbedding` for one event."""
    return 2 * _event_width(config) * config.width


def _event_width(config: RankerConfig) -> int:
    assert config.history is not None
    history = config.history
    given = history.num_dense + sum(vector.dim for vector in history.content)
    return sum(map(config.table_dim, history.fields)) + given
