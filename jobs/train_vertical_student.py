"""Train one vertical student, distilled from its domain student, beside its undistilled twin.

Reads the packed examples, `teacher_scores/<domain student>` and the parent's checkpoints. Writes
`models/<student>/judged` (with the twin in it). Guarantees: a missing score masks the distillation
loss and is never imputed.

    python -m jobs.train_vertical_student --config var/runs/<run>/config.json \
        --student <domain>-<vertical>
"""

from __future__ import annotations

from jobs.command import JobSummary, main
from jobs.config import RunConfig
from jobs.errors import ConfigError
from jobs.family import verticals
from jobs.training.students import train_student, vertical_plan


def run(config: RunConfig, student: str) -> JobSummary:
    """Train the student of a vertical."""
    known = verticals(config.contract)
    if student not in known:
        raise ConfigError(f"--student: unknown vertical {student!r}; the verticals are {known}")
    return train_student(config, vertical_plan(config, student))


if __name__ == "__main__":
    main(run, __doc__, "student")
