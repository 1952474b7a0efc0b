"""What a teacher keeps beside probabilities, and how students read it: parts of `Recipe`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from jobs.settings import Settings
from model.representations.config import check_prefixes


class Representation(Settings):
    """How the teacher's representation of every scored impression is kept (LoopFM)."""

    prefixes: tuple[int, ...] = Field(default=(8, 16, 32), min_length=1)
    """Nested widths that each reconstruct by themselves; the last is how many numbers are kept."""
    bits: Literal[4, 8] = 4
    """Bits of a kept number."""
    hidden: tuple[int, ...] = (64,)
    """Hidden widths of the encoder that compresses."""
    lr: float = Field(default=2e-3, gt=0)
    """Adam's learning rate for the encoder."""
    steps: int = Field(default=400, ge=1)
    """Steps of a new encoder."""
    warm_steps: int = Field(default=100, ge=0)
    """Steps of every later one, which goes on from the one before so that what it keeps stays
    comparable from day to day."""
    batch_size: int = Field(default=256, ge=1)
    max_rows: int = Field(default=20_000, ge=1)
    """At most so many of a checkpoint's latest rows are looked at."""
    lookback_days: int = Field(default=7, ge=1)
    """Students read what was kept of so many days before an impression."""
    same_day: bool = False
    """Whether students also read impressions of the same day. A run scores a day after it has
    ended, so that serving can only do it where the teacher scores impressions as they come."""
    search_by: str | None = None
    """A categorical feature by which a student searches the user's earlier impressions: it reads
    those alone that have the row's own value of it, as SIM (arXiv 2006.05639) searches a history;
    all of the user's if left out. An unknown value finds none."""
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Representation:
        check_prefixes("representation.prefixes", self.prefixes)
        return self

    @property
    def dim(self) -> int:
        """Numbers that are kept (V)."""
        return self.prefixes[-1]


class UserVectors(Settings):
    """Vectors of users from the teacher's upstream, kept in `user_embeddings` (LLaTTE)."""

    high_value_events: tuple[str, ...] = ()
    """Event types on whose arrival a user's vector is made anew; the end of a day does it too."""
    lookback_days: int = Field(default=30, ge=1)
    """Students read a vector that is at most so many days old."""


class RepresentationReading(Settings):
    """How a student reads what the teacher kept of the user's earlier impressions."""

    length: int = Field(default=16, ge=1)
    """L: latest ones that are read."""
    pooling: Literal["mean", "din"] = "mean"
    """Whether all count alike, or each as much as the row's own features say."""
    hidden: tuple[int, ...] = Field(default=(16,), min_length=1)
    """Hidden widths of DIN's activation unit."""
    num_tokens: int = Field(default=1, ge=1)
    """Tokens that they become."""


class Alignment(Settings):
    """A loss that draws a student's representation towards the teacher's; nothing at serving."""

    weight: float = Field(default=0.1, gt=0)
    """Weight beside the loss of the labels."""
    loss: Literal["cosine", "mean_squared"] = "cosine"
    """Whether directions are compared, or numbers."""


class UserVectorReading(Settings):
    """How a student reads a user's vector."""

    num_tokens: int = Field(default=1, ge=1)
    """Tokens that it becomes."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the normalised vector dropped in training."""
