"""Searching many sorted lines at once."""

from __future__ import annotations

import numpy as np


def num_before(
    starts: np.ndarray, moments: np.ndarray, line: np.ndarray, until: np.ndarray
) -> np.ndarray:
    """How many moments of a line lie strictly before another moment.

    Args:
        starts: First moment of each line and, last, the number of all.
        moments: Moments, line after line, sorted within each.
        line: Lines to look in.
        until: The moment asked of each.
    """
    # All lines are searched at once, halving what is left of each.
    low, high = starts[line].astype(np.int64), starts[line + 1].astype(np.int64)
    first = low.copy()
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) // 2
        is_open = low < high
        is_before = is_open & (moments[np.where(is_open, middle, 0)] < until)
        low = np.where(is_before, middle + 1, low)
        high = np.where(is_open & ~is_before, middle, high)
    return low - first
