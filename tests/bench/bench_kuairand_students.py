"""What does each vertical student of the bundled log get from its teacher?

Takes the two runs of `make retrain`: of the first its teacher and domain students, trained in one
pass up to 3 May 0:00, and their out-of-sample scores; of the second the packed rows, which reach to
4 May. Every vertical student learns the same rows up to 3 May by every arm:

- raw: its twin, labels alone, tuned over three learning rates;
- kd: soft labels of the teacher on the serving head, tuned over three weights;
- direct: the recipe's auxiliary head and Student Adapter, taught by the teacher, three weights;
- hierarchical: the same, taught by the domain student, which is the recipe's way.

Distilled arms take the twin's learning rates, so that every arm has three trials, with seed 0,
chosen by the mean NE over tasks of the labels of the last day, each before it was learnt. Five
seeds of the chosen one are judged on 3 and 4 May, which nobody has learnt, the teacher neither.

Figures per student and task: NE of the twin; the teacher's difference to it (the gap), and each
arm's to the twin and to kd, relative, with 95 % intervals over seeds and users; eta, or why it is
undefined. Budget: 2 CPU-hours.

    make retrain
    python -m tests.bench.bench_kuairand_students --run var/runs/2022-05-03-<run> \
        --packed var/runs/2022-05-04-<run>/packed --out var/bench/students
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jobs.config import RunConfig, day_start, load_config
from jobs.family import domain_name, stage_folder, teacher_name, verticals
from jobs.training import trainee
from jobs.training.checkpoints import load_model
from jobs.training.evaluation import GateRows, gate_rows
from jobs.training.inputs import Packed
from jobs.training.scoring import predict, read_scores
from jobs.training.segments import Segment, training_segments
from jobs.training.students import StudentPlan, student_card, student_reader, vertical_plan
from jobs.training.teacher import teacher_reader
from jobs.training.trainee import recent_ne
from jobs.training_settings import Distillation, SoftTerm, Trial
from model import metrics
from tests.bench.sweep import Cell, Outcome, Sweep, relative_difference

ARMS = ("raw", "kd", "direct", "hierarchical")
RATES = ((1e-3, 1e-1), (2e-3, 1e-1), (4e-3, 1e-1))
"""Learning rates of dense weights and of tables."""
WEIGHTS = (0.3, 1.0, 3.0)
JUDGED_UNTIL = date(2022, 5, 5)
"""The first day after."""
_FILE = "scores.npz"


@dataclass(frozen=True)
class Rows:
    """A run's rows, and what its scorers said of them out of sample."""

    config: RunConfig
    packed: Packed
    scores: dict[str, np.ndarray]
    """By scorer: probabilities, packed rows x all tasks, NaN where there is none."""

    @property
    def judged(self) -> Segment:
        """The days that nobody has learnt."""
        end = day_start(JUDGED_UNTIL, self.config.contract.time_zone)
        return Segment(self.config.plan.gate_start, end)

    def gate(self, plan: StudentPlan) -> GateRows:
        """The judged rows of a student."""
        return gate_rows(student_reader(self.config, plan, self.packed, None), self.judged)


def write_scores(run: Path, packed: Path) -> None:
    """Keep what the run's scorers said of packed rows: the only part that reads its tables.

    Of the days that are judged it is what the teacher of 3 May 0:00 says, who learnt no more.
    """
    config, rows = load_config(str(run / "config.json")), Packed(packed)
    found = {}
    for scorer in (
        teacher_name(config),
        *(domain_name(config, d) for d in config.contract.domains),
    ):
        found[scorer] = read_scores(config, scorer, rows, rows.spec.tasks)
    whole = Rows(config, rows, found)
    reader = teacher_reader(config, rows)
    gate = gate_rows(reader, whole.judged)
    teacher = load_model(stage_folder(config, teacher_name(config), "judged"))
    found[teacher_name(config)][gate.rows] = predict(teacher, reader, gate.rows)
    np.savez(packed.parent / _FILE, **found)  # pyright: ignore[reportArgumentType]


def open_rows(run: Path, packed: Path, device: str) -> Rows:
    """What `write_scores` kept."""
    config = load_config(str(run / "config.json"))
    resources = config.resources.model_copy(update={"device": device})
    config = config.model_copy(update={"resources": resources})
    with np.load(packed.parent / _FILE) as held:
        return Rows(config, Packed(packed), dict(held))


def run_cell(rows: Rows, twin_settings: dict[str, int], cell: Cell) -> Outcome:
    """Train a student by an arm."""
    vertical, arm = cell.arm.rsplit("/", 1)
    plan = arm_plan(rows.config, vertical, arm, cell, twin_settings)
    columns = [rows.packed.spec.tasks.index(task) for task in plan.tasks]
    teacher = None if arm == "raw" else rows.scores[plan.scorer][:, columns]
    reader = student_reader(rows.config, plan, rows.packed, teacher)
    segments = training_segments(rows.config.plan, rows.packed, rows.config.contract.time_zone)
    (trial,) = plan.settings.training.trials
    card = student_card(rows.config, plan, reader, trial, distilled=arm != "raw")
    card, learner = trainee.start(card, plan.settings.training, reader, segments, None)
    card, results = trainee.train(card, learner, reader, segments)
    with tempfile.TemporaryDirectory() as folder:
        # Served is the average of the weights, as a checkpoint holds it.
        trainee.save(Path(folder) / "served", card, learner)
        model = load_model(Path(folder) / "served")
    return Outcome(recent_ne(results), predict(model, reader, rows.gate(plan).rows))


