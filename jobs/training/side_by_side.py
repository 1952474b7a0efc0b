"""Independent pieces of work side by side: one core learns a student, the other its twin."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

from jobs.config import Resources

T = TypeVar("T")


def side_by_side(calls: Sequence[Callable[[], T]], resources: Resources) -> list[T]:
    """Make calls in processes of their own, `job_processes` at a time, one thread each.

    The processes are forked, so that rows, which nobody changes, are in memory once; what a call
    returns is sent back, so it should be small. A forked process can neither read Delta tables nor
    use a GPU: on one, and with one process, the calls are made here, in turn.

    Args:
        calls: What to do.
        resources: Say how many processes, and which device.

    Returns:
        What each call returned, in the order of the calls.

    Raises:
        BrokenProcessPool: A process was killed.
        Exception: Whatever a call raised first.
    """
    if resources.device != "cpu" or min(resources.job_processes, len(calls)) <= 1:
        torch.set_num_threads(resources.worker_threads)
        return [call() for call in calls]
    # Makes torch import what every optimiser needs, once for all processes.
    torch.optim.Adam([torch.zeros(1)])
    fork = multiprocessing.get_context("fork")
    # What initialises a forked process is inherited, not sent.
    given = (calls, os.getpid())
    with ProcessPoolExecutor(resources.job_processes, fork, _take, given) as pool:
        return list(pool.map(_make, range(len(calls))))


_taken: list[Callable[[], Any]] = []
"""Calls, in a process that makes them."""


def _take(calls: Sequence[Callable[[], Any]], parent: int) -> None:
    # Threads of OpenMP do not survive a fork: with more than one it would wait for them for ever.
    torch.set_num_threads(1)
    _taken[:] = calls
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process soon after the one that forked it: a killed job leaves nothing behind."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _make(index: int) -> Any:
    return _taken[index]()
