"""Rows of a simulated world with what a teacher counts of a user's past actions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch

from jobs.scaling.sizes import EVENT_FIELDS
from jobs.scaling.stream import Stream, read_stream
from jobs.simulation import DAY_MS, PRESETS, SURFACE_DOMAIN
from jobs.simulation.world import HOUR_MS
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
    origin_us: int
    """Midnight of day 0, in Unix microseconds."""
    counts: torch.Tensor
    """Shares of each category among the user's latest actions before the row, for every window,
    and the logarithm of the number of actions, (rows, columns)."""
    cached_counts: dict[int, torch.Tensor]
    """The same as it was when what is cached of users was last refreshed before the row, by the
    hours between refreshes."""
    digest: str
    """SHA-256 of labels, table indexes and true probabilities to six decimals."""

    def first(self, day: int) -> int:
        """First row of a day."""
        return int(np.searchsorted(self.day, day))

    def refreshed_us(self, hours: int) -> np.ndarray:
        """When what is cached of the row's user was last refreshed, at or before the row.

        Every so many hours from midnight on. Of k days, users take turns: one in k is refreshed at
        each midnight.
        """
        if hours <= 24:
            width = hours * HOUR_MS * 1000
            return self.stream.row_us.numpy() // width * width
        late = (self.day + self.user) % (hours // 24)
        return self.origin_us + np.maximum(self.day - late, 0) * DAY_MS * 1000

    def refresh_day(self, hours: int) -> np.ndarray:
        """Number of the day of the last refresh, (rows,)."""
        return (self.refreshed_us(hours) - self.origin_us) // (DAY_MS * 1000)

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
    names, user = np.unique(stream.users, return_inverse=True)
    rows = Rows(
        stream=stream,
        day=(stream.row_us.numpy() - origin_us) // (DAY_MS * 1000),
        user=user,
        num_users=len(names),
        origin_us=origin_us,
        counts=torch.empty(0),
        cached_counts={},
        digest=_digest(stream),
    )
    return _with_counts(study, rows, np.zeros(len(stream.event_users)), np.zeros(len(user)))


def with_own_histories(study: Study, rows: Rows) -> Rows:
    """The rows with counts of what users did on the row's own platform alone."""
    surface = rows.stream.event_categorical[:, EVENT_FIELDS.index("surface")].numpy() - 1
    # Tables number the surfaces that were seen, so that all must have been.
    assert surface.max() + 1 == (rows.stream.num_domains > SURFACE_DOMAIN).sum()
    return _with_counts(study, rows, SURFACE_DOMAIN[surface], rows.stream.domain.numpy())


def _with_counts(study: Study, rows: Rows, of_event: np.ndarray, of_row: np.ndarray) -> Rows:
    """Rows with what a row is told of events that are of its own kind."""
    moments = {
        0: rows.stream.row_us.numpy(),
        **{hours: rows.refreshed_us(hours) for hours in (study.refresh_hours, *study.delays)},
    }
    width = len(study.windows) * (rows.stream.table_rows["category"] - 1) + 1
    found = {hours: np.zeros((len(rows.day), width), np.float32) for hours in moments}
    for kind in np.unique(of_row):
        own, at = of_event == kind, np.flatnonzero(of_row == kind)
        for hours, moment in moments.items():
            found[hours][at] = _counts(study, rows, own, at, moment[at])
    counts = {hours: torch.from_numpy(values) for hours, values in found.items()}
    return replace(rows, counts=counts.pop(0), cached_counts=counts)


def _counts(
    study: Study, rows: Rows, own: np.ndarray, at: np.ndarray, moment_us: np.ndarray
) -> np.ndarray:
    """What some rows' users had done before some moments, of some events."""
    stream = rows.stream
    category = stream.event_categorical[:, EVENT_FIELDS.index("category")].numpy()[own] - 1
    sums = np.zeros((len(category) + 1, stream.table_rows["category"] - 1), np.int32)
    sums[np.arange(1, len(category) + 1), category] = 1
    np.cumsum(sums, axis=0, out=sums)
    # Events are by user and then by time: one search in a number that rises with both.
    span = study.num_days * DAY_MS * 1000
    place = stream.event_users[own] * span + stream.event_us.numpy()[own] - rows.origin_us
    user = stream.users[at] * span
    first, end = (
        np.searchsorted(place, user),
        np.searchsorted(place, user + moment_us - rows.origin_us),
    )
    shares = [(sums[end] - sums[np.maximum(end - n, first)]) / np.float32(n) for n in study.windows]
    return np.concatenate([*shares, np.log1p(end - first)[:, None]], axis=1)


def _digest(stream: Stream) -> str:
    found = hashlib.sha256()
    for array in (stream.categorical.numpy(), stream.labels.numpy().astype(np.int8)):
        found.update(np.ascontiguousarray(array).tobytes())
    found.update(np.rint(stream.p_star * 1e6).astype("<i8").tobytes())
    return found.hexdigest()
