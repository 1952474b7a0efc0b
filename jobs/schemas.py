"""The raw log's columns by arrival day: what has changed since, and whether that is let in.

Every ingest records the columns of each feed and day in the table `schemas`; those of a one-file
feed lie under the log's first day. A new column is recorded and told, a widened type is accepted
and told; a column that the contract reads and that is gone, narrower or of another type stops the
ingest before it writes anything. Columns that the contract does not name may come and go.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import pyarrow as pa

from jobs import delta
from jobs.errors import ConfigError
from jobs.feeds import Feed

TABLE = "schemas"
Columns = dict[str, str]
"""Spark types by raw column."""
_WIDER = {
    "tinyint": {"smallint", "int", "bigint"},
    "smallint": {"int", "bigint"},
    "int": {"bigint"},
    "float": {"double"},
}


def held_columns(uri: str) -> dict[str, dict[date, Columns]]:
    """Recorded columns by feed and day."""
    found: dict[str, dict[date, Columns]] = {}
    if delta.open_table(uri) is not None:
        for row in delta.read_days(uri).to_pylist():
            days = found.setdefault(row["feed"], {})
            days.setdefault(row["day"], {})[row["column"]] = row["type"]
    return found


def changes(
    name: str, feed: Feed, found: Mapping[date, Columns], held: Mapping[date, Columns]
) -> list[str]:
    """What has changed, day after day, in a feed's raw columns.

    Args:
        name: The feed's name.
        feed: Its contract.
        found: Columns by day, as they were read.
        held: Columns by day, as they were recorded.

    Returns:
        A sentence per change that is let in, days in order.

    Raises:
        ConfigError: A column that the contract reads is gone, narrower or of another type.
    """
    told: list[str] = []
    first = min(found)
    # One file is read anew by every run; a day that is read again, against the days before it.
    earlier = [day for day in held if day < first or "{day}" not in feed.path]
    last = max(earlier, default=None)
    before = None if last is None else held[last]
    for day in sorted(found):
        if before is not None:
            faults = list(_faults(feed, before, found[day]))
            if faults:
                raise ConfigError(
                    f"feeds.{name}: {day}: the raw columns have changed since {last}: "
                    f"{'; '.join(faults)}; mend the log, or say in the contract what is read now"
                )
            told += [f"{name} {day}: {text}" for text in _harmless(before, found[day])]
        last, before = day, found[day]
    return told


def _faults(feed: Feed, before: Columns, found: Columns) -> Iterator[str]:
    for column, kind in before.items():
        now = found.get(column)
        known = (kind, *_WIDER.get(kind, ()), feed.columns.get(column))
        # A row of JSON names only the columns that it has.
        accepted = feed.format == "jsonl" if now is None else now in known
        if accepted or not feed.names(column):
            continue
        if now is None:
            new = [other for other in found if other not in before]
            near = difflib.get_close_matches(column, new, n=1, cutoff=0.5)
            hint = f"the nearest is {near[0]!r}" if near else f"it has {sorted(found)}"
            yield f"column {column!r} ({kind}) is missing ({hint})"
        else:
            how = "narrowed" if kind in _WIDER.get(now, ()) else "changed"
            yield f"column {column!r} is {how} from {kind} to {now}"


def _harmless(before: Columns, found: Columns) -> Iterator[str]:
    for column in sorted(before.keys() | found.keys()):
        was, now = before.get(column), found.get(column)
        if was is None:
            yield f"new column {column!r} ({now})"
        elif now is None:
            yield f"column {column!r} is gone"
        elif was != now:
            yield f"column {column!r} is {now}, was {was}"


def record(
    uri: str, found: Mapping[str, Mapping[date, Columns]], commit: dict[str, Any]
) -> int | None:
    """Record columns by feed and day; other feeds' records of those days stay.

    Returns:
        The table's version, None where nothing was ever recorded.
    """
    held = held_columns(uri)
    for day in sorted({day for days in found.values() for day in days}):
        kept = {feed: days[day] for feed, days in held.items() if day in days}
        kept |= {feed: days[day] for feed, days in found.items() if day in days}
        rows = [
            {"feed": feed, "column": column, "type": kind}
            for feed, columns in kept.items()
            for column, kind in columns.items()
        ]
        delta.write_arrow_day(uri, pa.Table.from_pylist(rows), day, ["feed", "column"], commit)
    return delta.latest_version(uri)
