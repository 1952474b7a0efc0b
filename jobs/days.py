"""Which days a run touches, by arrival and by impression."""

from __future__ import annotations

import math
from datetime import date, timedelta

from jobs import delta
from jobs.config import RunConfig, days_between
from jobs.contract import LogContract
from jobs.errors import ConfigError


def shown_days(config: RunConfig) -> list[date]:
    """Days whose impressions or labels the run's arrival days may change.

    Late impressions reach back `max_late_days`; a label matures a window after its impression.

    Raises:
        ConfigError: Nothing has been ingested.
    """
    late = timedelta(days=config.windows.max_late_days)
    first = config.plan.first_day - max(late, longest_window(config.contract))
    held = delta.partition_days(delta.open_table(config.table("impressions")))
    if not held:
        raise ConfigError("impressions: the table is empty; run jobs.ingest_log first")
    return days_between(max(first, held[0] - late), config.plan.day)


def arrival_days(config: RunConfig, reach: timedelta = timedelta()) -> list[date]:
    """Arrival days of the touched days' impressions, or of rows up to `reach` later."""
    shown = shown_days(config)
    late = timedelta(days=config.windows.max_late_days) + reach
    return days_between(shown[0], min(shown[-1] + late, last_arrival_day(config)))


def last_arrival_day(config: RunConfig) -> date:
    """Last arrival day that the tables hold: later than the run's day in a backfill."""
    held = delta.partition_days(delta.open_table(config.table("events")))
    return max([config.plan.day, *held])


def longest_window(contract: LogContract) -> timedelta:
    """The longest attribution window, in whole days."""
    windows = [task.window / timedelta(days=1) for task in contract.tasks.values()]
    return timedelta(days=math.ceil(max(windows)))
