"""Configuration of the user's timeline: its events, the downstream, and the long sequence."""

from pydantic import Field, PositiveInt, model_validator

from model.embedding_config import ContentConfig, FieldConfig
from model.frozen import Frozen, refuse_duplicates
from model.sequence.config import Downstream, TargetAttentionConfig
from model.sequence_config import InterFormerConfig, UpstreamConfig


class HistoryConfig(Frozen):
    """The user's timeline and how it is read.

    Alone it is the downstream: the candidate reads the latest events. The GEM form adds the
    upstream, which reads the whole timeline once for all impressions, and InterFormer.
    """

    fields: tuple[FieldConfig, ...]
    """Categorical columns of one event."""
    num_dense: int = Field(ge=0)
    """Dense columns of one event, for example the log of its value."""
    content: tuple[ContentConfig, ...] = ()
    """Given vectors of one event, for example a text embedding of its item."""
    num_heads: PositiveInt
    """Heads (H) of every attention; they divide the ranker's width."""
    num_summary_tokens: PositiveInt
    """Queries made from the candidate, and tokens that the history adds (S)."""
    max_events: PositiveInt
    """Latest events that a row reads (N)."""
    downstream: Downstream = TargetAttentionConfig()
    """How the candidate reads them, chosen by its `kind`."""
    upstream: UpstreamConfig | None = None
    """The long sequence; its batches hold timelines from their first event on."""
    interformer: InterFormerConfig | None = None
    """The interleaving with the row's features; without it they meet in the interaction stack."""
    next_event: str | None = None
    """Event field that the upstream learns to foretell of a row's newest event; none if left out.
    """

    @property
    def field_to_foretell(self) -> FieldConfig:
        """The event field of the next-event loss."""
        return next(field for field in self.fields if field.name == self.next_event)

    @property
    def marks_matches(self) -> bool:
        """Whether the downstream marks events that share a value with the row."""
        return isinstance(self.downstream, TargetAttentionConfig) and self.downstream.matches

    @property
    def num_tokens(self) -> int:
        """Tokens that the history adds to the row's own."""
        upstream = self.upstream
        long = len(upstream.branches) * upstream.num_summary_tokens if upstream else 0
        return self.num_summary_tokens + long

    @model_validator(mode="after")
    def _check(self) -> "HistoryConfig":
        refuse_duplicates(
            "history.fields and content", (each.name for each in (*self.fields, *self.content))
        )
        names = [field.name for field in self.fields]
        for branch in self.upstream.branches if self.upstream else ():
            if branch.field is not None and branch.field not in names:
                raise ValueError(
                    f"history.upstream.branches: a family's field must be one of {names}; found "
                    f"{branch.field!r}; correct the name"
                )
        if self.interformer and self.interformer.max_events > self.max_events:
            raise ValueError(
                f"history.interformer.max_events: at most history.max_events ({self.max_events}); "
                f"found {self.interformer.max_events}; shorten the sequence"
            )
        if self.next_event is not None and (self.upstream is None or self.next_event not in names):
            raise ValueError(
                "history.next_event: the upstream foretells one of the event fields "
                f"{names}; found {self.next_event!r} "
                f"{'with' if self.upstream else 'without'} an upstream; configure an upstream and "
                "correct the name, or leave next_event out"
            )
        if several := [field.name for field in self.fields if field.num_tokens > 1]:
            raise ValueError(
                f"history.fields: an event is one token; found {several} with more than one; "
                "leave num_tokens out"
            )
        if not self.fields and not self.content and self.num_dense == 0:
            raise ValueError(
                "history: an event needs at least one column; found no fields and num_dense 0; "
                "name a field, or leave history out"
            )
        return self
