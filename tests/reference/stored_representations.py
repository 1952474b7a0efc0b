"""What a row may read of what was kept, one impression at a time."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo


def readable_at(kept: Mapping[str, Any], time_zone: str, *, same_day: bool) -> datetime:
    """When what was kept of an impression can first have been known."""
    known = max(kept["event_ts"], kept["known_ts"])
    if same_day:
        return known
    local = known.astimezone(ZoneInfo(time_zone))
    start = datetime(local.year, local.month, local.day)
    end = (start + timedelta(days=1)).replace(tzinfo=ZoneInfo(time_zone))
    return end.astimezone(ZoneInfo("UTC")) - timedelta(microseconds=1)


def history(
    row: Mapping[str, Any],
    kept: Sequence[Mapping[str, Any]],
    length: int,
    lookback_days: int,
    time_zone: str,
    *,
    same_day: bool,
    values: Mapping[str, int] | None = None,
) -> list[str]:
    """Impressions whose representations a row reads, in order.

    Args:
        row: `user_id` and `event_ts` of the impression that reads.
        kept: `impression_id`, `user_id`, `event_ts` and `known_ts` of every kept one.
        length: L.
        lookback_days: How long ago it may have become readable.
        time_zone: Of the log's days.
        same_day: Whether an impression is readable before its day ends.
        values: By impression, the value that it has to share with the row; 0 where it is unknown.
    """
    found = []
    for one in kept:
        if values is not None:
            own = values.get(row["impression_id"], 0)
            if own == 0 or values.get(one["impression_id"], 0) != own:
                continue
        readable = readable_at(one, time_zone, same_day=same_day)
        is_recent = row["event_ts"] - readable <= timedelta(days=lookback_days)
        if one["user_id"] == row["user_id"] and readable < row["event_ts"] and is_recent:
            found.append((readable, one["event_ts"], one["impression_id"]))
    return [impression for *_, impression in sorted(found)][-length:]
