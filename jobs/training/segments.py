"""One pass over labels in time order, cut into segments at day boundaries.

At the end of a segment a model has learnt every label that had matured by then, which is what
scoring out of sample and warm starts go by.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.config import Plan, day_of, day_start, days_between
from jobs.training.inputs import Packed

MIN_FIRST_ROWS = 5000
"""A first segment has at least this many rows: it sets the heads' base rates."""


@dataclass(frozen=True)
class Segment:
    """Labels that matured after `start` and by `end` (UTC)."""

    start: datetime | None
    end: datetime


def training_segments(
    plan: Plan, packed: Packed, time_zone: str, *, afresh: bool = False
) -> list[Segment]:
    """Segments from what the parent has learnt up to the gate window, cut at day boundaries.

    Leading segments of a first run with few rows are joined with the next.

    Args:
        plan: Says when training starts and ends.
        packed: The rows.
        time_zone: Of the days.
        afresh: For a model without a past in a family that has one: from the first packed row on.
    """
    if afresh:
        plan = plan.model_copy(update={"trained_from": None, "bootstrap": True})
    begin = plan.trained_from or datetime.fromtimestamp(packed.event_us[0] / 1e6, UTC)
    days = days_between(day_of(begin, time_zone), day_of(plan.gate_start, time_zone))
    marks = [day_start(day, time_zone) for day in days]
    ends = [mark for mark in marks if begin < mark < plan.gate_start] + [plan.gate_start]
    found: list[Segment] = []
    start = plan.trained_from
    for end in ends:
        few = plan.bootstrap and not found and _num_rows(packed, start, end) < MIN_FIRST_ROWS
        if few and end != ends[-1]:
            continue
        found.append(Segment(start, end))
        start = end
    return found


def gate_segment(plan: Plan) -> Segment:
    """The gate window."""
    return Segment(plan.gate_start, plan.gate_end)


def _num_rows(packed: Packed, start: datetime | None, end: datetime) -> int:
    return int(packed.matured(start, end).any(axis=1).sum())
