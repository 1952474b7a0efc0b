"""Independent pieces of work side by side: one core learns a student, the other its twin."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from jobs.config import Resources

S = TypeVar("S")
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


def on_threads(function: Callable[[S], T], items: Sequence[S], device: str) -> list[T]:
    """A function of many items without gradients, as many at a time as torch has threads.

    Each takes one of them. Threads that share every operation wait for each other at its end, which
    takes many times as long where other work keeps a core busy.

    Args:
        function: Called from several threads, in inference mode.
        items: What it is called with.
        device: On a GPU, and with one thread, the items are taken here, in turn.

    Returns:
        What it returned, in the order of the items.
    """

    def infer(item: S) -> T:
        with torch.inference_mode():
            return function(item)

    threads = torch.get_num_threads()
    if device != "cpu" or min(threads, len(items)) <= 1:
        return [infer(item) for item in items]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(infer, items))
    finally:
        torch.set_num_threads(threads)


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
