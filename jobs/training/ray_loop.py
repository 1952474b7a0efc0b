"""The teacher's training on Ray Train workers.

Every worker takes every `world`-th row of each global batch, and gradients are summed over
workers, so that the number of workers changes nothing but the time. A worker that dies brings all
of them back to the last checkpoint, at the batch that followed it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from jobs.command import log
from jobs.config import RunConfig, load_config
from jobs.pack_examples import open_packed
from jobs.training import trainee
from jobs.training.checkpoints import Card, load_checkpoint, read_card
from jobs.training.loop import Learner, Progress

if TYPE_CHECKING:
    from jobs.training.teacher import TeacherJob

_OBJECT_STORE_BYTES = 256 * 2**20


def train_on_ray(config: RunConfig, job: TeacherJob) -> list[tuple[Path, dict[str, Any]]]:
    """Train the teacher over segments.

    Args:
        config: The run's configuration.
        job: What to train, from where.

    Returns:
        Checkpoint folder and figures (`ends`, and per task `ne`, `calibration`, `rows`) at the end
        of every segment, in order.
    """
    # Ray Train's controller looks for reports at this interval; the default of two seconds would
    # be waited for at every checkpoint.
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRun
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = config.resources
    root = str(Path(__file__).resolve().parent.parent.parent)
    options: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": root}}}
    if resources.ray_address:
        options["address"] = resources.ray_address
    else:
        options |= {
            "num_cpus": resources.num_workers,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    ray.init(log_to_driver=False, logging_level="ERROR", configure_logging=False, **options)
    try:
        trainer = TorchTrainer(
            worker,
            train_loop_config={
                "config": str(config.run_folder / "config.json"),
                "job": job.to_json(),
            },
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(
                num_workers=resources.num_workers, resources_per_worker={"CPU": 1}
            ),
            run_config=RayRun(
                name=job.name,
                storage_path=str(config.run_folder / "ray"),
                failure_config=FailureConfig(max_failures=resources.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=None),
            ),
        )
        result = trainer.fit()
    finally:
        ray.shutdown()
    assert result.best_checkpoints is not None
    ends = [(Path(c.path), figures) for c, figures in result.best_checkpoints if figures]
    return sorted(ends, key=lambda end: read_card(end[0]).position["segment"])


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
    card, learner = job.start(config, reader)
    position = {"segment": 0, "step": 0}
    held = ray.train.get_checkpoint()
    if held is not None:
        card, learner = trainee.from_checkpoint(
            card, config.teacher, load_checkpoint(Path(held.path))
        )
        position = {"step": 0, **card.position}
        log.info("teacher: resumes at segment %(segment)d, batch %(step)d", position)
        if "step" not in card.position:
            position["segment"] += 1
    # DDP over gloo adds up sparse gradients of embedding tables as well as dense ones.
    learner.model = prepare_model(learner.model, move_to_device=False)

    def report(card: Card, metrics: dict[str, Any]) -> None:
        folder = config.run_folder / "ray" / f"{job.name}-outbox"
        if rank == 0:
            trainee.save(folder, card, learner)
        checkpoint = Checkpoint.from_directory(str(folder)) if rank == 0 else None
        ray.train.report(metrics, checkpoint=checkpoint)

    for index in range(position["segment"], len(job.segments)):
        segment = job.segments[index]
        skip = position["step"] if index == position["segment"] else 0
        learner.progress = Progress.none(learner.num_tasks)
        for step, piece in enumerate(reader.pieces(segment, rank, world, skip), start=skip + 1):
            learner.learn(piece, world)
            if step % job.checkpoint_steps == 0 and step < reader.num_steps(segment):
                place = {"segment": index, "step": step}
                card = replace(card, num_steps=learner.num_steps, position=place)
                report(card, {})
        result = trainee.segment_result(segment, _over_workers(learner, world))
        card = replace(
            card,
            num_steps=learner.num_steps,
            trained_until=segment.end.isoformat(),
            position={"segment": index},
        )
        metrics = {"ne": result.ne, "calibration": result.calibration, "rows": result.num_rows}
        report(card, {"ends": segment.end.isoformat(), **metrics})


def _over_workers(learner: Learner, world: int) -> Progress:
    sums = learner.progress.stacked()
    if world > 1:
        dist.all_reduce(sums)
    return Progress(*sums)
