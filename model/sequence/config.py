"""Configurations of the baselines that read a history."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from model.frozen import Frozen


class DinConfig(Frozen):
    """Deep Interest Network: how an event is weighed by the candidate."""

    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Hidden widths of the activation unit."""
    activation: Literal["dice", "prelu"] = "dice"
    """Activation of its hidden layers."""


class HstuConfig(Frozen):
    """HSTU: a stack of pointwise attention over a history."""

    num_layers: PositiveInt
    """Stacked layers."""
    num_heads: PositiveInt
    """Attention heads (H)."""
    head_dim: PositiveInt
    """Width of a head's queries, keys and values (d_h)."""
    max_events: PositiveInt
    """Longest history of a row (N): attention is divided by it, and positions differ by less."""
    num_time_buckets: PositiveInt = 128
    """Learned biases for the logarithm of the time between two events."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of a layer's output dropped in training, before its last projection."""
