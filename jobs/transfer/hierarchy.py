"""A domain student between the teacher and the vertical: it learns first, then scores the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.transfer.arms import Means, distillation_config, student_config
from jobs.transfer.lessons import judged_rows, lessons
from jobs.transfer.rows import Rows
from jobs.transfer.settings import Study
from jobs.transfer.students import learn
from jobs.transfer.teacher import Taught
from model import metrics

_MEANS = Means("auxiliary", counts="category")
"""It has soft labels on a head of their own, and the counts that a `counted` student has."""
_WEIGHT = 3.0
_LEAD_DAYS = 2
"""Days that it learns from labels alone before the first that it scores."""


@dataclass(frozen=True)
class Scored:
    """What a domain student says of the vertical's rows, each day before it learns it."""

    logits: np.ndarray
    """Log-odds of a click, (rows,); NaN where there is none."""
    chosen: int
    """Index of its learning rates."""


def domain_rows(study: Study, rows: Rows, overlap: float, seed: int) -> np.ndarray:
    """Rows that a domain student learns: of the students' domain, and of the others.

    They are as many as the smaller of the two has, a share `overlap` of them of the students'
    domain. The same draw decides of a row here and in `own_rows`, so that of the domain's own rows
    the vertical's are a part, or these are a part of the vertical's.
    """
    drawn = np.random.default_rng(seed).random(len(rows.day))
    own = rows.stream.domain.numpy() == study.domain
    num = min(own.sum(), (~own).sum())
    kept = drawn < np.where(own, overlap * num / own.sum(), (1 - overlap) * num / (~own).sum())
    first_day = max(0, study.first_day - _LEAD_DAYS)
    return np.flatnonzero(kept & (rows.day >= first_day) & (rows.day < study.num_days - 1))


def score(
    study: Study, rows: Rows, taught: Taught, overlap: float, seed: int, deadline: float
) -> Scored:
    """Train a domain student on the freshest unbiased teacher, and keep what it says.

    Paper: GEM (Meta engineering, 2025), the hierarchical path: foundation model, domain-specific
        foundation models, vertical models.
    Differs: one domain student, `counted` in size, tuned by learning rate at one weight.

    Args:
        study: The study.
        rows: All rows.
        taught: What the teacher told.
        overlap: Share of its rows that are of the students' domain.
        seed: Of the initial weights and of the rows drawn.
        deadline: Unix seconds at which to stop.

    Raises:
        OutOfTime: The deadline came first.
    """
    days = [judged_rows(study, rows, day) for day in range(study.first_day, study.num_days)]
    staleness = min(study.staleness)
    own, *judged = (
        lessons(study, rows, at, _MEANS, taught, "unbiased", staleness)
        for at in (domain_rows(study, rows, overlap, seed), *days)
    )
    config = student_config(study, rows, "counted", _MEANS)
    taught_how = distillation_config(_MEANS, _WEIGHT)
    told = [
        learn(config, taught_how, trial, study.batch_size, seed, own, judged, deadline)
        for trial in study.trials
    ]
    labels = judged[-2].labels[:, 0].numpy()
    errors = [metrics.ne(labels, each[-2].double().sigmoid().numpy()) for each in told]
    chosen = int(np.argmin(errors))
    logits = np.full(len(rows.day), np.nan, np.float32)
    for at, each in zip(days, told[chosen], strict=True):
        logits[at] = each
    return Scored(logits, chosen)
