"""A model on its way: made fresh or from its parent, trained over segments, saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs.command import log
from jobs.config import RunConfig
from jobs.errors import ConfigError
from jobs.training.bars import Steps
from jobs.training.checkpoints import (
    Card,
    Checkpoint,
    build_model,
    grown,
    load_checkpoint,
    save_checkpoint,
)
from jobs.training.loop import Learner, NotFinite, Progress
from jobs.training.reader import Piece, Reader
from jobs.training.segments import Segment
from jobs.training_settings import Training, Trial
from model.config import RankerConfig
from model.optim import WeightAverage, build_optimizers
from model.ranker import Ranker, Student

_SCALE_ROWS = 20_000
"""At most this many rows are looked at for the scale of dense features."""
_SCALE_HISTORIES = 2_000
"""At most this many histories are looked at for the scale of event features."""


@dataclass(frozen=True)
class SegmentResult:
    """What a model predicted of a segment before learning it."""

    ends: datetime
    sums: list[list[float]]
    """As `Progress.stacked` orders them: labels, positives, losses, predicted events, per task, and
    of next events their number and losses."""
    num_rows: int = field(default=0, compare=False)
    """Rows that were learnt, after a resumption if there was one."""
    seconds: float = field(default=0.0, compare=False)
    """What they took."""

    @property
    def num_labels(self) -> list[float]:
        """Labels per task."""
        return self.sums[0]

    @property
    def ne(self) -> list[float]:
        """Normalised entropy per task; NaN where undefined."""
        return Progress.of(self.sums).ne()

    @property
    def calibration(self) -> list[float]:
        """Predicted over observed events per task; NaN where undefined."""
        return Progress.of(self.sums).calibration()

    @property
    def next_event_loss(self) -> float:
        """Mean cross-entropy of next events; NaN where none were foretold."""
        return Progress.of(self.sums).next_event_loss()

    @property
    def rows_per_second(self) -> float:
        """Examples a second; NaN where none were learnt."""
        return self.num_rows / self.seconds if self.num_rows else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """For a job's summary."""
        told = {"ends": self.ends.isoformat(), "ne": self.ne, "calibration": self.calibration}
        loss = self.next_event_loss
        return told if np.isnan(loss) else {**told, "next_event_loss": loss}


def recent_ne(results: Sequence[SegmentResult]) -> float:
    """By which a trial is chosen: NE of the last day's labels, predicted before they were learnt.

    Segments that reach into the last 24 hours are added up, because the last one alone may be a
    few hours of few rows; then the mean over tasks. Infinite where it is undefined for all tasks.
    """
    since = results[-1].ends - timedelta(days=1)
    recent = np.sum([result.sums for result in results if result.ends > since], axis=0)
    ne = np.array(Progress.of(recent.tolist()).ne())
    return float(np.nanmean(ne)) if np.isfinite(ne).any() else float("inf")


def blank_card(
    config: RunConfig, name: str, ranker: RankerConfig, reader: Reader, trial: Trial
) -> Card:
    """The card of a model that has learnt nothing yet."""
    spec = reader.packed.spec
    return Card(
        name=name,
        ranker=ranker.model_dump(mode="json"),
        categorical=spec.categorical,
        dense=spec.dense,
        vocabulary_version=spec.vocabulary_version,
        evicted=spec.evicted,
        table_digests={table.name: spec.table_digests[table.name] for table in ranker.tables},
        trained_until=None,
        trial=trial.model_dump(),
        warmup_steps=0,
        run_id=config.run.run_id,
    )


