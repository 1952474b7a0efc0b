"""Random numbers of the simulated world: every purpose and day has a generator of its own."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from jobs.simulation.world import HOUR_SHARES, Array, Indexes, World


class Stream(IntEnum):
    """Purposes that have random numbers of their own."""

    USERS = 1
    CAMPAIGNS = 2
    TASKS = 3
    AD_PHASES = 4
    ADS = 5
    DRIFT = 6
    ORGANIC = 7
    REQUESTS = 8
    AUCTIONS = 9
    OUTCOMES = 10
    CREATIVES = 11
    WORDS = 12
    TITLES = 13
    CHANGE = 14
    CONFOUNDER = 15


def random(world: World, stream: Stream, number: int = 0) -> np.random.Generator:
    """The generator of one purpose on one day or week; those before number 0 have one too."""
    key = np.array([world.seed, (int(stream) << 32) + (1 << 31) + number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def picked(up_to: Array, uniform: Array) -> Indexes:
    """Indexes drawn from cumulated shares."""
    return np.minimum(np.searchsorted(up_to, uniform, side="right"), len(up_to) - 1)


def categories(up_to: Array, uniform: Array) -> Indexes:
    """One index per row, drawn from the row's cumulated shares."""
    return np.minimum((up_to <= uniform[:, None]).sum(axis=1), up_to.shape[1] - 1)


def times_of_day(rng: np.random.Generator, rows: int) -> Indexes:
    """Sorted milliseconds since midnight: busiest at 20:00, quietest at 8:00."""
    hour = picked(np.cumsum(HOUR_SHARES), rng.random(rows))
    return np.sort(hour * 3_600_000 + rng.integers(3_600_000, size=rows))


def mixed(common: Array, own: Array, common_ratio: float) -> Array:
    """Vectors of which a share of the variance is common to a group."""
    return np.sqrt(common_ratio) * common + np.sqrt(1 - common_ratio) * own


def whitened(vectors: Array) -> Array:
    """The vectors, mapped linearly so that their mean is 0 and their covariance I."""
    centred = vectors - vectors.mean(axis=0)
    root = np.linalg.cholesky(centred.T @ centred / len(vectors))
    return np.linalg.solve(root, centred.T).T


def scaled(vectors: Array, length: float) -> Array:
    return vectors * (length / np.linalg.norm(vectors, axis=-1, keepdims=True))
