"""Which days a run touches, by arrival and by impression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta

from jobs import delta
from jobs.config import RunConfig, day_of, day_start, days_between
from jobs.contract import LogContract
from jobs.emptied import dropped_versions, with_declared
from jobs.errors import ConfigError


def shown_days(config: RunConfig) -> list[date]:
    """Days whose impressions or labels the run's arrival days may change.

    Late impressions reach back `max_late_days`; a label matures a window after its impression.

    Raises:
        ConfigError: Nothing has been ingested.
    """
    zone = config.contract.time_zone
    late = timedelta(days=config.windows.max_late_days)
    # Not a number of days: a window of one day may end two days later where a day has 23 hours.
    closing = day_of(day_start(config.plan.first_day, zone) - longest_window(config.contract), zone)
    impressions = delta.open_table(config.table("impressions"))
    held = with_declared(config, delta.partition_days(impressions))
    if not held or held[0] - late > config.plan.day:
        raise ConfigError(
            f"impressions: the table holds nothing up to {config.plan.day}; run jobs.ingest_log "
            "for that day first"
        )
    first = min(config.plan.first_day - late, closing)
    return days_between(max(first, held[0] - late), config.plan.day)


def arrival_days(config: RunConfig, shown: Sequence[date] | None = None) -> list[date]:
    """Arrival days of the impressions of touched days: of those given, or of all."""
    shown = shown_days(config) if shown is None else shown
    if not shown:
        return []
    late = timedelta(days=config.windows.max_late_days)
    return days_between(shown[0], min(shown[-1] + late, last_arrival_day(config)))


def outcome_days(config: RunConfig) -> list[date]:
    """Arrival days of the outcomes that the touched days' labels may count."""
    zone = config.contract.time_zone
    arrivals = arrival_days(config)
    end = day_start(config.plan.day + timedelta(days=1), zone)
    closing = day_of(end + longest_window(config.contract), zone)
    return days_between(arrivals[0], min(max(arrivals[-1], closing), last_arrival_day(config)))


def last_arrival_day(config: RunConfig) -> date:
    """Last arrival day that the tables hold: later than the run's day in a backfill."""
    held = delta.partition_days(delta.open_table(config.table("events")))
    return max([config.plan.day, *held])


DERIVED = ("labels", "entity_features", "timelines", "examples")
"""Tables by day that are made of the ingested ones."""


def stale_days(config: RunConfig, ingested: Iterable[str]) -> dict[str, list[str]]:
    """Days after the run's own that were made before one of the run's days was last changed.

    Of copies of a row the one on the earliest day is kept, and what is derived of a day reads the
    days before it. Told from the tables' versions, so that a repeat after a crash knows.

    Args:
        config: The run.
        ingested: Tables by arrival day that the run has written.

    Returns:
        Days by table, the derived ones included.
    """
    last = config.days[-1]
    stale: dict[str, list[date]] = {}
    for name in ingested:
        table = delta.open_table(config.table(name))
        held = delta.live_versions(table)
        made = [*held.items(), *dropped_versions(table).items()]
        changed = max([version for day, version in made if day in config.days], default=-1)
        stale[name] = [day for day in held if day > last and held[day] < changed]
    if any(stale.values()):
        for name in DERIVED:
            days = delta.partition_days(delta.open_table(config.table(name)))
            stale[name] = [day for day in days if day > last]
    return {name: [str(day) for day in sorted(days)] for name, days in stale.items() if days}


def longest_window(contract: LogContract) -> timedelta:
    """The longest attribution window."""
    return max(task.longest_window for task in contract.tasks.values())
