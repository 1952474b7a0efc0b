"""Everything that a report says, gathered from a run's folder, the ledger and the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.config import RunConfig
from jobs.report import figures
from jobs.report.data import Data, read_data
from jobs.report.lineage import Lineage, read_lineage
from jobs.report.models import Model, Record, read_models
from jobs.report.runs import Gate, Job, Outcome, find_outcome, read_gates, read_jobs
from jobs.report.tables import Table, Vocabulary, read_tables, read_vocabulary


@dataclass(frozen=True)
class Facts:
    """What is known of a run."""

    config: RunConfig
    outcome: Outcome
    jobs: list[Job]
    gates: list[Gate]
    models: list[Model]
    data: Data
    tables: list[Table]
    vocabulary: list[Vocabulary]
    lineage: Lineage
    written: datetime
    """When the facts were gathered, UTC."""

    @property
    def teacher(self) -> Model:
        """The teacher."""
        return self.models[0]

    @property
    def family(self) -> Model:
        """The family as it serves, every row scored by its own student."""
        return self.models[-1]

    @property
    def members(self) -> list[Model]:
        """Teacher and students."""
        return self.models[:-1]

    @property
    def vocabulary_version(self) -> int | None:
        """Version of the vocabulary."""
        return next((table.version for table in self.tables if table.name == "vocabulary"), None)

    @property
    def unjudged(self) -> list[Record]:
        """Figures of too few rows to judge."""
        return [r for m in self.models for r in [*m.overall, *m.slices] if not r.judged]

    @property
    def remarks(self) -> list[str]:
        """What a reviewer should know before reading on."""
        found = []
        if self.teacher.learnt == 0:
            found.append(
                "No label matured between what the parent had learnt and the gate window, so the "
                "models that were judged have the parent's weights." + _absorbed(self.teacher)
            )
        off = [name for gate in self.gates for name in gate.disabled]
        if off:
            found.append(f"Switched off by configuration: {', '.join(off)}.")
        if not self.config.plan.promotable and self.outcome.kind != "registered":
            found.append(self.config.plan.reason)
        return found

    @property
    def started(self) -> float:
        """Start of the first job, Unix seconds; 0 if none ran."""
        return min((job.started for job in self.jobs if job.ran), default=0.0)

    @property
    def started_at(self) -> datetime:
        """Start of the first job, UTC."""
        return datetime.fromtimestamp(self.started, UTC)

    @property
    def busy_seconds(self) -> float:
        """Wall time in which some job was at work."""
        return sum(high - low for low, high in busy_spans(self.jobs))

    @property
    def peak_memory_bytes(self) -> int:
        """Largest peak of any job."""
        return max((job.peak_memory_bytes for job in self.jobs), default=0)

    @property
    def judged(self) -> int | None:
        """Rows of the gate window that the teacher was judged on."""
        return max((record.rows for record in self.teacher.overall), default=None)


def gather(config: RunConfig) -> Facts:
    """Gather what a run left, however far it came."""
    jobs = read_jobs(config)
    gates = read_gates(config)
    lineage = read_lineage(config)
    champion = None if lineage.serving is None else lineage.serving.number
    tables = read_tables(config, jobs)
    return Facts(
        config=config,
        outcome=find_outcome(config, jobs, gates, champion),
        jobs=jobs,
        gates=gates,
        models=read_models(config, jobs),
        data=read_data(config, tables),
        tables=tables,
        vocabulary=read_vocabulary(config, tables),
        lineage=lineage,
        written=datetime.now(UTC),
    )


def _absorbed(teacher: Model) -> str:
    """What learning the gate window gave the teacher; nothing if it never came to that."""
    changes = [
        f"{figures.change(record.versus.value)} ({record.task})"
        for record in teacher.absorbed
        if not math.isnan(record.versus.value)
    ]
    if not changes:
        return ""
    return (
        " Predicting each label before learning it, the pass over the window changed the "
        f"teacher's NE by {', '.join(changes)}."
    )


def busy_spans(jobs: Sequence[Job]) -> list[tuple[float, float]]:
    """Spans of time in which some job was at work, in order."""
    spans: list[tuple[float, float]] = []
    for job in sorted((job for job in jobs if job.ran), key=lambda job: job.started):
        low, high = job.started, job.started + job.seconds
        if spans and low <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], high))
        else:
            spans.append((low, high))
    return spans
