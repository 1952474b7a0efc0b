"""Judge the teacher on the gate window, against the champion or, on a first run, against counting.

Reads the packed examples, the judged checkpoint, the opponent's, and the baselines. Writes
`metrics_teacher.json` and `reliability_teacher.json` in the run's folder, figures and plots to
MLflow, and the verdict of gate `teacher` (3). Guarantees: neither model has seen the gate window;
the exit code is the gate's.

    python -m jobs.judge_teacher --config var/runs/<run>/config.json
"""

from __future__ import annotations

import numpy as np
import torch

from jobs import tracking
from jobs.command import JobSummary, main, write_json
from jobs.config import RunConfig
from jobs.errors import GateFailed
from jobs.family import opponent_folder, stage_folder, teacher_name
from jobs.fit_baselines import read_baselines
from jobs.gating import gate as hold
from jobs.gating import model_frames
from jobs.pack_examples import open_packed
from jobs.training import plots
from jobs.training.checkpoints import load_model
from jobs.training.evaluation import gate_rows, judge, reliability
from jobs.training.reader import Reader
from jobs.training.scoring import predict
from jobs.training.segments import gate_segment
from jobs.training.teacher import teacher_reader

METRICS = "metrics_teacher.json"
RELIABILITY = "reliability_teacher.json"


def run(config: RunConfig) -> JobSummary:
    """Score, compare, and let the gate decide."""
    torch.set_num_threads(config.resources.num_workers * config.resources.worker_threads)
    packed = open_packed(config)
    name = teacher_name(config)
    reader = teacher_reader(config, packed)
    gate = gate_rows(reader, gate_segment(config.plan))
    judged = load_model(stage_folder(config, name, "judged"))
    predictions = {
        "model": predict(judged, reader, gate.rows),
        **read_baselines(config, reader, gate),
    }
    opponent = add_opponent(config, name, reader, gate.rows, predictions)
    records = judge(
        name, packed.spec.tasks, gate, predictions, config.gates, opponent, by_domain=True
    )
    write_json(config.run_folder / METRICS, records)
    curves = reliability(name, packed.spec.tasks, gate, predictions, opponent)
    write_json(config.run_folder / RELIABILITY, curves)
    log_figures(config, name, records)
    child = tracking.find_child(config, name)
    child.figure(plots.reliability(curves), "reliability.png")
    child.figure(plots.ne_by_slice(records), "ne_by_slice.png")
    verdict = hold(config, "teacher", model_frames("teacher", records))
    if not verdict.passed:
        raise GateFailed(verdict.reason)
    overall = [record for record in records if record["slice_kind"] == "overall"]
    return JobSummary(
        job="judge_teacher",
        inputs=packed.inputs,
        rows={"judged": len(gate.rows)},
        details={
            "gate": verdict.summary(),
            "opponent": opponent,
            "ne": {record["task"]: record["ne"] for record in overall},
        },
    )


def add_opponent(
    config: RunConfig,
    name: str,
    reader: Reader,
    rows: np.ndarray,
    predictions: dict[str, np.ndarray],
) -> str:
    """Add the opponent's predictions, if there is one.

    Returns:
        `champion`, or `log_odds` where no family of that name has served.
    """
    folder = opponent_folder(config, name)
    if folder is None:
        return "log_odds"
    predictions["champion"] = predict(load_model(folder), reader, rows)
    return "champion"


def log_figures(config: RunConfig, name: str, records: list[dict]) -> None:
    """Log a model's figures on the gate window."""
    figures = {}
    for record in records:
        place = f"gate/{record['slice']}"
        for kind in ("ne", "auc", "gauc", "calibration"):
            figures[f"{place}/{kind}_{record['task']}"] = record[kind]
        figures[f"{place}/versus_{record['opponent']}_{record['task']}"] = record["versus_value"]
    tracking.find_child(config, name).metrics(figures)


if __name__ == "__main__":
    main(run, __doc__)
