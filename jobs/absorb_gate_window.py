"""Let the accepted family learn the gate window: one more pass, every setting unchanged.

Reads the judged checkpoints. Writes `models/<model>/final`, the versions that are promoted, so
that what serves the next day has learnt this one. Gate `absorbed` (5) refuses weights that are not
finite, and predictions that were miscalibrated when they were made, before each update.

    python -m jobs.absorb_gate_window --config var/runs/<run>/config.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs import tracking
from jobs.command import JobSummary, main
from jobs.config import RunConfig, Trial
from jobs.errors import GateFailed
from jobs.family import TWIN, stage_folder, teacher_name
from jobs.gating import gate as hold
from jobs.pack_examples import open_packed
from jobs.training import trainee
from jobs.training.checkpoints import copy_checkpoint, load_checkpoint, load_model, read_card
from jobs.training.inputs import Packed
from jobs.training.reader import Reader
from jobs.training.scoring import predict
from jobs.training.segments import Segment, gate_segment
from jobs.training.students import (
    StudentPlan,
    student_card,
    student_plans,
    student_reader,
    teacher_scores,
)
from jobs.training.teacher import TeacherJob, teacher_reader
from jobs.training.trainee import SegmentResult


def run(config: RunConfig) -> JobSummary:
    """Train every model over the gate window and judge the outcome."""
    import pandas as pd

    from validation.frames import ABSORBED

    torch.set_num_threads(config.resources.worker_threads)
    packed = open_packed(config)
    gate = gate_segment(config.plan)
    records = _absorb_teacher(config, packed, gate)
    for plan in student_plans(config):
        records += _absorb_student(config, plan, packed, gate)
    verdict = hold(config, "absorbed", {"models": pd.DataFrame(records, columns=list(ABSORBED))})
    for record in records:
        mlflow_run = tracking.find_child(config, record["model"])
        mlflow_run.metrics(
            {f"gate_window/calibration_before_update_{record['task']}": record["calibration"]}
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
    from jobs.training.ray_loop import train_on_ray

    name = teacher_name(config)
    judged = stage_folder(config, name, "judged")
    job = TeacherJob(
        name="teacher-absorbs",
        segments=(gate,),
        trial=Trial(**read_card(judged).trial),
        parent=str(judged),
    )
    ((folder, result),) = train_on_ray(config, job)
    final = stage_folder(config, name, "final")
    copy_checkpoint(folder, final)
    return _records(config, name, final, teacher_reader(config, packed), gate, result)


def _absorb_student(
    config: RunConfig, plan: StudentPlan, packed: Packed, gate: Segment
) -> list[dict[str, Any]]:
    teacher, _ = teacher_scores(config, plan, packed)
    reader = student_reader(config, plan, packed, teacher)
    judged = stage_folder(config, plan.name, "judged")
    final = stage_folder(config, plan.name, "final")
    results: dict[Path, list[SegmentResult]] = {}
    for source, target in ((judged, final), (judged / TWIN, final / TWIN)):
        held = load_checkpoint(source)
        card = student_card(
            config, plan, reader, Trial(**held.card.trial), distilled=source == judged
        )
        card, learner = trainee.from_checkpoint(card, plan.settings.training, held)
        card, results[source] = trainee.train(card, learner, reader, [gate])
        trainee.save(target, card, learner)
    return _records(config, plan.name, final, reader, gate, results[judged][0])


def _records(
    config: RunConfig,
    name: str,
    final: Path,
    reader: Reader,
    gate: Segment,
    result: SegmentResult,
) -> list[dict[str, Any]]:
    """Figures of one model for the gate, a record per task."""
    rows, mask = reader.rows(gate)
    model = load_model(final)
    weights = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    finite = [float(torch.isfinite(tensor).float().mean()) for tensor in weights]
    finite.append(float(np.isfinite(predict(model, reader, rows)).mean()))
    packed = reader.packed
    limits = config.gates
    records = []
    for t, task in enumerate(read_card(final).ranker_config.tasks):
        positives = float(np.nansum(packed.labels[rows][:, reader.tasks][mask[:, t], t]))
        # Of a sum of rare events the relative standard error is 1 / sqrt(n).
        half = 1.96 / np.sqrt(max(positives, 1.0))
        calibration = result.calibration[t]
        number = int(result.num_labels[t])
        enough = number >= limits.min_slice_rows and positives >= limits.min_slice_positives
        records.append(
            {
                "model": name,
                "task": task,
                "rows": number,
                "positives": int(positives),
                "judged": bool(enough),
                "finite_ratio": min(finite),
                "calibration": calibration,
                "calibration_low": calibration / (1.0 + half),
                "calibration_high": calibration * (1.0 + half),
            }
        )
    return records


if __name__ == "__main__":
    main(run, __doc__)