def fresh(
    card: Card, training: Training, reader: Reader, segments: Sequence[Segment]
) -> tuple[Card, Learner]:
    """A new model: dense features scaled, heads at the base rates of the first labels.

    Raises:
        ConfigError: The segments have no label of this model.
    """
    learnt = {segment: reader.rows(segment)[0] for segment in segments}
    filled = [segment for segment in segments if len(learnt[segment])]
    if not filled:
        raise ConfigError(
            f"{card.name}: a new model needs labels to learn; none of its rows matured between "
            f"{segments[0].start} and {segments[-1].end}; train it from an earlier day on"
        )
    model = build_model(card, training.seed)
    ranker = model.ranker if isinstance(model, Student) else model
    rows = np.concatenate([learnt[segment] for segment in filled])
    sample = reader.batch(_spread(rows, _SCALE_HISTORIES))
    ranker.fit_normalisers(
        torch.from_numpy(reader.packed.dense[_spread(rows, _SCALE_ROWS)]),
        None if sample.history is None else sample.history.dense,
    )
    rates = [
        _base_rates(reader, filled, ranker.config, window) for window in range(reader.num_windows)
    ]
    model.set_prior(torch.stack(rates) if reader.num_windows > 1 else rates[0])
    steps = sum(reader.num_steps(segment) for segment in segments)
    card = replace(card, warmup_steps=int(training.warmup_ratio * steps))
    return card, _learner(card, training, model.to(reader.device))


def from_checkpoint(
    card: Card, training: Training, checkpoint: Checkpoint, device: str
) -> tuple[Card, Learner]:
    """A model that goes on from a checkpoint, its tables grown to the card's vocabulary.

    Raises:
        ConfigError: The checkpoint is of another shape, or its vocabulary is not an earlier one.
    """
    held = grown(checkpoint, card)
    card = replace(
        held.card,
        vocabulary_version=card.vocabulary_version,
        evicted=card.evicted,
        table_digests=card.table_digests,
        run_id=card.run_id,
        distillation=card.distillation,
    )
    model = build_model(card, training.seed)
    model.load_state_dict(held.weights)
    learner = _learner(card, training, model.to(device))
    learner.optimizers.dense.load_state_dict(held.dense_state)
    learner.optimizers.sparse.load_state_dict(held.sparse_state)
    for name, average in learner.average.averages.items():
        average.copy_(held.averages[name])
    learner.num_steps = card.num_steps
    return card, learner


def start(
    card: Card,
    training: Training,
    reader: Reader,
    segments: Sequence[Segment],
    parent: Path | None,
) -> tuple[Card, Learner]:
    """A model at the start of a run: from its parent, or fresh where it has none.

    Raises:
        ConfigError: The parent is of another shape, or its vocabulary is not an earlier one.
    """
    if parent is None:
        return fresh(card, training, reader, segments)
    held = load_checkpoint(parent)
    card, learner = from_checkpoint(card, training, held, reader.device)
    rows = {table.name: table.num_rows for table in held.card.ranker_config.tables}
    reassigned = reader.packed.reassigned_tables(rows, held.card.table_digests)
    if reassigned:
        raise ConfigError(
            f"{card.name}: the vocabulary must extend the parent's; found other values in its rows "
            f"of {reassigned}; bring back the vocabulary table that the parent was trained with, "
            "or start a new family under another contract name"
        )
    return replace(card, parent=str(parent), position={}), learner


def keep_nothing(card: Card, learner: Learner, result: SegmentResult) -> None:
    """What `train` does after a segment unless told otherwise."""


def learn(card: Card, learner: Learner, reader: Reader, piece: Piece, world: int) -> None:
    """Learn a batch; one that cannot be learnt is kept in the run's folder.

    Args:
        card: What the model is.
        learner: The model.
        reader: Whose batch it is.
        piece: The batch, or this worker's part of it.
        world: Workers.

    Raises:
        ConfigError: The loss or its gradient is not finite; the message names the file.
    """
    try:
        learner.learn(piece, world)
    except NotFinite as error:
        packed, rows = reader.packed, piece.rows
        name = f"{card.name}-step-{learner.num_steps}-row-{rows[0]}.npz"
        path = packed.folder.parent / "failed_batches" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            rows=rows,
            impression_id=np.array(packed.impression_ids().take(pa.array(rows)).to_pylist()),
            dense=packed.dense[rows],
            categorical=packed.categorical[rows],
            labels=piece.labels.cpu().numpy(),
            mask=piece.mask.cpu().numpy(),
        )
        raise ConfigError(f"{error}; the batch is kept in {path}") from None


