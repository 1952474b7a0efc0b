"""A progress bar of what learns, in a terminal; elsewhere nothing is drawn and nothing written.

Trainings run in Ray's workers and in forked processes, so each tells a small file how far it is,
and a process of its own draws the sum.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FOLDER = "progress"
_SECONDS = 0.5
"""Between two looks at the files."""


class Steps:
    """How far a training is, told to whoever draws it.

    Args:
        run_folder: Folder of the run.
        name: What learns.
        total: Steps that it will take.
        done: Steps that it has taken before.
    """

    def __init__(self, run_folder: Path, name: str, total: int, done: int = 0) -> None:
        folder = run_folder / _FOLDER
        self._path = folder / f"{name}@{os.getpid()}" if folder.is_dir() else None
        self._total, self._done = total, done

    def advance(self) -> None:
        """One step more."""
        self._done += 1
        if self._path is not None:
            with suppress(OSError):  # A bar is worth no training.
                self._path.write_text(f"{self._done} {self._total}", encoding="utf-8")


@contextmanager
def drawn(run_folder: Path) -> Iterator[None]:
    """Draw a bar of all that learns in the body, if there is a terminal to draw it in."""
    if not sys.stderr.isatty():
        yield
        return
    folder = run_folder / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    drawer = subprocess.Popen([sys.executable, __file__, str(folder)])
    try:
        yield
    finally:
        drawer.terminate()
        drawer.wait()
        shutil.rmtree(folder, ignore_errors=True)


def read_steps(folder: Path) -> tuple[list[str], int, int]:
    """Names of what learns, and the steps of all that were taken and that will be."""
    names, done, total = set(), 0, 0
    for path in folder.glob("*@*"):
        with suppress(OSError, ValueError):  # Half written; there is a next time.
            taken, wanted = map(int, path.read_text(encoding="utf-8").split())
            names.add(path.name.rpartition("@")[0])
            done, total = done + taken, total + wanted
    return sorted(names), done, total


def main(folder: Path) -> None:
    """Draw until the folder is gone, or the process that wanted it."""
    from tqdm import tqdm

    parent = os.getppid()
    with tqdm(unit=" steps", dynamic_ncols=True, leave=False, delay=_SECONDS) as bar:
        while folder.is_dir() and os.getppid() == parent:
            names, bar.n, bar.total = read_steps(folder)
            if names:
                bar.set_description(", ".join(names), refresh=False)
                bar.refresh()
            time.sleep(_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