def arm_plan(
    config: RunConfig, vertical: str, arm: str, cell: Cell, twin_settings: dict[str, int]
) -> StudentPlan:
    """The plan of a student under an arm, with one trial and the cell's seed."""
    plan = vertical_plan(config, vertical)
    dense, sparse = RATES[cell.setting if arm == "raw" else twin_settings[vertical]]
    trial = Trial(lr_dense=dense, lr_sparse=sparse)
    weight = WEIGHTS[cell.setting]
    distillation = {
        "kd": Distillation(terms=(SoftTerm(prediction="serving", weight=weight),), adapter=False),
    }.get(arm, Distillation(terms=(SoftTerm(weight=weight),)))
    training = plan.settings.training.model_copy(update={"trials": (trial,), "seed": cell.seed})
    settings = plan.settings.model_copy(update={"training": training, "distillation": distillation})
    scorer = domain_name(config, plan.domain) if arm == "hierarchical" else teacher_name(config)
    return replace(plan, settings=settings, scorer=scorer)


def open_run(
    run: Path, packed: Path, device: str, twin_settings: dict[str, int]
) -> Callable[[Cell], Outcome]:
    """What runs a cell, in a process of its own."""
    return partial(run_cell, open_rows(run, packed, device), twin_settings)


def summary(rows: Rows, sweep: Sweep) -> Iterator[dict[str, Any]]:
    """A line per student, task and arm."""
    for vertical in verticals(rows.config.contract):
        told = {arm: sweep.judged(f"{vertical}/{arm}") for arm in ARMS}
        plan = vertical_plan(rows.config, vertical)
        gate = rows.gate(plan)
        twin = told["raw"]
        if twin is None:
            yield {"student": vertical, "result": "not run"}
            continue
        columns = [rows.packed.spec.tasks.index(task) for task in plan.tasks]
        teacher = rows.scores[teacher_name(rows.config)][gate.rows][:, columns]
        for t, task in enumerate(plan.tasks):
            at = gate.mask[:, t]
            y, users = gate.labels[at, t], gate.users[at]
            own = {k: v[:, at, t].astype(np.float64) for k, v in told.items() if v is not None}
            above = np.broadcast_to(teacher[at, t].astype(np.float64), own["raw"].shape)
            line = {"student": vertical, "task": task, "rows": int(at.sum())}
            line["positives"] = int(y.sum())
            line["twin_ne"] = round(float(np.mean([metrics.ne(y, p) for p in own["raw"]])), 5)
            line["teacher_gap"] = relative_difference(y, above, own["raw"], users)
            for arm in ARMS[1:]:
                if arm not in own:
                    yield line | {"arm": arm, "result": "not run"}
                    continue
                setting = sweep.setting(f"{vertical}/{arm}")
                assert setting is not None
                yield line | {
                    "arm": arm,
                    "weight": WEIGHTS[setting],
                    "calibration": round(float(np.mean(own[arm].sum(1) / y.sum())), 4),
                    "versus_twin": relative_difference(y, own[arm], own["raw"], users),
                    "versus_kd": (
                        relative_difference(y, own[arm], own["kd"], users) if "kd" in own else None
                    ),
                    "eta": _eta(y, own["raw"], own[arm], above, users),
                }


def _eta(
    y: np.ndarray, twin: np.ndarray, own: np.ndarray, teacher: np.ndarray, users: np.ndarray
) -> dict[str, Any]:
    """Of all seeds together: every seed's rows are another draw of the same users."""
    found = metrics.transfer_ratio(
        np.tile(y, len(own)), twin.ravel(), own.ravel(), teacher.ravel(), np.tile(users, len(own))
    )
    return {
        k: v if v is None or isinstance(v, str) else round(v, 3) for k, v in found._asdict().items()
    }


def main() -> None:
    """Run what is missing, then tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--packed", type=Path, required=True, help="packed arrays up to 4 May")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seconds", type=float, default=7_200, help="no cell starts after these")
    options = parser.parse_args()
    packed = options.packed
    if not (packed.parent / _FILE).exists():
        write_scores(options.run, packed)
    rows = open_rows(options.run, packed, "cpu")
    names = verticals(rows.config.contract)
    twins = Sweep(options.out, [f"{vertical}/raw" for vertical in names], len(RATES))
    common = (options.run, packed, options.device)
    twins.run(open_run, (*common, {}), options.workers, options.seconds)
    settings = {v: n for v in names if (n := twins.setting(f"{v}/raw")) is not None}
    arms = [f"{vertical}/{arm}" for vertical in settings for arm in ARMS]
    sweep = Sweep(options.out, arms, len(RATES))
    sweep.run(open_run, (*common, settings), options.workers, options.seconds)
    sweep.tell(list(summary(rows, sweep)))


if __name__ == "__main__":
    main()
