"""Train one domain student, distilled from the teacher, beside its undistilled twin.

Reads the packed examples, `teacher_scores/<teacher>` and the parent's checkpoints. Writes
`models/<student>/judged` (with the twin in it) and the student's own scores, by which it teaches
the vertical students. Guarantees: a missing score masks the distillation loss and is never
imputed; every score it gives is out of sample.

    python -m jobs.train_domain_student --config var/runs/<run>/config.json --student <domain>
"""

from __future__ import annotations

from jobs.command import JobSummary, main
from jobs.config import RunConfig
from jobs.errors import ConfigError
from jobs.training.students import domain_plan, train_student


def run(config: RunConfig, student: str) -> JobSummary:
    """Train the student of a domain."""
    if student not in config.contract.domains:
        raise ConfigError(
            f"--student: unknown domain {student!r}; "
            f"the domains are {list(config.contract.domains)}"
        )
    return train_student(config, domain_plan(config, student))


if __name__ == "__main__":
    main(run, __doc__, "student")
