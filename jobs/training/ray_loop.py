"""The teacher's training on Ray Train workers.

Every worker takes every `world`-th row of each global batch, and gradients are summed over
workers, so that the number of workers changes nothing but the time. A worker that dies brings all
of them back to the last checkpoint, at the batch that followed it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from jobs.command import log
from jobs.config import REPOSITORY, Resources, RunConfig, load_config
from jobs.errors import ConfigError
from jobs.pack_examples import open_packed
from jobs.training import trainee
from jobs.training.bars import Steps, drawn
from jobs.training.checkpoints import Card, load_checkpoint
from jobs.training.loop import Progress
from jobs.training.trainee import SegmentResult

if TYPE_CHECKING:
    from jobs.training.teacher import TeacherJob

_OBJECT_STORE_BYTES = 80 * 2**20
"""Nothing but Ray's own messages goes through the store; this is about the least it accepts."""
_ENVIRONMENT = {
    # The controller looks for reports at this interval; the default of two seconds would be waited
    # for at every checkpoint.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_SCORE = "ends_segment"
"""Metric by which Ray keeps the checkpoints at the ends of segments and forgets older others."""


def train_on_ray(config: RunConfig, job: TeacherJob) -> list[tuple[Path, SegmentResult]]:
    """Train the teacher over segments.

    Args:
        config: The run's configuration.
        job: What to train, from where.

    Returns:
        Checkpoint folder at the end of every segment, in order, and what had been predicted of the
        segment before it was learnt.

    Raises:
        ConfigError: The rows or the settings are at fault.
        TrainingFailedError: Workers died more often than `resources.max_failures`.
    """
    resources = config.resources
    environment = dict(_ENVIRONMENT)
    if resources.ray_address is None:
        # Anyone who reaches a Ray may run code on it. Asked for, Ray's check of a token is silent.
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        # Nobody takes this machine away from a Ray of our own; the watcher costs two seconds.
        environment["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
        # Ray's own default, 15, would leave a worker what all else on this machine does not want:
        # beside one other busy process on each core, training took ten times as long.
        environment["RAY_worker_niceness"] = "0"
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    # Imported now, because Ray reads some of these variables at its import.
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig, WorkerGroupError
    from ray.train import RunConfig as RayRun
    from ray.train.torch import TorchConfig, TorchTrainer

    from jobs.training.worker_deaths import KeepDeaths

    storage = config.run_folder / "ray"
    deaths = storage / f"{job.name}-deaths.txt"
    deaths.unlink(missing_ok=True)
    with _ray(resources, storage / f"{job.name}-logs"):
        trainer = TorchTrainer(
            worker,
            train_loop_config={
                "config": str(config.run_folder / "config.json"),
                "job": job.to_json(),
            },
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(
                num_workers=resources.num_workers,
                use_gpu=resources.device == "cuda",
                resources_per_worker={"CPU": 1},
            ),
            run_config=RayRun(
                name=job.name,
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=resources.max_failures),
                checkpoint_config=CheckpointConfig(
                    num_to_keep=len(job.segments), checkpoint_score_attribute=_SCORE
                ),
                callbacks=[KeepDeaths(deaths)],
            ),
        )
        try:
            with drawn(config.run_folder):
                result = trainer.fit()
        except WorkerGroupError as error:
            for failure in error.worker_failures.values():
                if isinstance(failure, ConfigError):
                    raise failure from None
            raise
    if deaths.exists():
        log.info("%s: workers died and went on from a checkpoint; why: %s", job.name, deaths)
    assert result.best_checkpoints is not None
    ends = [
        (Path(checkpoint.path), _result(figures))
        for checkpoint, figures in result.best_checkpoints
        if figures[_SCORE]
    ]
    _forget_others(storage / job.name, {folder for folder, _ in ends})
    return sorted(ends, key=lambda end: end[1].ends)


def _forget_others(storage: Path, kept: set[Path]) -> None:
    """Delete checkpoints that Ray does not know of.

    A worker that dies between writing a checkpoint and the controller's hearing of it leaves one
    that Ray itself never deletes.
    """
    for folder in storage.glob("checkpoint_*"):
        if folder.is_dir() and folder not in kept:
            shutil.rmtree(folder)


@contextmanager
def _ray(resources: Resources, logs: Path) -> Iterator[None]:
    """A connection to the cluster, or a Ray of our own that leaves nothing behind.

    Args:
        resources: Says which cluster, if any.
        logs: Where our own Ray's logs are kept if the body fails.
    """
    import ray

    path = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "configure_logging": False,
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(path)}},
    }
    if resources.ray_address is not None:
        ray.init(address=resources.ray_address, **options)
        try:
            yield
        finally:
            ray.shutdown()
        return
    # Not below the home: Ray's sockets lie there, and a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(
        prefix="lapidary-", dir="/tmp", ignore_cleanup_errors=True
    ) as scratch:
        try:
            ray.init(
                address="local",
                num_cpus=resources.num_workers,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=scratch,
                **options,
            )
            yield
        except BaseException:
            written = Path(scratch) / "session_latest" / "logs"
            if written.is_dir():
                shutil.copytree(written, logs, dirs_exist_ok=True)
                log.info("ray: the logs of this failure are in %s", logs)
            raise
        finally:
            ray.shutdown()


