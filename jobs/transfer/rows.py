"""Rows of a simulated world with what a teacher counts of a user's past actions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from jobs.scaling.sizes import EVENT_FIELDS
from jobs.scaling.stream import Stream, read_stream
from jobs.simulation import DAY_MS, PRESETS
from jobs.transfer.settings import Study

NUM_GROUPS = 200
"""Groups of users that are resampled together: sums by group are kept, so that no row has to be."""


@dataclass(frozen=True)
class Rows:
    """All rows of a study, in order of time. They are the same for every cell."""

    stream: Stream
    day: np.ndarray
    """Day number of each row."""
    user: np.ndarray
    """Users as numbers from 0, (rows,)."""
    num_users: int
    counts: torch.Tensor
    """Shares of each category among the user's latest actions before the row, for every window,
    and the logarithm of the number of actions, (rows, columns)."""
    cached_counts: torch.Tensor
    """The same as it was when what is cached of users was last refreshed before the row."""
    digest: str
    """SHA-256 of labels, table indexes and true probabilities to six decimals."""

    def first(self, day: int) -> int:
        """First row of a day."""
        return int(np.searchsorted(self.day, day))

    @property
    def group(self) -> np.ndarray:
        """Group of each row's user, below `NUM_GROUPS`."""
        return self.user % NUM_GROUPS


def read_rows(study: Study) -> Rows:
    """Simulate the rows of a study.

    Raises:
        KeyError: There is no such world.
    """
    preset = PRESETS[study.preset]
    stream = read_stream(preset.world, study.num_days)
    origin_us = preset.world.day_ms(0) * 1000
    row_us = stream.row_us.numpy()
    names, user = np.unique(stream.users, return_inverse=True)
    category = stream.event_categorical[:, EVENT_FIELDS.index("category")].numpy() - 1
    num_categories = int(category.max()) + 1
    sums = np.zeros((len(category) + 1, num_categories), np.int32)
    sums[np.arange(1, len(category) + 1), category] = 1
    np.cumsum(sums, axis=0, out=sums)
    # Events are by user and then by time: one search in a number that rises with both.
    day_us = DAY_MS * 1000
    span = study.num_days * day_us
    place = stream.event_users * span + stream.event_us.numpy() - origin_us
    refresh_us = study.refresh_hours * day_us // 24
    refreshed = (row_us - origin_us) // refresh_us * refresh_us
    cached_end = np.searchsorted(place, stream.users * span + refreshed)
    return Rows(
        stream=stream,
        day=(row_us - origin_us) // day_us,
        user=user,
        num_users=len(names),
        counts=_counts(sums, stream.first_event, stream.end_event, study.windows),
        cached_counts=_counts(sums, stream.first_event, cached_end, study.windows),
        digest=_digest(stream),
    )


def _counts(
    sums: np.ndarray, first: np.ndarray, end: np.ndarray, windows: tuple[int, ...]
) -> torch.Tensor:
    shares = [(sums[end] - sums[np.maximum(end - n, first)]) / np.float32(n) for n in windows]
    length = np.log1p(end - first)[:, None]
    return torch.from_numpy(np.concatenate([*shares, length], axis=1).astype(np.float32))


def _digest(stream: Stream) -> str:
    found = hashlib.sha256()
    for array in (stream.categorical.numpy(), stream.labels.numpy().astype(np.int8)):
        found.update(np.ascontiguousarray(array).tobytes())
    found.update(np.rint(stream.p_star * 1e6).astype("<i8").tobytes())
    return found.hexdigest()
