"""What Spark's Python workers do once, before their first rows."""

from __future__ import annotations

import functools
import gc


@functools.cache
def spare_imports() -> None:
    """Leave what is imported out of garbage collections, from the first call in a process on.

    Spark has its workers collect garbage after every task. Modules that are there for good are
    most of what is looked through then: up to 30 ms, more than many a task takes.
    """
    gc.freeze()
