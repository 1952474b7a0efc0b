"""What killed a training worker, kept in a file: a training that goes on shows no error.

Apart from `jobs.training.ray_loop`, which may import Ray only once its environment is set.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray.train import UserCallback


class KeepDeaths(UserCallback):
    """Append the errors of workers to a file, a line each; runs in Ray Train's controller.

    Args:
        path: The file; made at the first error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Keep what a group of workers ended with."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        with self.path.open("a", encoding="utf-8") as file:
            for rank, error in sorted(worker_exceptions.items()):
                told = " ".join(str(error).split())
                file.write(f"{moment} worker {rank}: {type(error).__name__}: {told}\n")
