"""What a ranker reads: rows, and the timelines that they share."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from model.config import RankerConfig
from model.embedding_config import ContentConfig
from model.embeddings import Bag
from model.representations.stored import StoredRepresentations


class RowEvents(NamedTuple):
    """The events that each row reads, row after row: P pairs of a row and an event."""

    row: Int64[Tensor, " P"]
    event: Int64[Tensor, " P"]
    offsets: Int64[Tensor, " num_offsets"]
    """First pair of each row and, last, P."""


@dataclass(frozen=True)
class Timelines:
    """Timelines of a batch: every segment once, and what each row reads of its own.

    Segment u owns the events offsets[u] to offsets[u + 1] − 1, in the order in which they became
    known. Row b reads the events start[b] to end[b] − 1 of segment[b]; end[b] is its cut-off, and
    what lies at or after it was not known at the impression. All are places in this batch.

    Args:
        categorical: Table indexes of the G event fields.
        dense: The M dense event columns, none of which depends on a row; NaN where missing.
        event_us: When each event happened, in microseconds since 1970 UTC.
        offsets: First event of each segment and, last, their number (U + 1 numbers).
        segment: Segment of each row.
        start: First event that each row reads.
        end: The event after the last that each row reads.
        row_us: When each row was shown, in microseconds since 1970 UTC.
        content: Given vectors of each event, in the order of the config; NaN where missing.

    Raises:
        ValueError: If the offsets are no partition of the events, or a row's window lies outside
            its segment.
    """

    categorical: Int64[Tensor, "E G"]
    dense: Float32[Tensor, "E M"]
    event_us: Int64[Tensor, " E"]
    offsets: Int64[Tensor, " num_offsets"]
    segment: Int64[Tensor, " B"]
    start: Int64[Tensor, " B"]
    end: Int64[Tensor, " B"]
    row_us: Int64[Tensor, " B"]
    content: tuple[Float32[Tensor, "E _"], ...] = ()

    def __post_init__(self) -> None:
        _same_number(self, "event", ("categorical", "dense", "event_us"))
        if wrong := [len(v) for v in self.content if len(v) != len(self.event_us)]:
            raise ValueError(
                f"history.content: a vector for each of the {len(self.event_us)} events; found "
                f"{wrong}; build all from the same events"
            )
        _same_number(self, "row", ("segment", "start", "end", "row_us"))
        offsets, num_events = self.offsets, len(self.event_us)
        if len(offsets) == 0 or not bool(
            ((offsets.diff() >= 0).all()) & (offsets[0] == 0) & (offsets[-1] == num_events)
        ):
            raise ValueError(
                "history.offsets: offsets must start at 0, never fall, and end at the number of "
                f"events ({num_events}); found {offsets.tolist()[:8]}…; cumulate the lengths"
            )
        if not bool(((self.segment >= 0) & (self.segment < len(offsets) - 1)).all()):
            raise ValueError(
                f"history.segment: a row's segment must lie in [0, {len(offsets) - 1}); found "
                f"{int(self.segment.min())} to {int(self.segment.max())}; number the segments of "
                "this batch from 0"
            )
        first, last = offsets[self.segment], offsets[self.segment + 1]
        wrong = (self.start < first) | (self.end < self.start) | (self.end > last)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                "history.start, history.end: a row's window must lie in its segment; found "
                f"[{int(self.start[row])}, {int(self.end[row])}) in [{int(first[row])}, "
                f"{int(last[row])}) at row {row}; count windows from the batch's first event"
            )

    @property
    def num_rows(self) -> int:
        """Rows that the timelines belong to."""
        return len(self.segment)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Timelines":
        """Applies a function to every tensor, for example a transfer."""
        names = [field.name for field in fields(self) if field.name != "content"]
        mapped = {name: function(getattr(self, name)) for name in names}
        return Timelines(**mapped, content=tuple(map(function, self.content)))

    def row_events(self, max_events: int) -> RowEvents:
        """The latest events of each row's window, at most so many."""
        length = (self.end - self.start).clamp(max=max_events)
        offsets = torch.cat([length.new_zeros(1), length.cumsum(0)])
        row = torch.arange(self.num_rows, device=length.device).repeat_interleave(length)
        event = torch.arange(len(row), device=length.device) + (self.end - offsets[1:])[row]
        return RowEvents(row, event, offsets)


def _same_number(timelines: Timelines, what: str, names: tuple[str, ...]) -> None:
    counts = {name: getattr(timelines, name).shape[0] for name in names}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"history: {', '.join(names)} must have one line per {what}; found {counts}; "
            f"build all from the same {what}s"
        )


