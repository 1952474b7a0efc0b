"""Does Ray Data score a day's impressions faster than the job's loop over batches?

The teacher of a finished run scores its packed rows (`--rows` of them, the latest) in two ways:

- `loop`: as `jobs.score_teacher` does, batches side by side on a thread for each core;
- `ray_data`: `map_batches` over row numbers, an actor for each core, which opens the checkpoint and
  the packed arrays by itself; of a Ray that is running already. The probabilities come back.

Both must tell the same probabilities. The rule, set before measuring: Ray Data enters the job only
if, where a cluster is configured, the whole interval of its wall time over the loop's lies below 1.

    python -m jobs.run_local --recipe kuairand --day 2022-05-04 --stop-after train_teacher
    python -m tests.bench.bench_scores --run var/runs/<run> --rounds 4
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs.config import load_config
from jobs.family import teacher_name
from jobs.training.checkpoints import load_model
from jobs.training.inputs import Packed
from jobs.training.reader import Reader
from jobs.training.scoring import predict
from jobs.training.teacher import teacher_reader
from tests.bench import harness

BATCH_ROWS = 1024
"""As the job's."""


def open_reader(run: Path) -> Reader:
    """The teacher's batches."""
    return teacher_reader(load_config(str(run / "config.json")), Packed(run / "packed"))


class _Score:
    """What an actor of Ray Data holds."""

    def __init__(self, run: Path, checkpoint: Path) -> None:
        torch.set_num_threads(1)
        self.reader, self.model = open_reader(run), load_model(checkpoint)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        told = predict(self.model, self.reader, batch["row"])
        process = np.full(len(told), os.getpid())
        seconds = np.full(len(told), time.process_time())
        return {"row": batch["row"], "told": told, "process": process, "cpu_seconds": seconds}


def through_ray(
    run: Path, checkpoint: Path, rows: np.ndarray, num_workers: int
) -> tuple[np.ndarray, float]:
    """By actors of a Ray that is running.

    Returns:
        Probabilities, rows x tasks, and the CPU seconds of the actors' processes; those of Ray's
        own are left out.
    """
    import ray.data

    parts = np.array_split(rows, -(-len(rows) // BATCH_ROWS))
    options: dict[str, Any] = {
        "batch_size": BATCH_ROWS,
        "batch_format": "numpy",
        "fn_constructor_args": (run, checkpoint),
        "compute": ray.data.ActorPoolStrategy(size=num_workers),
    }
    shards = ray.data.from_arrow([pa.table({"row": part}) for part in parts])
    found = shards.map_batches(_Score, **options).iter_batches(
        batch_size=None, batch_format="numpy"
    )
    row, told, busy = [], [], {}
    for batch in found:
        row.append(batch["row"])
        told.append(np.stack(list(batch["told"])))
        for process, seconds in zip(batch["process"], batch["cpu_seconds"], strict=True):
            busy[process] = max(seconds, busy.get(process, 0.0))
    return np.concatenate(told)[np.argsort(np.concatenate(row))], sum(busy.values())


def main() -> None:
    """Score by turns, then tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a run with packed/")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    import ray

    run = options.run.resolve()
    teacher = teacher_name(load_config(str(run / "config.json")))
    checkpoint, cores = run / "models" / teacher / "judged", len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    reader, model = open_reader(run), load_model(checkpoint)
    rows = np.arange(reader.packed.num_rows)[-options.rows :]
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
    arms: dict[str, Callable[[], tuple[np.ndarray, float]]] = {
        "loop": lambda: (predict(model, reader, rows), 0.0),
        "ray_data": lambda: through_ray(run, checkpoint, rows, cores),
    }
    try:
        told = [arm()[0] for arm in arms.values()]
        np.testing.assert_allclose(*told, rtol=1e-4, atol=1e-6)
        timings = harness.rounds_elsewhere(arms, options.rounds)
    finally:
        ray.shutdown()
    figures = harness.compared(timings, "ray_data", "loop")
    harness.report("scores_ray_data", rows=len(rows), **figures, arms=harness.samples(timings))


if __name__ == "__main__":
    main()
