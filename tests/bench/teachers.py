"""Teachers of a finished run's recipe, one per seed, and what they predict on the way."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jobs.config import RunConfig
from jobs.training import trainee
from jobs.training.checkpoints import load_model
from jobs.training.evaluation import GateRows
from jobs.training.reader import Reader
from jobs.training.scoring import predict
from jobs.training.segments import Segment
from jobs.training.teacher import TeacherJob
from model import metrics
from tests.bench.sweep import SEEDS, relative_difference


def predictions(
    config: RunConfig, reader: Reader, spans: Mapping[str, Segment], rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Train the recipe's teacher with every seed.

    Args:
        config: The run's configuration; of several trials the first.
        reader: The teacher's batches.
        spans: What is learnt, one after another, by the name of the model that has learnt it.
        rows: Packed rows to predict.

    Returns:
        By name: probabilities, seeds x rows x tasks.
    """
    told: dict[str, list[np.ndarray]] = {name: [] for name in spans}
    for seed in SEEDS:
        teacher = config.teacher.model_copy(update={"seed": seed})
        seeded = config.model_copy(update={"teacher": teacher})
        job = TeacherJob("bench", tuple(spans.values()), teacher.trials[0], parent=None)
        card, learner = job.start(seeded, reader)
        for name, segment in spans.items():
            card, _ = trainee.train(card, learner, reader, [segment])
            with tempfile.TemporaryDirectory() as folder:
                # Served is the average of the weights, as a checkpoint holds it.
                trainee.save(Path(folder) / "served", card, learner)
                told[name].append(predict(load_model(Path(folder) / "served"), reader, rows))
    return {name: np.stack(each).astype(np.float64) for name, each in told.items()}


def differences(
    gate: GateRows, told: Mapping[str, np.ndarray], own: str, other: str
) -> Iterator[dict[str, Any]]:
    """A line per task: NE of both, means over seeds, and their relative difference.

    Args:
        gate: The rows that were predicted.
        told: From `predictions`.
        own: Name of the one.
        other: Name of the other.
    """
    for t, task in enumerate(gate.spec.tasks):
        at = gate.mask[:, t]
        y = gate.labels[at, t]
        mine, theirs = told[own][:, at, t], told[other][:, at, t]
        yield {
            "task": task,
            "rows": int(at.sum()),
            "positives": int(y.sum()),
            f"ne_{other}": _ne(y, theirs),
            f"ne_{own}": _ne(y, mine),
            "difference": relative_difference(y, mine, theirs, gate.users[at]),
        }


def _ne(y: np.ndarray, told: np.ndarray) -> float:
    return round(float(np.mean([metrics.ne(y, p) for p in told])), 5)
