"""Batches of one model, read out of the packed arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from jobs.training.inputs import InputSpec, Packed
from jobs.training.next_events import next_events
from jobs.training.segments import Segment
from jobs.training.stored import Stored
from jobs.training_settings import NextEvent
from jobs.vocabulary import OUT_OF_VOCABULARY
from model.batch import Batch, Timelines
from model.config import FieldConfig, RankerConfig
from model.embeddings import Bag


@dataclass(frozen=True)
class Piece:
    """One worker's share of a global batch."""

    rows: np.ndarray
    batch: Batch
    labels: Tensor
    mask: Tensor
    num_labels: Tensor
    """Labels that count in the global batch, per task."""
    teacher: Tensor | None = None
    """Teacher probabilities, NaN where missing."""
    num_scores: Tensor | None = None
    """Labels that count and have a score in the global batch, per task."""
    users: Tensor | None = None
    """User of each row, by number."""
    window: Tensor | None = None
    """Window of each label, the longest last; None where labels have one window each."""
    num_next_events: Tensor | None = None
    """Events to foretell in the global batch; None where none are."""
    representation: Tensor | None = None
    """The teacher's representation of each row, NaN where missing; None where nobody asks."""
    num_representations: Tensor | None = None
    """Rows that count and have one in the global batch."""

    def to(self, device: str) -> Piece:
        """The same rows with every tensor on a device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return Piece(
            rows=self.rows,
            batch=self.batch.map(lambda tensor: tensor.to(device)),
            labels=self.labels.to(device),
            mask=self.mask.to(device),
            num_labels=self.num_labels.to(device),
            teacher=moved(self.teacher),
            num_scores=moved(self.num_scores),
            users=moved(self.users),
            window=moved(self.window),
            num_next_events=moved(self.num_next_events),
            representation=moved(self.representation),
            num_representations=moved(self.num_representations),
        )


@dataclass(frozen=True)
class Reader:
    """Reads the batches of one model out of the packed arrays."""

    packed: Packed
    tasks: list[int]
    """Columns of the packed labels, in the model's order."""
    keep: np.ndarray | None
    """Rows the model may see; all if None."""
    domains: np.ndarray
    """The model's domain index by packed domain index."""
    batch_size: int
    max_events: int
    teacher: np.ndarray | None = None
    """Teacher probabilities by packed row and model task."""
    whole_timelines: bool = False
    """Whether the model reads a timeline from its first event on."""
    content: bool = False
    """Whether the model reads vectors of content."""
    zipper: bool = False
    """Whether labels are learnt under the windows that their impressions were assigned."""
    next_event: NextEvent | None = None
    """What the model foretells of each row's newest event."""
    stored: Stored = field(default_factory=Stored)
    """What is read of what a teacher kept."""
    device: str = "cpu"
    """Where the model is, and so where its batches go."""

    def rows(self, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """Rows with a label that matured in a segment, in time order, and which labels did."""
        packed = self.packed
        mask = (
            packed.matured(segment.start, segment.end, zipper=True)
            if self.zipper
            else packed.matured(segment.start, segment.end)
        )[:, self.tasks]
        if self.keep is not None:
            mask = mask & self.keep[:, None]
        rows = np.flatnonzero(mask.any(axis=1))
        return rows, mask[rows]

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Labels of rows as they are learnt; NaN where unknown."""
        labels = self.packed.zipper_labels if self.zipper else self.packed.labels
        assert labels is not None, "Recipe asks for windows"
        return labels[rows][:, self.tasks]

    def windows(self, rows: np.ndarray) -> np.ndarray | None:
        """Windows of the labels, the longest last; None where labels have one window each."""
        if not self.zipper:
            return None
        assert self.packed.zipper_place is not None, "Recipe asks for windows"
        last = self.num_windows - 1
        return last - self.packed.zipper_place[rows][:, self.tasks].astype(np.int64)

    @property
    def num_windows(self) -> int:
        """Windows of the model's heads (K)."""
        spec = self.packed.spec
        return spec.num_windows([spec.tasks[task] for task in self.tasks]) if self.zipper else 1

    def served(self, rows: np.ndarray) -> np.ndarray:
        """Which labels the served heads learn, those of the longest window: bool, rows x tasks.

        Labels of shorter windows taught the model before the longest closes, so on their rows the
        model cannot be judged.
        """
        windows = self.windows(rows)
        if windows is None:
            return np.ones((len(rows), len(self.tasks)), bool)
        return windows == self.num_windows - 1

    def num_steps(self, segment: Segment) -> int:
        """Batches of a segment."""
        return -(-len(self.rows(segment)[0]) // self.batch_size)

    def batch(self, rows: np.ndarray) -> Batch:
        """Rows as the model's input, evicted values by their own rows.

        A checkpoint holds the out-of-vocabulary row there if they were evicted at its version, and
        what it has learnt of them if not.
        """
        batch = self.packed.batch(
            rows, self.max_events, whole=self.whole_timelines, content=self.content
        )
        return replace(
            batch,
            domain=torch.from_numpy(self.domains)[batch.domain],
            **self.stored.inputs(self.packed, rows),
        )

    def pieces(self, segment: Segment, rank: int, world: int, skip: int = 0) -> Iterator[Piece]:
        """A worker's share of each global batch: every `world`-th row.

        Args:
            segment: Labels to learn.
            rank: The worker.
            world: Workers.
            skip: Global batches that have been learnt before a resume.
        """
        rows, masks = self.rows(segment)
        for low in range(skip * self.batch_size, len(rows), self.batch_size):
            whole = slice(low, low + self.batch_size)
            scored = None if self.teacher is None else ~np.isnan(self.teacher[rows[whole]])
            taken, mask = rows[whole][rank::world], masks[whole][rank::world]
            if len(taken) == 0:
                # Fewer rows than workers: this one takes part with a row that counts for nothing.
                taken, mask = rows[whole][:1], np.zeros_like(masks[whole][:1])
            windows = self.windows(taken)
            batch = _in_vocabulary(self.batch(taken), self.packed.spec)
            num_next_events = None
            if self.next_event is not None:
                asked = next_events(self.packed, self.next_event, rows[whole], taken, mask)
                batch = replace(batch, next_events=asked.events)
                num_next_events = torch.tensor(float(asked.num_events))
            theirs = self.stored.own(rows[whole])
            piece = Piece(
                rows=taken,
                batch=batch,
                labels=torch.from_numpy(self.labels(taken)),
                mask=torch.from_numpy(mask),
                num_labels=_counts(masks[whole]),
                teacher=None if self.teacher is None else torch.from_numpy(self.teacher[taken]),
                num_scores=None if scored is None else _counts(masks[whole] & scored),
                users=torch.from_numpy(self.packed.user[taken]),
                window=None if windows is None else torch.from_numpy(windows),
                num_next_events=num_next_events,
                representation=None if theirs is None else self.stored.own(taken),
                num_representations=None if theirs is None else (~theirs.isnan().any(1)).sum(),
            )
            yield piece if self.device == "cpu" else piece.to(self.device)


def _in_vocabulary(batch: Batch, spec: InputSpec) -> Batch:
    """A batch to learn from: what it tells of evicted values is told of unknown ones."""
    if not spec.evicted:
        return batch

    def known(indexes: Tensor, tables: Sequence[str]) -> Tensor:
        evicted = [torch.tensor(spec.evicted.get(table, []), dtype=torch.int64) for table in tables]
        columns = zip(indexes.unbind(1), evicted, strict=True)
        masked = [torch.where(torch.isin(c, e), OUT_OF_VOCABULARY, c) for c, e in columns]
        return torch.stack(masked, dim=1)

    history = batch.history
    if history is not None:
        categorical = known(history.categorical, list(spec.event_fields.values()))
        history = replace(history, categorical=categorical)
    bags = tuple(
        Bag(known(bag.values[:, None], [name])[:, 0], bag.offsets)
        for bag, name in zip(batch.bags, spec.bags, strict=True)
    )
    categorical = known(batch.categorical, spec.categorical)
    return replace(batch, categorical=categorical, history=history, bags=bags)


def as_known(batch: Batch, config: RankerConfig) -> Batch:
    """A batch as a model with an earlier vocabulary reads it.

    A vocabulary only grows, so a row past the end of a table is a value admitted since: to this
    model it is out of vocabulary.
    """
    history = None if batch.history is None else events_as_known(batch.history, config)
    bags = tuple(
        Bag(_known(bag.values[:, None], [bag_config], config)[:, 0], bag.offsets)
        for bag, bag_config in zip(batch.bags, config.bags, strict=True)
    )
    categorical = _known(batch.categorical, config.fields, config)
    return replace(batch, categorical=categorical, history=history, bags=bags)


def events_as_known(history: Timelines, config: RankerConfig) -> Timelines:
    """Timelines as a model with an earlier vocabulary reads them."""
    if config.history is None:
        return history
    return replace(history, categorical=_known(history.categorical, config.history.fields, config))


def _known(indexes: Tensor, fields: Sequence[FieldConfig], config: RankerConfig) -> Tensor:
    rows = {table.name: table.num_rows for table in config.tables}
    ends = torch.tensor([rows[field.table] for field in fields])
    return torch.where(indexes < ends, indexes, OUT_OF_VOCABULARY)


def _counts(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(mask.sum(axis=0).astype(np.float32))
