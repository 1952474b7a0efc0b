"""Configurations of what a student is told beside probabilities: representations and vectors."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from model.frozen import Frozen

Bits = Literal[4, 8]
"""Bits of a stored number."""


class AutoencoderConfig(Frozen):
    """What compresses a teacher's activations."""

    input_dim: PositiveInt
    """Width of the activations (R)."""
    hidden: tuple[PositiveInt, ...] = (64,)
    """Hidden widths of the encoder; the decoder's are the same in reverse."""
    prefixes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (8, 16, 32)
    """Nested widths that each reconstruct by themselves; the last is that of the latent (V)."""
    bits: Bits = 4
    """Bits of a stored number of the latent."""

    @property
    def latent_dim(self) -> int:
        """Width of the latent (V)."""
        return self.prefixes[-1]

    @model_validator(mode="after")
    def _check(self) -> "AutoencoderConfig":
        check_prefixes("prefixes", self.prefixes)
        return self


class RepresentationHistoryConfig(Frozen):
    """A user's earlier representations and how they become tokens."""

    dim: PositiveInt
    """Width of a stored representation (V)."""
    max_length: PositiveInt
    """Latest representations that a row reads (L)."""
    pooling: Literal["mean", "din"] = "mean"
    """Whether all count alike, or each as much as the row's own features say (DIN)."""
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (16,)
    """Hidden widths of the activation unit; only DIN has one."""
    num_tokens: PositiveInt = 1
    """Tokens that they become."""


class UserVectorConfig(Frozen):
    """A stored vector of the user and how it becomes tokens."""

    dim: PositiveInt
    """Width of the vector (U)."""
    num_tokens: PositiveInt = 1
    """Tokens that it becomes."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the normalised vector dropped in training."""


class AlignmentConfig(Frozen):
    """A loss that draws a student's representation towards the teacher's."""

    dim: PositiveInt
    """Width of the teacher's stored representation (V)."""
    weight: float = Field(gt=0.0)
    """Weight beside the loss of the labels."""
    loss: Literal["cosine", "mean_squared"] = "cosine"
    """Whether directions are compared, or numbers."""


def check_prefixes(path: str, prefixes: tuple[int, ...]) -> None:
    """Refuses nested widths that do not grow.

    Raises:
        ValueError: If they do not.
    """
    if list(prefixes) != sorted(set(prefixes)):
        raise ValueError(
            f"{path}: nested widths grow, each wider than the one before; found {list(prefixes)}; "
            "sort them and leave repeated ones out"
        )
