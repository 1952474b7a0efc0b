"""Ratios of paired timings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Ratio:
    """How often as long one arm took as another."""

    median: float
    low: float
    high: float
    """Ends of the 95 % interval of the median, rounds resampled."""


def ratio(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Ratio:
    """Median of the ratios of runs of the same round."""
    each = np.asarray(ours) / np.asarray(theirs)
    drawn = np.random.default_rng(seed).integers(0, len(each), (_RESAMPLES, len(each)))
    low, high = np.quantile(np.median(each[drawn], axis=1), [0.025, 0.975])
    return Ratio(*(round(float(x), 3) for x in (np.median(each), low, high)))
