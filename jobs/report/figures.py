"""How figures are written, the same on the page, in the terminal and in MLflow.

A figure that does not exist is NaN and is written as a dash.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def number(value: Any) -> float:
    """A figure out of JSON; null and what is no number are NaN."""
    return float(value) if isinstance(value, int | float) else math.nan


def decimal(value: float, digits: int = 4) -> str:
    """A metric: NE and AUC with four decimals, calibration with three."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}".replace("-", MINUS)


def count(value: float | None) -> str:
    """A count with thousands separators."""
    return DASH if value is None or math.isnan(value) else f"{value:,.0f}".replace("-", MINUS)


def rate(value: float, digits: int = 1) -> str:
    """A share of one as a percentage."""
    return DASH if math.isnan(value) else f"{value * 100:.{digits}f} %".replace("-", MINUS)


def change(value: float, digits: int = 2) -> str:
    """A relative difference as a percentage with its sign; none where it rounds to zero."""
    if math.isnan(value):
        return DASH
    rounded = round(value * 100, digits)
    sign = "+" if rounded else ""
    return f"{rounded or 0.0:{sign}.{digits}f} %".replace("-", MINUS)


def spread(interval: Interval, digits: int = 4) -> str:
    """The bounds of a metric's interval."""
    return _bounds(decimal(interval.low, digits), decimal(interval.high, digits))


def change_spread(interval: Interval) -> str:
    """The bounds of a relative difference's interval."""
    low, high = change(interval.low), change(interval.high)
    return _bounds(low.removesuffix(" %"), high)


def size(num_bytes: float) -> str:
    """Bytes in decimal units."""
    value = num_bytes
    for unit, digits in (("B", 0), ("kB", 0), ("MB", 1), ("GB", 1)):
        if round(value, digits) < 1000:
            return f"{value:.{digits}f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    """Wall time."""
    if math.isnan(seconds):
        return DASH
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def moment(value: datetime, time_zone: str) -> str:
    """An instant in a time zone, to the minute."""
    return f"{value.astimezone(ZoneInfo(time_zone)):%Y-%m-%d %H:%M}"


def plain(value: Any) -> str:
    """What a check found or a setting holds, whatever its type."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", MINUS) if abs(value) < 10_000 else count(value)
    low, to, high = str(value).partition(" to ")
    if to and _NUMBER.fullmatch(low) and _NUMBER.fullmatch(high):
        return f"{plain(float(low))} to {plain(float(high))}"
    return str(value)


def _bounds(low: str, high: str) -> str:
    return DASH if DASH in (low, high) else f"{low} to {high}"
