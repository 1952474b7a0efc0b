"""Train the teacher on Ray Train: one pass over new labels in time order, from its parent.

Reads the packed examples and the parent's checkpoint. Writes a checkpoint at the end of every
segment (a day, as a rule) below `ray/` in the run's folder, and the one to be judged as
`models/<teacher>/judged`. Guarantees: every label is learnt once, after it has been predicted;
the number of workers does not change the result; a killed worker resumes.

    python -m jobs.train_teacher --config var/runs/<run>/config.json
"""

from __future__ import annotations

from pathlib import Path

from jobs import tracking
from jobs.command import JobSummary, log, main
from jobs.config import RunConfig
from jobs.family import parent_folder, segment_folder, stage_folder, teacher_name
from jobs.pack_examples import open_packed
from jobs.training.checkpoints import copy_checkpoint, read_card
from jobs.training.reader import Reader
from jobs.training.segments import training_segments
from jobs.training.teacher import TeacherJob, teacher_reader
from jobs.training.trainee import SegmentResult, log_result, recent_ne, save, train
from jobs.training_settings import Trial


def run(config: RunConfig) -> JobSummary:
    """Train the teacher up to the gate window."""
    from jobs.training.ray_loop import train_on_ray

    packed = open_packed(config)
    name = teacher_name(config)
    segments = training_segments(config.plan, packed, config.contract.time_zone)
    reader = teacher_reader(config, packed)
    parent = parent_folder(config, name)
    trials = config.teacher.trials
    if parent is not None:
        trials = (Trial(**read_card(parent).trial),)
    tried: list[tuple[float, int, list[tuple[Path, SegmentResult]]]] = []
    for index, trial in enumerate(trials):
        job = TeacherJob(
            name=f"teacher-{index}",
            segments=tuple(segments),
            trial=trial,
            parent=None if parent is None else str(parent),
        )
        if parent is not None and not any(map(reader.num_steps, segments)):
            ends = [_stand_still(config, job, reader)]
        else:
            ends = train_on_ray(config, job)
        for _, result in ends:
            log_result(name, result)
        score = recent_ne([result for _, result in ends])
        if len(trials) > 1:
            log.info("%s: trial %d has NE %.4f on the last day", name, index, score)
        tried.append((score, index, ends))
    _, chosen, ends = min(tried, key=lambda entry: entry[:2])
    for index, (folder, _) in enumerate(ends):
        copy_checkpoint(folder, segment_folder(config, name, chosen, index))
    judged = stage_folder(config, name, "judged")
    copy_checkpoint(ends[-1][0], judged)
    card = read_card(judged)
    results = [result for _, result in ends]
    with tracking.child_run(config, name, "teacher") as mlflow_run:
        tracking.log_training(mlflow_run, config, card, config.teacher, packed, results)
        tags = {
            "trained_from": str(config.plan.trained_from),
            "trained_until": str(card.trained_until),
        }
        version, _ = tracking.register(mlflow_run, name, judged, "judged", tags)
        tracking.set_challenger(mlflow_run, name, version)
    return JobSummary(
        job="train_teacher",
        inputs=packed.inputs,
        rows={"learnt": int(sum(max(result.num_labels) for result in results))},
        details={
            "trained_until": card.trained_until,
            "steps": card.num_steps,
            "segments": len(results),
            "chosen_trial": chosen,
            "ne_before_update": results[-1].ne,
            "curve": [result.to_dict() for result in results],
            "trial": card.trial,
            "version": version,
            "workers": config.resources.num_workers,
        },
        mlflow_run=mlflow_run.id,
    )


def _stand_still(config: RunConfig, job: TeacherJob, reader: Reader) -> tuple[Path, SegmentResult]:
    """The parent, its tables grown, where nothing lies between it and the gate window."""
    card, learner = job.start(config, reader)
    card, results = train(card, learner, reader, job.segments)
    folder = config.run_folder / "ray" / f"{job.name}-stands-still"
    save(folder, card, learner)
    log.info("%s: nothing to learn before the gate window", card.name)
    return folder, results[-1]


if __name__ == "__main__":
    main(run, __doc__)
