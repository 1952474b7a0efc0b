"""The ledger of promotions: the champion is its last row.

A promotion is decided on one snapshot of the table and committed from that same snapshot as the
next numbered transaction, so that of two racing promotions one fails and has to be judged again.
MLflow's aliases are a projection of the ledger, set afterwards; nothing resolves a family by them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa
from deltalake import DeltaTable

from jobs import delta, ledgers
from jobs.errors import ConfigError, PromotionConflict

APP_ID = "promotions"

_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("action", pa.string()),
        ("day", pa.string()),
        ("trained_until", pa.timestamp("us", "UTC")),
        ("members", pa.string()),
        ("previous", pa.int64()),
        ("run_id", pa.string()),
        ("reason", pa.string()),
        ("who", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("config_hash", pa.string()),
        ("code_hash", pa.string()),
    ]
)


@dataclass(frozen=True)
class Member:
    """One model of a family."""

    version: str
    """Registered model version."""
    judged_version: str
    """Version that the gates judged, before its pass over the gate window."""
    uri: str
    """Folder with the weights."""


@dataclass(frozen=True)
class Promotion:
    """One row of the ledger: the whole family that serves from then on."""

    number: int
    action: str
    """`promote` or `rollback`."""
    day: str
    trained_until: datetime
    """UTC: every label that was mature by then has been learnt."""
    members: dict[str, Member]
    """By registered model name."""
    previous: int | None
    """Row that this one replaces as champion."""
    run_id: str
    reason: str
    who: str
    at: datetime
    config_hash: str
    code_hash: str


@dataclass(frozen=True)
class Ledger:
    """The ledger as one snapshot saw it."""

    uri: str
    snapshot: DeltaTable | None
    rows: tuple[Promotion, ...]

    @property
    def champion(self) -> Promotion | None:
        """The family that serves."""
        return self.rows[-1] if self.rows else None

    def row(self, number: int) -> Promotion:
        """A row by its number."""
        return next(row for row in self.rows if row.number == number)


def read_ledger(uri: str) -> Ledger:
    """Take a snapshot of the ledger."""
    snapshot = delta.open_table(uri)
    if snapshot is None:
        return Ledger(uri, None, ())
    rows = delta.read_days(uri, version=snapshot.version()).sort_by("number").to_pylist()
    return Ledger(uri, snapshot, tuple(_promotion(row) for row in rows))


def commit(ledger: Ledger, promotion: Promotion, expected_champion: int | None) -> None:
    """Append a promotion, if the champion is still the one that the decision assumed.

    Args:
        ledger: The snapshot on which the decision was taken.
        promotion: The row to append; its number follows the snapshot's last.
        expected_champion: Number of the champion that the gates judged against; None for none.

    Raises:
        PromotionConflict: The champion is another one, or another promotion came first.
    """
    found = None if ledger.champion is None else ledger.champion.number
    if found != expected_champion:
        raise PromotionConflict(
            f"promotions: the gates judged against champion {expected_champion}, the champion is "
            f"now {found}; run the day again so that it is judged anew"
        )
    values = asdict(promotion)
    values["members"] = json.dumps(values["members"], sort_keys=True)
    rows = pa.Table.from_pylist([values], schema=_SCHEMA)
    try:
        ledgers.append_numbered(ledger.uri, rows, APP_ID, promotion.number, ledger.snapshot)
    except delta.StaleSnapshot as error:
        raise PromotionConflict(
            f"promotions: {error}; run the day again so that it is judged anew"
        ) from error


def rollback(uri: str, who: str, reason: str) -> Promotion:
    """Make the champion's predecessor the champion again, whole family at once.

    Raises:
        ConfigError: There is nothing to roll back to.
        PromotionConflict: Another promotion came first.
    """
    ledger = read_ledger(uri)
    champion = ledger.champion
    if champion is None or champion.previous is None:
        raise ConfigError("promotions: no earlier family to roll back to; nothing was changed")
    target = ledger.row(champion.previous)
    row = Promotion(
        **{
            **{f: getattr(target, f) for f in Promotion.__dataclass_fields__},
            "number": champion.number + 1,
            "action": "rollback",
            "reason": reason,
            "who": who,
            "at": datetime.now(UTC),
        }
    )
    commit(ledger, row, champion.number)
    return row


def _promotion(row: dict[str, object]) -> Promotion:
    members = json.loads(str(row["members"]))
    return Promotion(**{**row, "members": {k: Member(**v) for k, v in members.items()}})  # pyright: ignore[reportArgumentType]
