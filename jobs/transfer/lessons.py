"""What one student reads, gathered once: its own rows, and those that it is judged on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.scaling.stream import FIELDS
from jobs.simulation import DAY_MS
from jobs.transfer.arms import Means
from jobs.transfer.rows import Rows
from jobs.transfer.settings import Bias, Study
from jobs.transfer.teacher import Taught
from model.batch import Batch
from model.representations.quantise import dequantise
from model.representations.stored import StoredRepresentations


@dataclass(frozen=True)
class Lessons:
    """Rows of one domain in order of time, as one arm reads them."""

    rows: np.ndarray
    """Their places among all rows."""
    categorical: Tensor
    dense: Tensor
    labels: Tensor
    """(rows, 1)."""
    teacher: Tensor
    """Probabilities of the teacher, (rows, 1); NaN where there is none."""
    vector: Tensor | None
    stored: StoredRepresentations | None

    def batch(self, low: int, high: int) -> Batch:
        """Rows from one place to another."""
        stored = None
        if self.stored is not None:
            offsets = self.stored.offsets[low : high + 1]
            first, end = int(offsets[0]), int(offsets[-1])
            stored = StoredRepresentations(
                self.stored.values[first:end], self.stored.age_us[first:end], offsets - first
            )
        return Batch(
            self.categorical[low:high],
            self.dense[low:high],
            torch.zeros(high - low, dtype=torch.int64),
            user_vector=None if self.vector is None else self.vector[low:high],
            representations=stored,
        )


def own_rows(study: Study, rows: Rows, seed: int) -> np.ndarray:
    """Rows that a student learns: a share of its domain's, from the first scored day on."""
    drawn = np.random.default_rng(seed).random(len(rows.day)) < study.share
    own = rows.stream.domain.numpy() == study.domain
    return np.flatnonzero(
        drawn & own & (rows.day >= study.first_day) & (rows.day < study.num_days - 1)
    )


def judged_rows(study: Study, rows: Rows, day: int) -> np.ndarray:
    """Rows that all arms are judged on: all of the domain on a day."""
    return np.flatnonzero((rows.stream.domain.numpy() == study.domain) & (rows.day == day))


def lessons(
    study: Study,
    rows: Rows,
    at: np.ndarray,
    means: Means,
    taught: Taught | None,
    bias: Bias | None,
    staleness: int | None,
    hours: int | None = None,
) -> Lessons:
    """Gather what an arm reads of some rows.

    Args:
        study: The study.
        rows: All rows.
        at: Places of the rows wanted, rising.
        means: What the arm has.
        taught: What the teacher told; None for arms without one.
        bias: The teacher's, None likewise.
        staleness: The teacher's, None likewise.
        hours: Between refreshes of what is cached of users; None for the study's.
    """
    hours = hours or study.refresh_hours
    place = torch.from_numpy(at)
    teacher = torch.full((len(at), 1), torch.nan)
    vector, stored = None, None
    category = rows.stream.categorical[:, FIELDS.index("category")].numpy()
    counts = torch.empty(len(at), 0)
    if means.counts is not None:
        counts = rows.cached_counts[hours][place]
        if means.counts == "category":
            # Columns are window after window, by category; row 0 of a table is no category.
            width = (counts.shape[1] - 1) // len(study.windows)
            own = [
                torch.from_numpy(category[at] - 1 + i * width) for i in range(len(study.windows))
            ]
            columns = torch.stack([*own, torch.full((len(at),), counts.shape[1] - 1)], dim=1)
            counts = counts.gather(1, columns)
    if taught is not None and staleness is not None:
        if means.head is not None:
            shift = over_prediction_shift(study, taught, staleness) if bias != "unbiased" else 0.0
            told = taught.logits[staleness][at].astype(np.float64) + shift
            teacher = torch.from_numpy(1 / (1 + np.exp(-told))).float()[:, None]
        if means.vector == "user":
            vector = dequantise(torch.from_numpy(taught.user_vectors[staleness, hours][at]), 8)
        elif means.vector == "matched":
            vector = torch.from_numpy(taught.matched[staleness, hours][at])
        elif means.vector == "row":
            vector = dequantise(torch.from_numpy(taught.latents[staleness][at]), 4)
        if means.history is not None:
            by = category if means.history == "category" else None
            stored = earlier(study, rows, at, taught.latents[staleness], hours, by)
    return Lessons(
        at,
        rows.stream.categorical[place],
        counts,
        rows.stream.labels[place][:, None],
        teacher,
        vector,
        stored,
    )


def earlier(
    study: Study,
    rows: Rows,
    at: np.ndarray,
    latents: np.ndarray,
    hours: int,
    by: np.ndarray | None = None,
) -> StoredRepresentations:
    """What the teacher kept of users' rows of before the last refresh, the L latest of each.

    Args:
        study: The study.
        rows: All rows.
        at: Places of the rows that read.
        latents: Codes of all rows.
        hours: Between refreshes; with 24 no row of the same day is known.
        by: A number per row that must be equal too, or None.
    """
    owner = rows.user if by is None else rows.user * (int(by.max()) + 1) + by
    scored = np.flatnonzero(rows.day >= study.first_day)
    order = scored[np.argsort(owner[scored], kind="stable")]
    row_us = rows.stream.row_us
    span = study.num_days * DAY_MS * 1000
    key = owner[order] * span + row_us.numpy()[order] - rows.origin_us
    refreshed_us = rows.refreshed_us(hours)[at] - rows.origin_us
    end = np.searchsorted(key, owner[at] * span + refreshed_us)
    first = np.searchsorted(key, owner[at] * span)
    start = np.maximum(first, end - study.history_length)
    length = end - start
    offsets = np.r_[0, np.cumsum(length)]
    place = order[np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], length)]
    reader = torch.from_numpy(np.repeat(at, length))
    source = torch.from_numpy(place)
    return StoredRepresentations(
        dequantise(torch.from_numpy(latents[place]), 4),
        row_us[reader] - row_us[source],
        torch.from_numpy(offsets),
    )


def over_prediction_shift(study: Study, taught: Taught, staleness: int) -> float:
    """Log-odds by which the teacher's clicks of its first scored rows rise as much as is asked."""
    told = taught.logits[staleness]
    z = told[~np.isnan(told)][:100_000].astype(np.float64)
    low, high = 0.0, 5.0
    wanted = study.over_prediction * (1 / (1 + np.exp(-z))).mean()
    for _ in range(60):
        middle = (low + high) / 2
        if (1 / (1 + np.exp(-z - middle))).mean() < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2
