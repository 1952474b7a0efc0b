"""Judge every student on the gate window: against the champion's, and against its own twin.

Reads the packed examples, all judged checkpoints, the opponents', the baselines and the teacher's
scores. Writes `metrics_family.json`, `metrics_twins.json` and `reliability_family.json` in the
run's folder, figures and plots to MLflow, and the verdict of gate `family` (4). Guarantees: the
exit code is the gate's.

    python -m jobs.judge_family --config var/runs/<run>/config.json
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from jobs import tracking
from jobs.command import JobSummary, main, write_json
from jobs.config import RunConfig
from jobs.errors import GateFailed
from jobs.family import TWIN, opponent_folder, stage_folder, teacher_name
from jobs.fit_baselines import read_baselines
from jobs.gating import gate as hold
from jobs.gating import model_frames
from jobs.judge_teacher import add_opponent, log_figures
from jobs.pack_examples import open_packed
from jobs.training import plots
from jobs.training.checkpoints import load_model
from jobs.training.evaluation import (
    compare_twin,
    gate_rows,
    judge,
    reliability,
    with_joint_bounds,
)
from jobs.training.inputs import Packed
from jobs.training.scoring import predict, read_scores
from jobs.training.segments import gate_segment
from jobs.training.students import StudentPlan, student_plans, student_reader
from jobs.training.teacher import teacher_reader

METRICS = "metrics_family.json"
TWINS = "metrics_twins.json"
RELIABILITY = "reliability_family.json"


def run(config: RunConfig) -> JobSummary:
    """Score, compare, and let the gate decide."""
    torch.set_num_threads(config.resources.num_workers * config.resources.worker_threads)
    packed = open_packed(config)
    pool = _Pool(config, packed)
    records: list[dict[str, Any]] = []
    twins: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for plan in student_plans(config):
        own, beside, shape = _judge_student(config, plan, packed, pool)
        records += own
        twins += beside
        curves += shape
    records = pool.records() + records
    twins = with_joint_bounds(twins)
    write_json(config.run_folder / METRICS, records)
    write_json(config.run_folder / TWINS, twins)
    write_json(config.run_folder / RELIABILITY, curves)
    verdict = hold(config, "family", model_frames("family", records, twins))
    if not verdict.passed:
        raise GateFailed(verdict.reason)
    return JobSummary(
        job="judge_family",
        inputs=packed.inputs,
        rows={"judged": len(pool.gate.rows)},
        details={"gate": verdict.summary(), "verdict": _verdict(records, twins)},
    )


class _Pool:
    """The family as it serves: each row by its vertical's student, or by its domain's.

    A task that a vertical student does not predict is served by the domain student.
    """

    def __init__(self, config: RunConfig, packed: Packed) -> None:
        self.config = config
        self.tasks = packed.spec.tasks
        reader = teacher_reader(config, packed)
        self.gate = gate_rows(reader, gate_segment(config.plan))
        shape = (len(self.gate.rows), len(self.tasks))
        self.model = np.full(shape, np.nan, np.float32)
        self.opponent = np.full(shape, np.nan, np.float32)
        self.twin = np.full(shape, np.nan, np.float32)
        self.beside = read_baselines(config, reader, self.gate)
        self.champions = 0
        earlier = opponent_folder(config, teacher_name(config))
        self._earlier_teacher = (
            None if earlier is None else predict(load_model(earlier), reader, self.gate.rows)
        )

    def add(
        self, plan: StudentPlan, rows: np.ndarray, predictions: dict[str, np.ndarray], opponent: str
    ) -> None:
        """Take in a student's predictions; domain students come first and are overwritten."""
        at = np.searchsorted(self.gate.rows, rows)
        columns = [self.tasks.index(task) for task in plan.tasks]
        self.champions += opponent == "champion"
        for target, key in ((self.model, "model"), (self.opponent, opponent), (self.twin, "twin")):
            target[at[:, None], columns] = predictions[key]

    def earlier_teacher(self, plan: StudentPlan, rows: np.ndarray) -> np.ndarray | None:
        """What the opponent's teacher says of a student's rows and tasks; None without one."""
        if self._earlier_teacher is None:
            return None
        columns = [self.tasks.index(task) for task in plan.tasks]
        return self._earlier_teacher[np.searchsorted(self.gate.rows, rows)][:, columns]

    def records(self) -> list[dict[str, Any]]:
        """The family's figures over all its rows."""
        opponent = "champion" if self.champions else "log_odds"
        predictions = {"model": self.model, "twin": self.twin, **self.beside}
        predictions[opponent] = self.opponent
        return judge(
            self.config.family,
            self.tasks,
            self.gate,
            predictions,
            self.config.gates,
            opponent,
            by_domain=False,
        )


def _judge_student(
    config: RunConfig, plan: StudentPlan, packed: Packed, pool: _Pool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Figures of a student, its comparison with its twin, and its reliability curves."""
    teacher = read_scores(config, teacher_name(config), packed, plan.tasks)
    reader = student_reader(config, plan, packed, None)
    gate = gate_rows(reader, gate_segment(config.plan))
    judged = stage_folder(config, plan.name, "judged")
    predictions = {
        "model": predict(load_model(judged), reader, gate.rows),
        "twin": predict(load_model(judged / TWIN), reader, gate.rows),
        "teacher": teacher[gate.rows],
        **read_baselines(config, reader, gate),
    }
    opponent = add_opponent(config, plan.name, reader, gate.rows, predictions)
    pool.add(plan, gate.rows, predictions, opponent)
    records = judge(
        plan.name, plan.tasks, gate, predictions, config.gates, opponent, by_domain=False
    )
    for record in records:
        record["slice_kind"], record["slice"] = plan.kind, plan.vertical or plan.domain
    earlier = pool.earlier_teacher(plan, gate.rows)
    if earlier is not None:
        predictions["earlier_teacher"] = earlier
    twins = compare_twin(plan.name, plan.tasks, gate, predictions, config.gates)
    curves = reliability(plan.name, plan.tasks, gate, predictions, opponent)
    log_figures(config, plan.name, records)
    child = tracking.find_child(config, plan.name)
    for twin in twins:
        figures = {k: twin[k] for k in ("twin_value", "eta", "tr", "ne_twin", "ne_teacher")}
        child.metrics({f"distillation/{k}_{twin['task']}": v for k, v in figures.items()})
    beside = tracking.find_child(config, f"{plan.name}-{TWIN}")
    beside.metrics({f"gate/ne_{twin['task']}": twin["ne_twin"] for twin in twins})
    child.figure(plots.reliability(curves), "reliability.png")
    return records, twins, curves


def _verdict(records: list[dict[str, Any]], twins: list[dict[str, Any]]) -> str:
    """The family's figures in one sentence."""
    judged = [record for record in records if record["judged"]]
    better = sum(twin["twin_value"] < 0 for twin in twins if twin["judged"])
    compared = sum(twin["judged"] for twin in twins)
    worst = max(judged, key=lambda record: record["versus_value"])
    opponent = worst["opponent"].replace("_", "-")
    if all(record["versus_value"] == 0 for record in judged):
        figures = f"{len(judged)} figures, all equal to the {opponent}'s"
    else:
        change = f"{worst['versus_value']:+.2%}".replace("%", " %")
        figures = (
            f"{len(judged)} figures judged against the {opponent}, the least favourable being "
            f"{change} NE ({worst['model']}, {worst['task']})"
        )
    return f"{figures}; distillation helped in {better} of {compared}."


if __name__ == "__main__":
    main(run, __doc__)
