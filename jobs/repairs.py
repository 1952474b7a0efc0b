"""The ledger of label repairs: up to which arrival day the labels of a repaired day count outcomes.

The tables follow the ledger. A repair is first decided (a numbered transaction that names the days,
what will change in them, and which models had learnt it), then carried out, then said to be done;
one that died between is carried out by the next. Whoever builds the labels of a day reads here how
far a repair has reached, so that building them again cannot undo it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Literal

import pyarrow as pa
from deltalake import DeltaTable

from jobs import delta, ledgers

TABLE = "label_repairs"
APP_ID = "label_repairs"

_MODEL = pa.struct([(name, pa.string()) for name in ("name", "version", "run_id")])
_CHANGE = pa.struct([("column", pa.string()), ("before", pa.int8()), ("after", pa.int8())])
_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("action", pa.string()),
        ("outcomes_version", pa.int64()),
        ("day", pa.date32()),
        ("until", pa.date32()),
        ("num_late", pa.int64()),
        ("num_impressions", pa.int64()),
        ("changes", pa.list_(pa.struct([*_CHANGE, pa.field("num_labels", pa.int64())]))),
        ("stale", pa.list_(pa.struct([*_MODEL, pa.field("num_labels", pa.int64())]))),
        ("at", pa.timestamp("us", "UTC")),
        ("config_hash", pa.string()),
        ("code_hash", pa.string()),
    ]
)


@dataclass(frozen=True)
class DayRepair:
    """What a repair does to the labels of one day of impressions."""

    day: date
    until: date
    """Labels of the day count the outcomes known by the end of this arrival day."""
    num_late: int
    """Outcomes within some window that arrived after their label had matured."""
    num_impressions: int = 0
    """Impressions with a mature label that changes."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Labels by `column`, `before` and `after`: `num_labels`."""
    stale: list[dict[str, Any]] = field(default_factory=list)
    """Registered versions that had learnt `num_labels` of them as they were before."""


@dataclass(frozen=True)
class Repairs:
    """The ledger as one snapshot saw it."""

    uri: str
    snapshot: DeltaTable | None
    rows: tuple[dict[str, Any], ...]

    @property
    def version(self) -> int | None:
        """Version of the table."""
        return None if self.snapshot is None else self.snapshot.version()

    @property
    def seen(self) -> int | None:
        """Version of `outcomes` that the last repair looked at."""
        return self.rows[-1]["outcomes_version"] if self.rows else None

    @property
    def number(self) -> int:
        """Number of the last transaction; 0 for none."""
        return self.rows[-1]["number"] if self.rows else 0

    @property
    def pending(self) -> list[date]:
        """Days of a repair that was decided and not yet carried out."""
        last = [row for row in self.rows if row["number"] == self.number]
        return [row["day"] for row in last if row["action"] == "decide"]

    @property
    def until(self) -> dict[date, date]:
        """How far the repairs of each day have reached, by day of impression."""
        found: dict[date, date] = {}
        for row in self.rows:
            if row["action"] == "decide":
                found[row["day"]] = max(row["until"], found.get(row["day"], row["until"]))
        return found

    def of(self, day: date) -> list[dict[str, Any]]:
        """What was decided of a day, in order."""
        return [r for r in self.rows if r["day"] == day and r["action"] == "decide"]


def read_repairs(uri: str) -> Repairs:
    """Take a snapshot of the ledger."""
    snapshot = delta.open_table(uri)
    if snapshot is None:
        return Repairs(uri, None, ())
    rows = delta.read_days(uri, version=snapshot.version())
    ordered = rows.sort_by([("number", "ascending"), ("day", "ascending")])
    return Repairs(uri, snapshot, tuple(ordered.to_pylist()))


def append(
    repairs: Repairs,
    action: Literal["decide", "done"],
    outcomes_version: int | None,
    days: Sequence[DayRepair],
    hashes: dict[str, str],
) -> Repairs:
    """Append a transaction.

    Args:
        repairs: The snapshot on which it was decided.
        action: `decide` or `done`.
        outcomes_version: Version of `outcomes` that was looked at.
        days: The days that are decided on; none if done.
        hashes: `config_hash` and `code_hash`.

    Returns:
        The ledger afterwards.

    Raises:
        StaleSnapshot: Another repair came first.
    """
    said = {
        "number": repairs.number + 1,
        "action": action,
        "outcomes_version": outcomes_version,
        "at": datetime.now(UTC),
        **hashes,
    }
    assert bool(days) == (action == "decide"), "a repair that decides nothing is done"
    rows = [{**said, **asdict(day)} for day in days] or [said]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    ledgers.append_numbered(repairs.uri, table, APP_ID, repairs.number + 1, repairs.snapshot)
    return read_repairs(repairs.uri)
