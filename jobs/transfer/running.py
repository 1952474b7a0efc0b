"""Teachers and cells over processes, until all have run or the seconds are used up."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.errors import ConfigError
from jobs.transfer.cells import TEACHER, student_cell, study_digest, teacher_cell
from jobs.transfer.hierarchy import score
from jobs.transfer.rows import Rows, with_own_histories
from jobs.transfer.settings import TWINS, OutOfTime, Study
from jobs.transfer.teacher import Taught, teach

_shared: dict[str, Any] = {}
"""Study, rows, folder, device and deadline, which a forked worker finds as they were."""


def run_cells(
    study: Study,
    rows: Rows,
    wanted: list[dict[str, Any]],
    held: list[dict[str, Any]],
    folder: Path,
    device: str,
    num_workers: int,
    deadline: float,
) -> Iterator[dict[str, Any]]:
    """Run cells, each as soon as its teacher and its twin are there.

    Args:
        study: The study.
        rows: All rows.
        wanted: Keys of the cells to run.
        held: Cells that have run.
        folder: Where what teachers tell is kept.
        device: Where teachers learn; students learn on a CPU.
        num_workers: Processes; with 0 all is done in this one.
        deadline: Unix seconds at which to stop.

    Yields:
        Cells, as they end. Those that the deadline cut off never come.
    """
    _shared.clear()
    _shared.update(study=study, rows=rows, folder=folder, device=device, deadline=deadline)
    folder.mkdir(parents=True, exist_ok=True)
    # Makes torch import what every optimiser needs, once for all workers.
    torch.optim.AdamW([torch.zeros(1)])
    waiting = list(wanted)
    twins = {_place(c): c["chosen"] for c in held if c["arm"] == "raw"}
    teachers = dict.fromkeys(_teacher(c) for c in wanted if c["bias"] is not None)
    taught = {teacher for teacher in teachers if _file(*teacher).is_file()}
    with _pool(num_workers) as pool:
        running: dict[Future[Any], dict[str, Any] | _Teacher] = {
            pool.submit(_teach, *teacher): teacher for teacher in teachers if teacher not in taught
        }
        while waiting or running:
            # No more than keeps all busy, so that what comes first is not behind what was ready.
            ready = [c for c in waiting if _is_ready(c, taught, twins)]
            for cell in ready[: max(1, num_workers + 2 - len(running))]:
                waiting.remove(cell)
                running[pool.submit(_run, cell, twins.get(_place(cell)))] = cell
            if not running:
                return  # what is left waits for a teacher or a twin that ran out of time
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                what, found = running.pop(future), future.result()
                if isinstance(what, tuple):
                    taught |= {what} if found else set()
                elif found is not None:
                    if found["arm"] == "raw":
                        twins[_place(found)] = found["chosen"]
                    yield found


_Teacher = tuple[int, str | None]
"""Seed of a teacher, and whose histories it reads."""


def _teacher(cell: dict[str, Any]) -> _Teacher:
    return cell["seed"], cell["histories"]


def _is_ready(cell: dict[str, Any], taught: set[_Teacher], twins: dict[Any, int]) -> bool:
    if cell["arm"] in TWINS:
        return True
    return _teacher(cell) in taught and (cell["arm"] == TEACHER or _place(cell) in twins)


def _place(cell: dict[str, Any]) -> tuple[str, int]:
    """Whose twin serves for a cell."""
    return cell["capacity"], cell["seed"]


def _teach(seed: int, histories: str | None) -> bool:
    torch.set_num_threads(1)
    study, device = _shared["study"], _shared["device"]
    # Asked here: a process that has spoken to a GPU cannot be forked for work on it.
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device: found {device}, and torch sees no GPU; use --device cpu")
    try:
        taught = teach(study, _rows(histories), seed, torch.device(device), _shared["deadline"])
    except OutOfTime:
        return False
    arrays = {
        "-".join((name, *map(str, np.atleast_1d(key)))): values
        for name, told in vars(taught).items()
        for key, values in told.items()
    }
    _save(_file(seed, histories), arrays)
    return True


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    partial = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, allow_pickle=False, **arrays)
    partial.replace(path)


def _run(key: dict[str, Any], twin_trial: int | None) -> dict[str, Any] | None:
    torch.set_num_threads(1)
    study, deadline = _shared["study"], _shared["deadline"]
    if time.time() > deadline:
        return None
    rows = _rows(key["histories"])
    taught = None if key["bias"] is None else _taught(_file(*_teacher(key)))
    if key["arm"] == TEACHER:
        assert taught is not None
        return teacher_cell(study, rows, key, taught)
    try:
        if key["overlap"] is not None:
            assert taught is not None
            logits = _scored(key["overlap"], key["seed"])
            taught = replace(taught, logits={key["staleness"]: logits})
        return student_cell(study, rows, key, taught, twin_trial, deadline)
    except OutOfTime:
        return None


def _rows(histories: str | None) -> Rows:
    if histories is None:
        return _shared["rows"]
    if histories not in _shared:
        _shared[histories] = with_own_histories(_shared["study"], _shared["rows"])
    return _shared[histories]


@lru_cache(maxsize=1)
def _taught(path: Path) -> Taught:
    with np.load(path) as file:
        told: dict[str, dict[Any, np.ndarray]] = {}
        for name in file.files:
            of, staleness, *hours = name.split("-")
            key = (int(staleness), int(hours[0])) if hours else int(staleness)
            told.setdefault(of, {})[key] = file[name]
    return Taught(**told)


def _scored(overlap: float, seed: int) -> np.ndarray:
    """What a domain student says, which is kept as its teacher is."""
    path = _file(seed, None)
    path = path.with_name(path.name.replace("teacher-", f"domain-{overlap:g}-"))
    if not path.is_file():
        found = score(
            _shared["study"],
            _rows(None),
            _taught(_file(seed, None)),
            overlap,
            seed,
            _shared["deadline"],
        )
        _save(path, {"logits": found.logits, "chosen": np.array(found.chosen)})
    with np.load(path) as file:
        return file["logits"]


def _file(seed: int, histories: str | None) -> Path:
    study, rows = _shared["study"], _shared["rows"]
    own = f"-{histories}" if histories else ""
    return _shared["folder"] / f"teacher-{study_digest(study)}-{rows.digest[:8]}-{seed}{own}.npz"


class _Here:
    """A pool that is this process: a task is done when it is submitted."""

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future


def _pool(num_workers: int) -> ProcessPoolExecutor | _Here:
    if num_workers == 0:
        return _Here()
    # Forked, so that the rows, which nobody changes, are in memory once.
    return ProcessPoolExecutor(num_workers, multiprocessing.get_context("fork"))
