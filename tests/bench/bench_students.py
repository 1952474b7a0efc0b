"""What does a student cost: to serve, and to distil?

For every student of a finished run of `jobs.run_local` or `make retrain`:

- size: parameters, and bytes of the served checkpoint;
- scoring: p50 and p99 of the wall time for 100 candidates of one user on one core, and the p50
  over that of the teacher, both scored in turn with the same candidates;
- distillation: CPU seconds of a training step of the student over those of its twin, in turn on the
  same batches, so what distillation costs beside the labels.

A line of JSON per model. Nothing but the run's folder is read.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_students --run var/runs/<run>
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.config import RunConfig, load_config
from jobs.family import stage_folder, teacher_name
from jobs.pack_examples import open_packed
from jobs.training import trainee
from jobs.training.checkpoints import load_model
from jobs.training.reader import Reader
from jobs.training.scoring import predict
from jobs.training.segments import training_segments
from jobs.training.students import (
    StudentPlan,
    student_card,
    student_plans,
    student_reader,
    teacher_scores,
)
from jobs.training.teacher import teacher_reader
from model.ranker import Student, num_parameters
from tests.bench.harness import ratio, report

NUM_CANDIDATES = 100
NUM_SETS = 310
NUM_STEPS = 70
"""Batches that student and twin learn in turn."""
NUM_WARM = 10
"""Sets and batches, the first ones, that do not count."""


def candidate_sets(reader: Reader, seed: int = 0) -> list[np.ndarray]:
    """Rows that stand for candidates: of a set all are of one user, at one moment."""
    kept = np.arange(reader.packed.num_rows) if reader.keep is None else np.flatnonzero(reader.keep)
    chosen = np.random.default_rng(seed).choice(kept, NUM_SETS)
    return [np.full(NUM_CANDIDATES, row) for row in chosen]


def in_turn(
    arms: dict[str, Callable[[Any], Any]], inputs: Iterable[Any], clock: Callable[[], float]
) -> dict[str, np.ndarray]:
    """Seconds that each arm takes for each input, the arms one after the other."""
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    for given in inputs:
        for arm, run in arms.items():
            started = clock()
            run(given)
            found[arm].append(clock() - started)
    return {arm: np.array(each[NUM_WARM:]) for arm, each in found.items()}


def scoring_cost(config: RunConfig, plan: StudentPlan) -> dict[str, Any]:
    """Size of a student, and its time for a set of candidates beside the teacher's."""
    packed = open_packed(config)
    readers = {"student": student_reader(config, plan, packed, None)}
    readers["teacher"] = teacher_reader(config, packed)
    folders = {
        "student": stage_folder(config, plan.name, "judged"),
        "teacher": stage_folder(config, teacher_name(config), "judged"),
    }
    models = {arm: load_model(folder) for arm, folder in folders.items()}
    arms = {arm: partial(predict, models[arm], reader) for arm, reader in readers.items()}
    seconds = in_turn(arms, candidate_sets(readers["student"]), time.perf_counter)
    student = models["student"]
    ranker = student.ranker if isinstance(student, Student) else student
    return {
        "parameters": num_parameters(ranker.config),
        "megabytes": round((folders["student"] / "model.safetensors").stat().st_size / 1e6, 2),
        "candidates": NUM_CANDIDATES,
        **{
            f"{arm}_p{q}_ms": round(1e3 * float(np.percentile(each, q)), 2)
            for arm, each in seconds.items()
            for q in (50, 99)
        },
        "student_over_teacher": asdict(ratio(list(seconds["student"]), list(seconds["teacher"]))),
    }


def distillation_cost(config: RunConfig, plan: StudentPlan) -> dict[str, Any]:
    """CPU seconds of a step of the student over those of its twin, on the same batches."""
    packed = open_packed(config)
    scores, _ = teacher_scores(config, plan, packed)
    reader = student_reader(config, plan, packed, scores)
    segments = training_segments(config.plan, packed, config.contract.time_zone)
    trial = plan.settings.training.trials[0]
    arms = {}
    for arm in ("student", "twin"):
        card = student_card(config, plan, reader, trial, distilled=arm == "student")
        _, learner = trainee.start(card, plan.settings.training, reader, segments, None)
        arms[arm] = partial(learner.learn, world=1)
    every = (piece for segment in segments[1:] for piece in reader.pieces(segment, 0, 1))
    pieces = islice(every, NUM_STEPS)
    seconds = in_turn(arms, pieces, time.process_time)
    return {
        "steps": NUM_STEPS - NUM_WARM,
        "step_over_twins": asdict(ratio(list(seconds["student"]), list(seconds["twin"]))),
    }


def main() -> None:
    """Print a line per student."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(str(options.run / "config.json"))
    for plan in student_plans(config):
        costs = scoring_cost(config, plan) | distillation_cost(config, plan)
        report("students", model=plan.name, **costs)


if __name__ == "__main__":
    main()
