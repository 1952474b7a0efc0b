"""Which touched days would be made of the same inputs again, so that they can be left as they are.

Late rows may change a day, but most arrivals hold none: what a partition has is looked at, not only
that it is there.
"""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime

import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from jobs import delta
from jobs.config import RunConfig, day_of
from jobs.days import shown_days
from jobs.errors import ConfigError

_TELLS_FROM = {"impressions": "event_day", "events": "known_ts"}
"""Of tables by day of arrival, the column that says from which day on a row counts; of all others
the partition does."""


def settled_days(
    config: RunConfig, table: str, inputs: Collection[str], besides: Collection[str] = ()
) -> dict[date, dict[str, int | None]]:
    """Touched days of a table that would be made of the same inputs again by the same code.

    Args:
        config: The run.
        table: Its name.
        inputs: What its rows are made from, attributes aside. A day whose commit does not name
            them all, such as that of an erasure or a repair, is not settled.
        besides: Inputs that may have changed.

    Returns:
        By day the versions that it was made from.
    """
    held = delta.open_table(config.table(table))
    ours = (config.run.config_hash, config.run.code_hash)
    shown, changes = shown_days(config), _Changes(config)
    return {
        day: commit.inputs
        for day, commit in delta.live_commits(held).items()
        if day in shown
        and (commit.config_hash, commit.code_hash) == ours
        and commit.inputs.keys() >= {*inputs}
        and delta.has_files(config.table(table), commit)
        and all(
            changes.first(name, version) > day
            for name, version in commit.inputs.items()
            if name not in besides
        )
    }


class _Changes:
    """From which day on the tables differ from what they were at a version."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._tables: dict[str, DeltaTable | None] = {}
        self._first: dict[tuple[str, int | None], date] = {}
        self._earliest: dict[tuple[str, date, int | None], date] = {}

    def first(self, name: str, version: int | None) -> date:
        """The first day that a change since the version counts for; `date.max` without any."""
        if (name, version) not in self._first:
            self._first[name, version] = min(self._changed(name, version), default=date.max)
        return self._first[name, version]

    def _changed(self, name: str, version: int | None) -> list[date]:
        if name not in self._tables:
            self._tables[name] = delta.open_table(self.config.table(name))
        table = self._tables[name]
        if table is None:
            return []
        partitions = delta.touched_days(table, version)
        if name not in _TELLS_FROM:
            return [*partitions]
        # A row that is gone counted until it went.
        earlier = delta.paths_at(table, version)
        return [
            self._tells_from(name, day, each)
            for day in partitions
            for each, held in ((None, True), (version, day.isoformat() in earlier))
            if held
        ]

    def _tells_from(self, name: str, day: date, version: int | None) -> date:
        key = (name, day, version)
        if key not in self._earliest:
            self._earliest[key] = self._read(name, day, version)
        return self._earliest[key]

    def _read(self, name: str, day: date, version: int | None) -> date:
        column = _TELLS_FROM[name]
        try:
            rows = delta.read_days(self.config.table(name), [day], [column], version)
        except (ConfigError, DeltaError, OSError):
            return date.min  # Vacuumed: what it told of is not known.
        first = pc.min(rows[column]).as_py()
        if first is None:
            return date.max
        zone = self.config.contract.time_zone
        return day_of(first, zone) if isinstance(first, datetime) else first
