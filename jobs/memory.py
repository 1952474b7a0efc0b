"""Memory of a process and everything that it started: JVM, Python workers, Ray."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType

INTERVAL_SECONDS = 0.5


class PeakMemory:
    """Samples the memory of this process and its descendants while its block runs.

    A page that several processes share counts once (proportional set size), where the system tells;
    otherwise what is a process's own. A peak shorter than the interval may be missed.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.num_bytes = max(self.num_bytes, memory_of_tree())
            if self._ended.wait(INTERVAL_SECONDS):
                return


def memory_of_tree() -> int:
    """Bytes that this process and its descendants hold now."""
    import psutil  # here, so that what never asks runs without it

    process = psutil.Process()
    total = 0
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            held = each.memory_full_info()
            total += getattr(held, "pss", held.uss)
    return total
