"""A training worker that dies, or finds a fault, at planned steps; no job knows of it.

A file `plans/<step>` in the run's folder says what the second worker does before it learns that
step, once: `die` or `refuse`. `plans/starts` lists the first step of every group of workers, and
`plans/niceness` how much each worker gives way to other processes.
"""

import os
import signal
from pathlib import Path

from jobs.config import load_config
from jobs.errors import ConfigError
from jobs.training import ray_loop
from jobs.training.loop import Learner


def plan(run_folder: Path, **steps: list[int]) -> None:
    """Plan what goes wrong: `plan(folder, die=[20])`."""
    (run_folder / "plans").mkdir()
    for deed, numbers in steps.items():
        for step in numbers:
            (run_folder / "plans" / str(step)).write_text(deed)


def starts(run_folder: Path) -> list[int]:
    """First step of every group of workers so far."""
    return [int(line) for line in (run_folder / "plans" / "starts").read_text().split()]


def niceness(run_folder: Path) -> set[int]:
    """How much the workers so far have given way to other processes."""
    return {int(line) for line in (run_folder / "plans" / "niceness").read_text().split()}


def worker(options):
    """`ray_loop.worker` as it is, in a process where something may go wrong."""
    import ray.train

    plans = load_config(options["config"]).run_folder / "plans"
    rank = ray.train.get_context().get_world_rank()
    with (plans / "niceness").open("a") as file:
        file.write(f"{os.nice(0)}\n")
    started = False
    learn = Learner.learn

    def watched(self, piece, world):
        nonlocal started
        if rank == 0 and not started:
            with (plans / "starts").open("a") as file:
                file.write(f"{self.num_steps}\n")
        started = True
        planned = plans / str(self.num_steps)
        if rank == 1 and planned.exists():
            deed = planned.read_text()
            planned.unlink()
            if deed == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ConfigError("rows: a planted fault; nothing to do")
        learn(self, piece, world)

    Learner.learn = watched
    try:
        ray_loop.worker(options)
    finally:
        Learner.learn = learn
