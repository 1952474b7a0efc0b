"""Score impressions with the teacher, each by the checkpoint that precedes it.

Reads the packed examples, the parent and the checkpoints of the run's segments. Writes
`teacher_scores/<teacher>`, one commit per day of impression. Guarantees: every score is out of
sample; rows before the first checkpoint have none.

    python -m jobs.score_teacher --config var/runs/<run>/config.json
"""

from __future__ import annotations

import torch

from jobs.command import JobSummary, main, read_summary
from jobs.config import RunConfig
from jobs.family import parent_folder, segment_folder, teacher_name
from jobs.pack_examples import open_packed
from jobs.training.scoring import score_out_of_sample
from jobs.training.teacher import teacher_reader


def run(config: RunConfig) -> JobSummary:
    """Score all rows that follow the parent or the first segment."""
    torch.set_num_threads(config.resources.num_workers * config.resources.worker_threads)
    packed = open_packed(config)
    name = teacher_name(config)
    trained = read_summary(config, "train_teacher").details
    parent = parent_folder(config, name)
    checkpoints = [] if parent is None else [parent]
    checkpoints += [
        segment_folder(config, name, trained["chosen_trial"], index)
        for index in range(trained["segments"])
    ]
    days, version = score_out_of_sample(config, name, teacher_reader(config, packed), checkpoints)
    return JobSummary(
        job="score_teacher",
        inputs=packed.inputs,
        outputs={f"teacher_scores/{name}": version},
        rows={"scored": sum(days.values()), "unscored": packed.num_rows - sum(days.values())},
        details={"days": len(days)},
    )


if __name__ == "__main__":
    main(run, __doc__)