def train(
    card: Card,
    learner: Learner,
    reader: Reader,
    segments: Sequence[Segment],
    on_segment: Callable[[Card, Learner, SegmentResult], None] = keep_nothing,
) -> tuple[Card, list[SegmentResult]]:
    """Train over segments in one process.

    Args:
        card: What the model is.
        learner: The model.
        reader: Its batches.
        segments: What to learn, in order.
        on_segment: Called after each segment.

    Returns:
        The card afterwards, and what was predicted of each segment before it was learnt.
    """
    results = []
    total = sum(reader.num_steps(segment) for segment in segments)
    steps = Steps(reader.packed.folder.parent, card.name, total)
    for segment in segments:
        learner.progress = Progress.none(learner.num_tasks)
        began, num_rows = time.perf_counter(), 0
        for piece in reader.pieces(segment, rank=0, world=1):
            learn(card, learner, reader, piece, world=1)
            num_rows += len(piece.rows)
            steps.advance()
        seconds = time.perf_counter() - began
        card = replace(card, trained_until=segment.end.isoformat(), num_steps=learner.num_steps)
        sums = learner.progress.stacked().tolist()
        result = SegmentResult(segment.end, sums, num_rows, seconds)
        log_result(card.name, result)
        results.append(result)
        on_segment(card, learner, result)
    return card, results


def save(folder: Path, card: Card, learner: Learner) -> None:
    """Write a checkpoint of a model."""
    save_checkpoint(folder, learner.bare, learner.average.averages, learner.optimizers, card)


def log_result(name: str, result: SegmentResult) -> None:
    """Tell how a segment went; one without a label says nothing."""
    if not any(result.num_labels):
        return
    ne = " ".join(f"{value:.4f}" for value in result.ne)
    log.info("%s: until %s, NE %s", name, f"{result.ends:%Y-%m-%d %H:%M} UTC", ne)


def _learner(card: Card, training: Training, model: Ranker | Student) -> Learner:
    trial = Trial(**card.trial)
    ranker = model.ranker if isinstance(model, Student) else model
    ranker.training_precision = getattr(torch, training.precision)
    return Learner(
        model=model,
        optimizers=build_optimizers(model, trial.lr_dense, trial.lr_sparse, trial.weight_decay),
        trial=trial,
        warmup_steps=card.warmup_steps,
        average=WeightAverage(model, training.average_rows / training.batch_size),
        clip_norm=training.clip_norm,
        num_tasks=len(card.ranker_config.tasks),
        seed=training.seed,
        debiasing=training.debiasing,
        distillation_warmup_steps=card.distillation_warmup_steps,
        next_event=training.next_event,
    )


def _spread(rows: np.ndarray, number: int) -> np.ndarray:
    """At most so many rows, evenly over time."""
    return rows[np.linspace(0, len(rows) - 1, min(number, len(rows))).astype(np.int64)]


def _base_rates(
    reader: Reader, segments: Sequence[Segment], ranker: RankerConfig, window: int
) -> torch.Tensor:
    """Smoothed share of positives within a window by the model's domain and task.

    Each over the first segment that teaches the task: labels of a long window come days after the
    first. Until then the task has no score, so nothing is told of those labels before.
    """
    num_tasks = len(reader.tasks)
    rates = torch.full((len(ranker.domains), num_tasks), torch.nan)
    for segment in segments:
        rows, mask = reader.rows(segment)
        labels, windows = reader.labels(rows), reader.windows(rows)
        if windows is not None:
            mask = mask & (windows == window)
        domain = reader.domains[reader.packed.domain[rows].astype(np.int64)]
        taught = mask.any(axis=0) & rates.isnan().all(dim=0).numpy()
        for index in range(len(ranker.domains)):
            own = mask & (domain == index)[:, None]
            positives = np.where(own, labels, 0.0).sum(axis=0)
            found = torch.from_numpy((positives + 1.0) / (own.sum(axis=0) + 10.0)).float()
            rates[index] = torch.where(torch.from_numpy(taught), found, rates[index])
        if not rates.isnan().any():
            break
    return rates.nan_to_num(_UNTAUGHT_RATE)


_UNTAUGHT_RATE = 0.1
"""Base rate of a task that no label teaches, as one without rows would have."""