@dataclass(frozen=True)
class Batch:
    """Rows to rank.

    Args:
        categorical: Table indexes of the C fields, in the order of `RankerConfig.fields`.
        dense: The N dense columns; NaN where missing.
        domain: Index of each row's domain in `RankerConfig.domains`.
        history: The rows' timelines, or None for a ranker that reads none.
        bags: The values of every bag, in the order of `RankerConfig.bags`.
        content: Given vectors in the order of `RankerConfig.content`; NaN where missing.
        user_vector: The stored vector of each row's user, NaN where there is none; None for a
            ranker that reads none.
        representations: What a teacher kept of the users' earlier rows; None likewise.

    Raises:
        ValueError: If there is no row, or the parts disagree on the number of rows.
    """

    categorical: Int64[Tensor, "B C"]
    dense: Float32[Tensor, "B N"]
    domain: Int64[Tensor, " B"]
    history: Timelines | None = None
    bags: tuple[Bag, ...] = ()
    content: tuple[Float32[Tensor, "B _"], ...] = ()
    user_vector: Float32[Tensor, "B U"] | None = None
    representations: StoredRepresentations | None = None

    def __post_init__(self) -> None:
        counts = {
            "categorical": self.categorical.shape[0],
            "dense": self.dense.shape[0],
            "domain": self.domain.shape[0],
        }
        if self.history is not None:
            counts["history"] = self.history.num_rows
        counts |= {f"bags[{i}]": len(bag.offsets) - 1 for i, bag in enumerate(self.bags)}
        counts |= {f"content[{i}]": len(vectors) for i, vectors in enumerate(self.content)}
        if self.user_vector is not None:
            counts["user_vector"] = len(self.user_vector)
        if self.representations is not None:
            counts["representations"] = self.representations.num_rows
        if len(set(counts.values())) > 1 or self.num_rows == 0:
            raise ValueError(
                "batch: all parts must have the same number of rows, at least one; found "
                f"{counts}; build the parts from the same, non-empty rows"
            )

    @property
    def num_rows(self) -> int:
        """Rows to rank (B)."""
        return self.domain.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Applies a function to every tensor, for example a transfer."""
        return Batch(
            function(self.categorical),
            function(self.dense),
            function(self.domain),
            self.history.map(function) if self.history else None,
            tuple(Bag(function(bag.values), function(bag.offsets)) for bag in self.bags),
            tuple(function(vectors) for vectors in self.content),
            None if self.user_vector is None else function(self.user_vector),
            self.representations.map(function) if self.representations else None,
        )


def check_batch(batch: Batch, config: RankerConfig) -> None:
    """Checks a batch against the ranker that is to read it; meant for the data loader.

    It reads every index once, so it belongs where batches are made, not in the training step.

    Raises:
        ValueError: If a column is missing, an index lies outside its table or the domains, or a
            row reads more than `history.max_events` events or
            `representation_history.max_length` representations.
    """
    rows = {table.name: table.num_rows for table in config.tables}
    _check_columns("batch.dense", batch.dense, config.num_dense)
    _check_indexes("batch.categorical", batch.categorical, [rows[f.table] for f in config.fields])
    _check_indexes("batch.domain", batch.domain[:, None], [len(config.domains)])
    _check_number("batch.bags", len(batch.bags), [bag.name for bag in config.bags])
    for bag, values in zip(config.bags, batch.bags, strict=True):
        _check_indexes(f"batch.bags.{bag.name}", values.values[:, None], [rows[bag.table]])
    _check_content("batch.content", batch.content, config.content)
    _check_stored(batch, config)
    if (batch.history is None) != (config.history is None):
        raise ValueError(
            "batch.history: a batch has a history exactly when the ranker reads one; found "
            f"{'none' if batch.history is None else 'one'}; give the loader this ranker's config"
        )
    if batch.history is None or config.history is None:
        return
    events = batch.history
    _check_columns("batch.history.dense", events.dense, config.history.num_dense)
    tables = [rows[field.table] for field in config.history.fields]
    _check_indexes("batch.history.categorical", events.categorical, tables)
    _check_content("batch.history.content", events.content, config.history.content)
    if (longest := int((events.end - events.start).max())) > config.history.max_events:
        raise ValueError(
            f"batch.history.start: a row reads at most {config.history.max_events} events; "
            f"found {longest}; start each row's window at its newest events"
        )


def _check_stored(batch: Batch, config: RankerConfig) -> None:
    for name, given, wanted in (
        ("user_vector", batch.user_vector, config.user_vector),
        ("representations", batch.representations, config.representation_history),
    ):
        if (given is None) != (wanted is None):
            raise ValueError(
                f"batch.{name}: a batch has it exactly when the ranker reads it; found "
                f"{'none' if given is None else 'one'}; give the loader this ranker's config"
            )
    if batch.user_vector is not None and config.user_vector is not None:
        _check_columns("batch.user_vector", batch.user_vector, config.user_vector.dim)
    if batch.representations is None or config.representation_history is None:
        return
    stored, wanted = batch.representations, config.representation_history
    _check_columns("batch.representations", stored.values, wanted.dim)
    if (longest := int(stored.offsets.diff().max())) > wanted.max_length:
        raise ValueError(
            f"batch.representations: a row reads at most {wanted.max_length}; found {longest}; "
            "give each row its latest ones"
        )


def _check_content(
    path: str, content: tuple[Tensor, ...], configs: tuple[ContentConfig, ...]
) -> None:
    _check_number(path, len(content), [config.name for config in configs])
    for config, vectors in zip(configs, content, strict=True):
        _check_columns(f"{path}.{config.name}", vectors, config.dim)


def _check_number(path: str, number: int, names: list[str]) -> None:
    if number != len(names):
        raise ValueError(
            f"{path}: the ranker reads {names}; found {number}; give the loader this ranker's "
            "config"
        )


def _check_columns(path: str, values: Tensor, num_columns: int) -> None:
    if values.shape[1] != num_columns:
        raise ValueError(
            f"{path}: the ranker reads {num_columns} columns; found {values.shape[1]}; "
            "build the batch in the order of the ranker's config"
        )


def _check_indexes(path: str, indexes: Tensor, limits: list[int]) -> None:
    _check_columns(path, indexes, len(limits))
    if indexes.numel() == 0:
        return
    lowest, highest = indexes.amin(0).tolist(), indexes.amax(0).tolist()
    for column, (low, high, limit) in enumerate(zip(lowest, highest, limits, strict=True)):
        if low < 0 or high >= limit:
            raise ValueError(
                f"{path}[{column}]: indexes must lie in [0, {limit}); found {low} to {high}; "
                "encode with the vocabulary that the ranker was built or extended for"
            )
