"""The sequence side of a ranker: events, the downstream, and the long sequence beside it."""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from model import downstream, events, next_event, upstream
from model.batch import Timelines
from model.config import RankerConfig
from model.downstream import build_downstream
from model.embeddings import EmbeddingTables
from model.events import EventEmbedding
from model.next_event import NextEventHead, NextEvents
from model.streams import Stream
from model.target_attention import TargetAttention
from model.upstream import Upstream


class Encoded(NamedTuple):
    """Timelines as the upstream leaves them, branch by branch; every row reads its part."""

    tokens: list[Float[Tensor, "_ D"]]
    streams: list[Stream]


class History(nn.Module):
    """Summary tokens of each row's timeline, and the events that they were made of.

    x   = EventEmbedding(events), each event once
    out = [Downstream(X, x), Upstream(x)],  the downstream target attention, DIN or HSTU

    Paper: LLaTTE (arXiv 2601.20083): an upstream that knows no candidate, and a target-aware
        downstream over the latest events.
    Differs: both are trained together in one model; the upstream may also learn to foretell.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        assert config.history is not None
        self.fields = config.history.fields
        self.events = EventEmbedding(config)
        self.attention = build_downstream(config)
        self.upstream = Upstream(config.history, config.width) if config.history.upstream else None
        self.next_event = NextEventHead(config) if config.history.next_event else None

    def embed(self, tables: EmbeddingTables, history: Timelines) -> Float[Tensor, "E D"]:
        """Every event of the batch, once."""
        embedded = tables(self.fields, history.categorical)
        return self.events(embedded, history.dense, history.content)

    def encode(self, events: Float[Tensor, "E D"], history: Timelines) -> Encoded | None:
        """What the upstream makes of the timelines, once for all rows; None without one."""
        return None if self.upstream is None else Encoded(*self.upstream.encode(events, history))

    def forward(
        self,
        tokens: Float[Tensor, "B F D"],
        events: Float[Tensor, "E D"],
        encoded: Encoded | None,
        history: Timelines,
        categorical: Int64[Tensor, "B C"],
    ) -> Float[Tensor, "B S D"]:
        if isinstance(self.attention, TargetAttention):
            summary = self.attention(tokens, events, history, categorical)
        else:
            summary = self.attention(tokens, events, history)
        if self.upstream is None or encoded is None:
            return summary
        return torch.cat([summary, self.upstream.read(*encoded, history)], dim=1)

    def foretell(
        self,
        encoded: Encoded | None,
        history: Timelines,
        tables: EmbeddingTables,
        events: NextEvents,
    ) -> Float[Tensor, " B"]:
        """Cross-entropy of each row's newest event, by the upstream's read just before it."""
        assert self.upstream is not None and self.next_event is not None and encoded is not None
        before = history.end - (history.end > history.start).long()
        summary = self.upstream.read(*encoded, replace(history, end=before))
        return self.next_event(summary, tables, events)


def num_parameters(config: RankerConfig) -> int:
    """Parameters of a `History`, in closed form; 0 without one."""
    history = config.history
    if history is None:
        return 0
    long = upstream.num_parameters(history, config.width) if history.upstream else 0
    long += next_event.num_parameters(config) if history.next_event else 0
    return events.num_parameters(config) + downstream.num_parameters(config) + long


def flops(config: RankerConfig, num_events: float, rows_per_event: float) -> float:
    """Forward FLOPs of a `History` for one row.

    Args:
        config: The ranker's configuration.
        num_events: Events of the row, or their mean over rows; the downstream reads at most
            `max_events` of them.
        rows_per_event: Rows of a batch that read the same event, on average.
    """
    history = config.history
    if history is None:
        return 0.0
    per_event = events.flops(config) + downstream.flops_per_event(config)
    shared = num_events * per_event
    own = downstream.flops_per_row(config, min(num_events, history.max_events))
    if history.upstream:
        shared += upstream.flops_per_segment(history, config.width, round(num_events))
        own += upstream.flops_per_row(history, config.width, round(num_events))
    return shared / rows_per_event + own


def user_flops(config: RankerConfig, num_events: int) -> float:
    """Forward FLOPs of one user's vector: `Ranker.represent_user` over so many events."""
    history = config.history
    assert history is not None and history.upstream is not None, "only an upstream knows users"
    own = num_events * events.flops(config)
    own += upstream.flops_per_segment(history, config.width, num_events)
    return own + upstream.flops_per_row(history, config.width, num_events)


def upstream_ratio(
    teacher: RankerConfig, online: RankerConfig, num_events: int, num_online_events: int
) -> float:
    """How many times the sequence FLOPs of one online row go into one user's vector.

    Paper: LLaTTE (arXiv 2601.20083): more than 45 times the online model's sequence FLOPs.
    Differs: none.

    Args:
        teacher: The ranker whose upstream writes the vectors.
        online: The ranker that reads them.
        num_events: Events of a user's timeline.
        num_online_events: Events that the online ranker reads of it.

    Raises:
        ValueError: If the online ranker reads no events.
    """
    if online.history is None:
        raise ValueError(
            "upstream_ratio: the online ranker's sequence is compared; found one without a "
            "history; give a ranker that reads events"
        )
    return user_flops(teacher, num_events) / flops(online, num_online_events, rows_per_event=1.0)
