"""Configurations of how a row reads its latest events, one `kind` each."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from model.frozen import Frozen


class TargetAttentionConfig(Frozen):
    """Target attention; its sizes are those of the history."""

    kind: Literal["target_attention"] = "target_attention"
    """Which way of reading this is."""
    matches: bool = False
    """Whether an event is marked where it shares a value with the row: a field of both that points
    into one table."""


class DinConfig(Frozen):
    """Deep Interest Network: how an event is weighed by the candidate."""

    kind: Literal["din"] = "din"
    """Which way of reading this is."""
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Hidden widths of the activation unit."""
    activation: Literal["dice", "prelu"] = "dice"
    """Activation of its hidden layers. With Dice the loss of a row depends on the other rows of a
    worker's batch, so workers no longer add up to one; a score never does."""


class HstuConfig(Frozen):
    """HSTU: a stack of pointwise attention over a history."""

    kind: Literal["hstu"] = "hstu"
    """Which way of reading this is."""
    num_layers: PositiveInt
    """Stacked layers."""
    num_heads: PositiveInt
    """Attention heads (H)."""
    head_dim: PositiveInt
    """Width of a head's queries, keys and values (d_h)."""
    num_time_buckets: PositiveInt = 128
    """Learned biases for the logarithm of the time between two events."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of a layer's output dropped in training, before its last projection."""


Downstream = Annotated[TargetAttentionConfig | DinConfig | HstuConfig, Field(discriminator="kind")]
"""One of the ways to read a row's latest events, told apart by its `kind`."""
