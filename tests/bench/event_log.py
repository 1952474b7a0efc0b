"""A skewed event log in files, as the benches of histories read it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import delta

FIRST_DAY = date(2026, 1, 1)
DAY_US = 86_400_000_000
_SURFACES = ("feed", "reels", "stories", "search", "explore")
_TYPES = ("impression", "view", "click", "like", "conversion")
_MOMENT = pa.timestamp("us", "UTC")


@dataclass(frozen=True)
class EventLog:
    """What decides every row. A user's and an item's share fall with the power `skew` of rank."""

    num_events: int
    num_impressions: int
    num_users: int
    num_days: int = 30
    num_requested: int = 3
    """The last days, on which impressions are shown and timelines are built."""
    num_items: int = 50_000
    skew: float = 1.0
    seed: int = 0

    @cached_property
    def days(self) -> list[date]:
        """Days whose timelines are built."""
        last = FIRST_DAY + timedelta(days=self.num_days - 1)
        return [last - timedelta(days=n) for n in reversed(range(self.num_requested))]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write events and impressions, Delta tables by arrival day; returns their folders."""
        folder.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(self.seed)
        start = round(datetime(*FIRST_DAY.timetuple()[:3], tzinfo=UTC).timestamp() * 1e6)
        n = self.num_events
        # Moments of whole seconds, so that many coincide; a tenth becomes known later.
        happened = start + draw.integers(0, self.num_days * 86_400, n) * 1_000_000
        delay = np.where(draw.random(n) < 0.1, draw.integers(0, 7_200, n) * 1_000_000, 0)
        known = np.minimum(happened + delay, start + self.num_days * DAY_US - 1)
        kind = draw.integers(0, len(_TYPES), n)
        value = np.where(kind == len(_TYPES) - 1, np.round(draw.lognormal(2, 1, n), 2), np.nan)
        events = pa.table(
            {
                "event_id": np.strings.add("e", draw.permutation(n).astype(str)),
                "user_id": self._users(draw, n),
                "item_id": self._names("i", draw, n, self.num_items),
                "surface": self._of(_SURFACES, draw.integers(0, len(_SURFACES), n)),
                "event_type": self._of(_TYPES, kind),
                "value": pa.array(value, from_pandas=True),
                "event_ts": pa.array(happened, _MOMENT),
                "known_ts": pa.array(known, _MOMENT),
                "time_is_synthetic": pa.array(np.zeros(n, bool)),
                "day": _day(known),
            }
        )
        first = start + (self.num_days - self.num_requested) * DAY_US
        m = self.num_impressions
        shown = first + draw.integers(0, self.num_requested * 86_400, m) * 1_000_000
        impressions = pa.table(
            {
                "impression_id": np.strings.add("s", np.arange(m).astype(str)),
                "user_id": self._users(draw, m),
                "event_ts": pa.array(shown, _MOMENT),
                "event_day": _day(shown),
                "day": _day(shown),
            }
        )
        paths = (folder / "events", folder / "impressions")
        for table, path in zip((events, impressions), paths, strict=True):
            _write_by_day(table, path)
        return paths

    def _users(self, draw: np.random.Generator, rows: int) -> np.ndarray:
        return self._names("u", draw, rows, self.num_users)

    def _names(self, prefix: str, draw: np.random.Generator, rows: int, number: int) -> np.ndarray:
        share = 1.0 / np.arange(1, number + 1) ** self.skew
        up_to = np.cumsum(share / share.sum())
        ranks = np.minimum(np.searchsorted(up_to, draw.random(rows)), number - 1)
        return np.strings.add(prefix, ranks.astype(str))

    @staticmethod
    def _of(names: tuple[str, ...], indexes: np.ndarray) -> pa.Array:
        return pa.array(names).take(pa.array(indexes))


def _day(micros: np.ndarray) -> pa.Array:
    return pa.array((micros // DAY_US).astype(np.int32), pa.int32()).cast(pa.date32())


def _write_by_day(table: pa.Table, path: Path) -> None:
    commit = {"run_id": "bench", "config_hash": "", "code_hash": "", "inputs": {}}
    for day in sorted(table["day"].unique().to_pylist()):
        rows = table.filter(pc.equal(table["day"], day)).drop_columns(["day"])
        delta.write_arrow_day(str(path), rows, day, [table.column_names[0]], commit)