def worker(options: dict[str, Any]) -> None:
    """What every Ray Train worker runs."""
    import ray.train
    from ray.train import Checkpoint
    from ray.train.torch import prepare_model

    from jobs.training.teacher import TeacherJob, teacher_reader

    config = load_config(options["config"])
    job = TeacherJob.from_json(options["job"])
    torch.set_num_threads(config.resources.worker_threads)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    reader = teacher_reader(config, open_packed(config))
    held = ray.train.get_checkpoint()
    if held is None:
        card, learner = job.start(config, reader)
        first, skip = 0, 0
    else:
        checkpoint = load_checkpoint(Path(held.path))
        card, learner = trainee.from_checkpoint(
            job.card(config, reader), config.teacher, checkpoint, reader.device
        )
        first, skip = card.position["segment"], card.position["step"]
        log.info("teacher: resumes at segment %d, batch %d", first, skip)
    # DDP over gloo adds up sparse gradients of embedding tables as well as dense ones. The model's
    # buffers never change after its start.
    learner.model = prepare_model(
        learner.model,
        move_to_device=False,
        parallel_strategy_kwargs={"broadcast_buffers": False} if world > 1 else None,
    )

    if job.watch:
        learner.watched = []

    def report(card: Card, metrics: dict[str, Any]) -> None:
        folder = config.run_folder / "ray" / f"{job.name}-outbox"
        if rank == 0:
            trainee.save(folder, card, learner)
        checkpoint = Checkpoint.from_directory(str(folder)) if rank == 0 else None
        ray.train.report(metrics, checkpoint=checkpoint)

    counts = [reader.num_steps(segment) for segment in job.segments]
    steps = Steps(config.run_folder, job.name, sum(counts), sum(counts[:first]) + skip)
    for index in range(first, len(job.segments)):
        segment, num_steps = job.segments[index], counts[index]
        learner.progress = Progress.none(learner.num_tasks)
        if skip and rank == 0:
            # Once, because what workers have seen is added up.
            learner.progress = Progress.of(card.progress)
        began, num_rows = time.perf_counter(), 0
        for step, piece in enumerate(reader.pieces(segment, rank, world, skip), start=skip + 1):
            trainee.learn(card, learner, reader, piece, world)
            num_rows += len(piece.rows)
            if rank == 0:
                steps.advance()
            if step % job.checkpoint_steps == 0 and step < num_steps:
                card = replace(
                    card,
                    num_steps=learner.num_steps,
                    position={"segment": index, "step": step},
                    progress=_over_workers(learner.progress, world),
                )
                report(card, {_SCORE: 0})
        card = replace(
            card,
            num_steps=learner.num_steps,
            trained_until=segment.end.isoformat(),
            position={"segment": index + 1, "step": 0},
            progress=[],
        )
        if learner.watched is not None:
            save_watched(watched_folder(config, job.name) / f"{rank}.npz", learner.watched)
        figures = {
            "ends": segment.end.isoformat(),
            "sums": _over_workers(learner.progress, world),
            # Every worker has its share of each batch.
            "num_rows": num_rows * world,
            "seconds": time.perf_counter() - began,
        }
        report(card, {_SCORE: 1, **figures})
        skip = 0


def watched_folder(config: RunConfig, job: str) -> Path:
    """Where workers keep what they predicted, a file each."""
    return config.run_folder / "ray" / f"{job}-watched"


def save_watched(path: Path, watched: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write a worker's rows and probabilities."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, probabilities = zip(*watched, strict=True)
    np.savez(path, rows=np.concatenate(rows), probabilities=np.concatenate(probabilities))


def read_watched(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """All workers' rows and probabilities."""
    files = [np.load(path) for path in sorted(folder.glob("*.npz"))]
    return [(file["rows"], file["probabilities"]) for file in files]


def _over_workers(progress: Progress, world: int) -> list[list[float]]:
    sums = progress.stacked()
    if world > 1:
        dist.all_reduce(sums)
    return sums.tolist()


def _result(figures: dict[str, Any]) -> SegmentResult:
    ends = datetime.fromisoformat(figures["ends"])
    # A training that had ended before rows and seconds were told is taken up as it is.
    speed = figures.get("num_rows", 0), figures.get("seconds", 0.0)
    return SegmentResult(ends, figures["sums"], *speed)
