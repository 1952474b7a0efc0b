"""Configuration of the GEM form of the sequence side: the upstream and InterFormer."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from model.frozen import Frozen


class BranchConfig(Frozen):
    """One of the parallel branches of the upstream: a time scale, or a family of events."""

    window: PositiveInt | None = None
    """Tokens that a token attends to, itself included; all before it if left out."""
    field: str | None = None
    """Event field that tells the family; all events if left out."""
    values: tuple[int, ...] = ()
    """Table indexes that the field has in events of this branch."""

    @model_validator(mode="after")
    def _check(self) -> "BranchConfig":
        if (self.field is None) != (not self.values):
            raise ValueError(
                "upstream.branches: a family is a field and its values; found field "
                f"{self.field!r} with values {list(self.values)}; give both or neither"
            )
        return self


class UpstreamConfig(Frozen):
    """The pyramid-parallel transformer over the whole timeline, which knows no candidate."""

    branches: Annotated[tuple[BranchConfig, ...], Field(min_length=1)]
    """The parallel branches (P)."""
    num_stages: PositiveInt
    """Stages; the branches merge after each, and the tokens get fewer before the next."""
    layers_per_stage: PositiveInt
    """Transformer layers of each branch between two merges (s)."""
    reduction: int = Field(default=2, ge=2)
    """Tokens that become one between two stages (r)."""
    ffn_hidden: PositiveInt
    """Hidden width of the feed-forward part of a layer."""
    num_summary_tokens: PositiveInt
    """Summary tokens of each branch (k)."""


class InterFormerConfig(Frozen):
    """The interleaving of both sides, one InterFormer layer around each interaction layer."""

    num_cls_tokens: PositiveInt = 4
    """Summary tokens of the row's features (m); the first ones lead the sequence as CLS tokens."""
    num_pma_tokens: PositiveInt = 2
    """Summary tokens that learned queries pool from the sequence."""
    num_recent_tokens: PositiveInt = 2
    """Latest tokens of the sequence that are summary tokens themselves."""
    max_events: PositiveInt
    """Latest events of a row in its sequence (T)."""
    gate: Literal["sigmoid", "tanh", "identity"] = "identity"
    """Activation of the gates."""
    flow: Literal["two_way", "ns_to_s", "s_to_ns", "separate", "single"] = "two_way"
    """Which side learns of the other in every layer; `single` has no sequence at all."""

    @property
    def num_sequence_tokens(self) -> int:
        """Summary tokens of the sequence."""
        if self.flow == "single":
            return 0
        return self.num_cls_tokens + self.num_pma_tokens + self.num_recent_tokens

    @model_validator(mode="after")
    def _check(self) -> "InterFormerConfig":
        if self.num_recent_tokens > self.num_cls_tokens:
            raise ValueError(
                "interformer.num_recent_tokens: at most num_cls_tokens, which stand in for events "
                f"that a row lacks; found {self.num_recent_tokens} with {self.num_cls_tokens} CLS "
                "tokens; take fewer recent tokens or more CLS tokens"
            )
        return self
