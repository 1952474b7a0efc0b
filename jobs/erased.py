"""Who has been erased: salted hashes of user ids and of their impressions' ids, never the ids.

`erased_users` is what keeps them out: ingest gives a row whose user or impression is in it the
verdict `erased`. The salt lies beside the hashes, because ingest needs it: it stops a look-up in a
prepared table of hashes, not somebody who tries every id that there may be.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from jobs import delta, ledgers

TABLE = "erased_users"
USER = "user"
IMPRESSION = "impression"

_SCHEMA = pa.schema(
    [("kind", pa.string()), ("salt", pa.string()), ("hash", pa.string()), ("run_id", pa.string())]
)


@dataclass(frozen=True)
class Erased:
    """What the table says."""

    salt: str
    hashes: Mapping[str, frozenset[str]]
    """Hashes of ids, by kind of id."""

    def hash_of(self, text: str) -> str:
        """The hash of an id."""
        return hashlib.sha256(f"{self.salt}{text}".encode()).hexdigest()


def read_erased(uri: str) -> Erased | None:
    """Everybody who has been erased; None where nobody has."""
    if delta.open_table(uri) is None:
        return None
    rows = delta.read_days(uri).to_pylist()
    hashes = {
        kind: frozenset(row["hash"] for row in rows if row["kind"] == kind)
        for kind in (USER, IMPRESSION)
    }
    return Erased(rows[0]["salt"], hashes)


def add_erased(uri: str, ids: Mapping[str, Iterable[str]], run_id: str) -> Erased:
    """Add ids to those that are erased; those that are there already are not added again.

    Args:
        uri: The table; made if absent.
        ids: Ids by kind.
        run_id: Who adds them.

    Returns:
        Everybody who has been erased.

    Raises:
        StaleSnapshot: Another writer came first. Retry the job.
    """
    snapshot = delta.open_table(uri)
    held = read_erased(uri) or Erased(secrets.token_hex(16), {})
    new = {
        kind: sorted({held.hash_of(i) for i in own} - held.hashes.get(kind, frozenset()))
        for kind, own in ids.items()
    }
    records = [
        {"kind": kind, "salt": held.salt, "hash": one, "run_id": run_id}
        for kind, own in new.items()
        for one in own
    ]
    if records:
        number = 1 if snapshot is None else (snapshot.transaction_version(TABLE) or 0) + 1
        rows = pa.Table.from_pylist(records, schema=_SCHEMA)
        ledgers.append_numbered(uri, rows, TABLE, number, snapshot)
    both = {
        kind: held.hashes.get(kind, frozenset()) | frozenset(new.get(kind, ()))
        for kind in (USER, IMPRESSION)
    }
    return Erased(held.salt, both)
