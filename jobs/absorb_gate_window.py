"""Let the accepted family learn the gate window: one more pass, every setting unchanged.

Reads the judged checkpoints. Writes `models/<model>/final`, the versions that are promoted, so
that what serves the next day has learnt this one, and `metrics_absorbed.json`. Gate `absorbed` (5)
is progressive validation: every label is predicted before it is learnt, and the gate refuses a
pass that did harm on the way, predictions that were miscalibrated, and weights that are not finite.

    python -m jobs.absorb_gate_window --config var/runs/<run>/config.json
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch

from jobs import tracking
from jobs.command import JobSummary, main, write_json
from jobs.config import RunConfig
from jobs.errors import GateFailed
from jobs.family import TWIN, stage_folder, teacher_name
from jobs.gating import gate as hold
from jobs.pack_examples import open_packed
from jobs.training import trainee
from jobs.training.bars import drawn
from jobs.training.checkpoints import copy_checkpoint, load_checkpoint, load_model, read_card
from jobs.training.evaluation import GateRows, gate_rows, judge
from jobs.training.inputs import Packed
from jobs.training.reader import Reader
from jobs.training.representations import ENCODER, load_encoder, save_encoder
from jobs.training.scoring import predict
from jobs.training.segments import Segment, gate_segment
from jobs.training.side_by_side import side_by_side
from jobs.training.students import (
    StudentPlan,
    student_card,
    student_plans,
    student_reader,
    teacher_scores,
    twin_reader,
)
from jobs.training.teacher import TeacherJob, teacher_reader
from jobs.training_settings import Trial
from model.ranker import Student

METRICS = "metrics_absorbed.json"

Watched = list[tuple[np.ndarray, np.ndarray]]
"""Rows and probabilities, in the order of learning."""


def run(config: RunConfig) -> JobSummary:
    """Train every model over the gate window and judge the outcome."""
    import pandas as pd

    from validation.frames import ABSORBED

    packed = open_packed(config)
    gate = gate_segment(config.plan)
    # Before anything starts threads of its own: the processes are forked. They cannot read Delta.
    with drawn(config.run_folder):
        students = side_by_side(
            [
                partial(_absorb_student, config, plan, _reader(config, plan, packed), gate)
                for plan in student_plans(config)
            ],
            config.resources,
        )
    torch.set_num_threads(config.resources.worker_threads)
    records = [*_absorb_teacher(config, packed, gate), *chain.from_iterable(students)]
    write_json(config.run_folder / METRICS, records)
    for record in records:
        figures = {
            f"{k}_{record['task']}": record[k] for k in ("ne", "calibration", "versus_value")
        }
        mlflow_run = tracking.find_child(config, record["model"])
        mlflow_run.metrics({f"progressive/{name}": value for name, value in figures.items()})
    verdict = hold(
        config, "absorbed", {"models": pd.DataFrame(records, columns=pd.Index(ABSORBED))}
    )
    if not verdict.passed:
        raise GateFailed(verdict.reason)
    return JobSummary(
        job="absorb_gate_window",
        inputs=packed.inputs,
        rows={"learnt": int(packed.matured(gate.start, gate.end).any(axis=1).sum())},
        details={"gate": verdict.summary(), "models": len({r["model"] for r in records})},
    )


def _absorb_teacher(config: RunConfig, packed: Packed, gate: Segment) -> list[dict[str, Any]]:
    from jobs.training.ray_loop import read_watched, train_on_ray, watched_folder

    name = teacher_name(config)
    judged = stage_folder(config, name, "judged")
    job = TeacherJob(
        name="teacher-absorbs",
        segments=(gate,),
        trial=Trial(**read_card(judged).trial),
        parent=str(judged),
        # A worker that dies starts the window again, so that every row is watched.
        checkpoint_steps=sys.maxsize,
        watch=True,
    )
    shutil.rmtree(watched_folder(config, job.name), ignore_errors=True)
    ((folder, _),) = train_on_ray(config, job)
    final = stage_folder(config, name, "final")
    copy_checkpoint(folder, final)
    encoder = load_encoder(config.run_folder / "models" / name / ENCODER)
    if encoder is not None:
        save_encoder(final / ENCODER, encoder)
    watched = read_watched(watched_folder(config, job.name))
    return _records(config, name, teacher_reader(config, packed), gate, watched)


def _reader(config: RunConfig, plan: StudentPlan, packed: Packed) -> Reader:
    teacher, _ = teacher_scores(config, plan, packed)
    return student_reader(config, plan, packed, teacher)


def _absorb_student(
    config: RunConfig, plan: StudentPlan, reader: Reader, gate: Segment
) -> list[dict[str, Any]]:
    judged = stage_folder(config, plan.name, "judged")
    final = stage_folder(config, plan.name, "final")
    watched: Watched = []
    for source, target in ((judged, final), (judged / TWIN, final / TWIN)):
        held = load_checkpoint(source)
        distilled = source == judged
        card = student_card(config, plan, reader, Trial(**held.card.trial), distilled=distilled)
        card, learner = trainee.from_checkpoint(card, plan.settings.training, held, reader.device)
        learner.watched = watched if distilled else None
        own = reader if distilled else twin_reader(reader)
        card, _ = trainee.train(card, learner, own, [gate])
        trainee.save(target, card, learner)
    return _records(config, plan.name, reader, gate, watched)


def _records(
    config: RunConfig, name: str, reader: Reader, segment: Segment, watched: Watched
) -> list[dict[str, Any]]:
    """Figures of one model for the gate, a record per task.

    What it predicted while it learnt is held against the judged model, which stood still.
    """
    gate = gate_rows(reader, segment)
    final = load_model(stage_folder(config, name, "final"))
    judged = load_model(stage_folder(config, name, "judged"))
    weights = [tensor for tensor in final.state_dict().values() if tensor.is_floating_point()]
    finite = [float(torch.isfinite(tensor).float().mean()) for tensor in weights]
    finite.append(float(np.isfinite(predict(final, reader, gate.rows)).mean()))
    predictions = {
        "model": _in_order(gate, watched),
        "judged": predict(judged, reader, gate.rows),
    }
    tasks = list((final.ranker if isinstance(final, Student) else final).config.tasks)
    figures = judge(name, tasks, gate, predictions, config.gates, "judged", by_domain=False)
    return [{**figure, "finite_ratio": min(finite)} for figure in figures]


def _in_order(gate: GateRows, watched: Watched) -> np.ndarray:
    """Watched probabilities in the order of the gate's rows."""
    rows = np.concatenate([rows for rows, _ in watched])
    probabilities = np.concatenate([values for _, values in watched])
    order = np.argsort(rows)
    assert np.all(np.diff(rows[order]) > 0), "every row is learnt once"
    at = order[np.searchsorted(rows[order], gate.rows)]
    assert np.array_equal(rows[at], gate.rows), "every judged row is learnt"
    return probabilities[at]


if __name__ == "__main__":
    main(run, __doc__)
