"""Days of which the raw log holds nothing any more: out of the tables where that was declared.

An empty write never replaces a partition, for a day without rows is more often a mount that failed,
a copy that was cut off or a contract that fits no longer than a day on which nothing happened. So a
table keeps what it holds of such a day, and the ingest tells it. Only a run that names the day in
`windows.empty_days` takes it out, in a commit of its own that says so: no rows, no files.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from datetime import date, timedelta
from typing import Any

from deltalake import DeltaTable

from jobs import delta
from jobs.config import RunConfig
from jobs.errors import ConfigError
from jobs.spark.raw import exists


def check_declared(config: RunConfig) -> None:
    """Refuse a declaration that is a mistake.

    Raises:
        ConfigError: A declared day is none of the run's arrival days, or the log is not there.
    """
    outside = [day for day in config.windows.empty_days if day not in config.days]
    if outside:
        raise ConfigError(
            f"windows.empty_days: days of the run, {config.days[0]} to {config.days[-1]}; found "
            f"{', '.join(map(str, outside))}; resolve a run of that day, or mend the date"
        )
    if config.windows.empty_days and not exists(config.log_uri):
        raise ConfigError(
            "windows.empty_days: a log that is there, without rows for the days; found no folder "
            f"{config.log_uri}; nothing was dropped; mend log_uri or mount the log"
        )


def may_be_empty(config: RunConfig, days: Iterable[date]) -> list[date]:
    """Days that a table made of the ingested ones may lose with the run's declared ones.

    Late impressions lie under the day shown, and what is counted over windows under later days.
    """
    if not config.windows.empty_days:
        return []
    first = min(config.windows.empty_days) - timedelta(days=config.windows.max_late_days)
    return [day for day in days if day >= first]


def drop_days(
    uri: str,
    days: Iterable[date],
    commit: dict[str, Any],
    expected: Mapping[str | None, Collection[str]] | None = None,
) -> list[date]:
    """Take days out of a table, each in one commit.

    Args:
        uri: Table; it need not be there.
        days: Days to drop; those that the table does not hold are left alone.
        commit: `run_id`, `config_hash`, `code_hash` and `inputs` of `PartitionCommit`.
        expected: The files by day as they were when that was decided; as they are now if left out.

    Returns:
        Days that were dropped.

    Raises:
        StaleSnapshot: Another writer replaced one of them meanwhile.
    """
    if expected is None:
        expected = delta.paths_by_day(delta.open_table(uri))
    dropped = [day for day in sorted(days) if expected.get(day.isoformat())]
    for day in dropped:
        record = delta.PartitionCommit(day=day.isoformat(), digest="", rows=0, files=[], **commit)
        delta.drop_day(uri, record, expected[day.isoformat()])
    return dropped


def dropped_versions(table: DeltaTable | None) -> dict[date, int]:
    """The version that dropped each day that a table no longer holds."""
    if table is None:
        return {}
    held = set(delta.partition_days(table))
    found: dict[date, int] = {}
    for entry in table.history():
        told = entry.get(delta.METADATA_KEY)
        record = json.loads(told) if isinstance(told, str) else told
        if record is not None and not record["files"]:
            day = date.fromisoformat(record["day"])
            if day not in held:
                found.setdefault(day, entry["version"])
    return found


def with_declared(config: RunConfig, held: Iterable[date]) -> list[date]:
    """Days that a table holds or held until the run emptied them, in order."""
    return sorted({*held, *config.windows.empty_days})
