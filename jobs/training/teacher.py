"""What the teacher is and one piece of its training, as every Ray worker is told it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from jobs.config import RunConfig
from jobs.family import teacher_name
from jobs.training import trainee
from jobs.training.checkpoints import Card
from jobs.training.inputs import Packed
from jobs.training.loop import Learner
from jobs.training.networks import ranker_config
from jobs.training.reader import Reader
from jobs.training.segments import Segment
from jobs.training_settings import Trial

CHECKPOINT_STEPS = 500
"""Batches between checkpoints within a segment."""


@dataclass(frozen=True)
class TeacherJob:
    """Train the teacher over segments, from a parent or afresh."""

    name: str
    """Unique within the run and equal for its retries, so that a retry resumes."""
    segments: tuple[Segment, ...]
    trial: Trial
    parent: str | None
    """Folder of the checkpoint to start from."""
    checkpoint_steps: int = CHECKPOINT_STEPS
    watch: bool = False
    """Whether workers keep what they predicted of each row before it was learnt."""

    def to_json(self) -> str:
        """As text, for a worker."""
        return json.dumps(
            {
                "name": self.name,
                "segments": [
                    [None if s.start is None else s.start.isoformat(), s.end.isoformat()]
                    for s in self.segments
                ],
                "trial": self.trial.model_dump(),
                "parent": self.parent,
                "checkpoint_steps": self.checkpoint_steps,
                "watch": self.watch,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> TeacherJob:
        """From text."""
        values = json.loads(text)
        segments = tuple(
            Segment(
                None if start is None else datetime.fromisoformat(start),
                datetime.fromisoformat(end),
            )
            for start, end in values["segments"]
        )
        trial = Trial(**values["trial"])
        return cls(**{**values, "segments": segments, "trial": trial})

    def card(self, config: RunConfig, reader: Reader) -> Card:
        """The card of a teacher that has learnt nothing yet."""
        spec = reader.packed.spec
        ranker = ranker_config(
            config.teacher.network,
            config.timeline,
            spec,
            spec.domains,
            spec.tasks,
            reader.packed.content_dim,
        )
        return trainee.blank_card(config, teacher_name(config), ranker, reader, self.trial)

    def start(self, config: RunConfig, reader: Reader) -> tuple[Card, Learner]:
        """The teacher as this job finds it."""
        parent = None if self.parent is None else Path(self.parent)
        card = self.card(config, reader)
        return trainee.start(card, config.teacher, reader, self.segments, parent)


def teacher_reader(config: RunConfig, packed: Packed) -> Reader:
    """The teacher's batches: all rows, domains and tasks."""
    spec = packed.spec
    network = config.teacher.network
    events = network.num_events
    return Reader(
        packed=packed,
        tasks=list(range(len(spec.tasks))),
        keep=None,
        domains=np.arange(len(spec.domains)),
        batch_size=config.teacher.batch_size,
        max_events=config.timeline.num_events if events is None else events,
        whole_timelines=network.upstream is not None,
        content=network.content,
        zipper=network.zipper,
        device=config.resources.device,
    )
