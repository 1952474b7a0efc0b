"""What rankers and students say about each row."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class RankerOutput(NamedTuple):
    """What a ranker says about each row."""

    logits: Float[Tensor, "B Y"]
    """Natural log-odds of each task."""
    representation: Float[Tensor, "B R"]
    """Flattened tokens under the heads."""
    tower_logits: Float[Tensor, "B Y"]
    """What each head says: with a chain, log-odds of a conversion given a click; else `logits`."""
    window_logits: Float[Tensor, "B K Y"] | None
    """Log-odds within each attribution window, the longest last; None for a single window."""
    imputed_errors: Float[Tensor, "B C"] | None
    """Expected errors of the chain's conversions; None where none are asked for, and when serving.
    """
    next_event_errors: Float[Tensor, " B"] | None
    """Cross-entropy of each row's newest event; None where the batch does not ask for it."""


class StudentOutput(NamedTuple):
    """What a student says about each row; only `logits` is ever served."""

    logits: Float[Tensor, "B Y"]
    """Serving log-odds (ŷ_S)."""
    representation: Float[Tensor, "B R"]
    """Flattened tokens under the heads."""
    distill_logits: Float[Tensor, "B Y"]
    """Log-odds that learn from the teacher's soft labels (ŷ_D)."""
    adapted_distill_logits: Float[Tensor, "B Y"] | None
    """Log-odds that learn from the adapted soft labels (ŷ_D2); None without an adapter."""
    tower_logits: Float[Tensor, "B Y"]
    """As `RankerOutput` has them."""
    window_logits: Float[Tensor, "B K Y"] | None
    """As `RankerOutput` has them."""
    imputed_errors: Float[Tensor, "B C"] | None
    """As `RankerOutput` has them."""
    next_event_errors: Float[Tensor, " B"] | None
    """As `RankerOutput` has them."""
    aligned: Float[Tensor, "B V"] | None = None
    """The representation in the space of the teacher's; None without an alignment loss."""
