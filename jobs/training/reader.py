"""Batches of one model, read out of the packed arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from jobs.training.inputs import InputSpec, Packed
from jobs.training.segments import Segment
from jobs.vocabulary import OUT_OF_VOCABULARY
from model.batch import Batch


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
    window: Tensor | None = None
    """Window of each label, the longest last; None where labels have one window each."""

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
            window=moved(self.window),
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
        return replace(batch, domain=torch.from_numpy(self.domains)[batch.domain])

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
            piece = Piece(
                rows=taken,
                batch=_in_vocabulary(self.batch(taken), self.packed.spec),
                labels=torch.from_numpy(self.labels(taken)),
                mask=torch.from_numpy(mask),
                num_labels=_counts(masks[whole]),
                teacher=None if self.teacher is None else torch.from_numpy(self.teacher[taken]),
                num_scores=None if scored is None else _counts(masks[whole] & scored),
                window=None if windows is None else torch.from_numpy(windows),
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
    return replace(batch, categorical=known(batch.categorical, spec.categorical), history=history)


def _counts(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(mask.sum(axis=0).astype(np.float32))
