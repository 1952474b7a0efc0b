"""A whole family trained, absorbed and promoted on the tiny world, the teacher without Ray."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
import pytest

from jobs import (
    absorb_gate_window,
    promote_family,
    score_teacher,
    tracking,
    train_domain_student,
    train_teacher,
    train_vertical_student,
)
from jobs.command import JobSummary, read_summary, run_job, write_json
from jobs.config import Gates, Plan, RunConfig
from jobs.family import verticals
from jobs.pack_examples import open_packed
from jobs.training import ray_loop, segments, trainee
from jobs.training.ray_loop import save_watched, watched_folder
from jobs.training.reader import Reader
from jobs.training.teacher import TeacherJob, teacher_reader
from jobs.training_settings import Student, Trial
from jobs.vocabulary import Vocabulary
from tests.jobs.training import samples

HASHES = {"config_hash": "config", "code_hash": "code"}
TRIALS = (Trial(lr_dense=1e-4, lr_sparse=1e-3), Trial(lr_dense=1e-2, lr_sparse=1e-1))


@dataclass(frozen=True)
class Result:
    """What `jobs.gating` answers."""

    passed: bool = True
    reason: str = "planted"

    def summary(self) -> dict[str, Any]:
        return {"passed": self.passed}


def train_here(config: RunConfig, job: TeacherJob) -> list[tuple[Path, trainee.SegmentResult]]:
    """`train_on_ray` in this process."""
    reader, folders = teacher_reader(config, open_packed(config)), []

    def keep(card: Any, learner: Any, _: Any) -> None:
        folders.append(config.run_folder / "ray" / job.name / str(len(folders)))
        trainee.save(folders[-1], card, learner)

    card, learner = job.start(config, reader)
    learner.watched = [] if job.watch else None
    _, results = trainee.train(card, learner, reader, list(job.segments), keep)
    if learner.watched is not None:
        save_watched(watched_folder(config, job.name) / "0.npz", learner.watched)
    return list(zip(folders, results, strict=True))


def resolve(home: Path, run_id: str, plan: Plan, **changes: Any) -> RunConfig:
    """A run's configuration, with its run in MLflow."""
    student = Student(training=samples.training(trials=TRIALS))
    values: dict[str, Any] = {
        "teacher": samples.training(trials=TRIALS),
        "domain_student": student,
        "vertical_student": student,
        "gates": Gates(min_slice_rows=20, min_slice_positives=5, num_resamples=50),
        "plan": plan,
    }
    draft = samples.config(home, **(values | changes))
    mlflow_run = tracking.start_parent(draft, str(home), run_id, plan, HASHES)
    run = samples.run_context(run_id=run_id, mlflow_run=mlflow_run)
    return samples.config(home, **(values | changes), run=run)


def pack(config: RunConfig, rows: samples.World, vocabulary: Vocabulary) -> Reader:
    """Pack what had been shown by the end of the run's day."""
    shown = rows.examples.filter(pc.less(rows.examples["event_ts"], config.plan.gate_end))
    return samples.reader(config, replace(rows, examples=shown), vocabulary)


def train(config: RunConfig) -> list[JobSummary]:
    """Every training and scoring job, in the order of the DAG."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_loop, "train_on_ray", train_here)
        patch.setattr(segments, "MIN_FIRST_ROWS", 1)
        done = [run_job(config, train_teacher.run), run_job(config, score_teacher.run)]
        for domain in config.contract.domains:
            done.append(run_job(config, train_domain_student.run, student=domain))
        for vertical in verticals(config.contract):
            done.append(run_job(config, train_vertical_student.run, student=vertical))
    return done


def absorb(config: RunConfig, answer: Result | None = None) -> list[dict[str, Any]]:
    """The pass over the gate window; the records that the gate, tested elsewhere, was given."""
    seen: list[dict[str, Any]] = []

    def hold(config: RunConfig, name: str, frames: dict[str, pd.DataFrame]) -> Result:
        assert name == "absorbed"
        seen.extend(frames["models"].to_dict("records"))
        return answer or Result()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(absorb_gate_window, "hold", hold)
        patch.setattr(ray_loop, "train_on_ray", train_here)
        run_job(config, absorb_gate_window.run)
    return seen


def moved(config: RunConfig, home: Path) -> RunConfig:
    """A run and its tables copied as they were before it absorbed; MLflow stays where it is."""
    for name in ("runs", "tables"):
        shutil.copytree(Path(config.home) / name, home / name)
    store = f"sqlite:///{config.home}/mlflow/mlflow.db"
    resources = config.resources.model_copy(update={"mlflow_uri": store})
    copy = config.model_copy(update={"home": str(home), "resources": resources})
    for job in ("absorb_gate_window", "promote_family"):
        (copy.run_folder / "summaries" / f"{job}.json").unlink()
    for final in copy.run_folder.glob("models/*/final"):
        shutil.rmtree(final)
    return copy


def promote(config: RunConfig) -> JobSummary:
    """The promotion, judged by hand."""
    verdict = JobSummary(job="judge_family", details={"verdict": "better by 1 %"})
    write_json(config.run_folder / "summaries" / "judge_family.json", vars(verdict))
    run_job(config, promote_family.run)
    return read_summary(config, "promote_family")
