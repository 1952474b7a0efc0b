"""Which rows of a table are a user's: told by user id, by impression id, or from the raw row."""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.contract import LogContract
from jobs.feeds import AnyFeed, AttributesFeed, OutcomesFeed, attribute_table


@dataclass(frozen=True)
class People:
    """Users, and what is known only by the impressions that they were shown."""

    users: frozenset[str]
    impressions: frozenset[str]


@dataclass(frozen=True)
class UserRows:
    """How to tell the rows of users in a table."""

    columns: Sequence[str]
    """What has to be read for it."""
    of: Callable[[pa.RecordBatch, People], pa.Array]
    """Which rows are theirs: bool, a value per row."""


def user_rows(contract: LogContract, table: str, columns: Sequence[str]) -> UserRows | None:
    """How to tell the rows of users in a table of a family; None where it holds none."""
    special = {
        "quarantine": UserRows(["feed", "row"], partial(_rejected, contract)),
        "entity_features": UserRows(["entity", "key"], partial(_counted, contract)),
        "vocabulary": UserRows(["field", "value"], _embedded),
        **{
            attribute_table(name): UserRows(["entity_id"], partial(_of_users, "entity_id"))
            for name, feed in contract.feeds.items()
            if isinstance(feed, AttributesFeed) and feed.entity == "user"
        },
    }
    if table in special:
        return special[table]
    if "user_id" in columns:
        return UserRows(["user_id"], partial(_of_users, "user_id"))
    if "impression_id" in columns:
        return UserRows(["impression_id"], _of_impressions)
    return None


def impressions_of(paths: Iterable[str], users: frozenset[str]) -> set[str]:
    """Ids of the impressions that files with a user and an impression per row say were theirs."""
    found: set[str] = set()
    for path in paths:
        for rows in _batches(path, ["user_id", "impression_id"]):
            own = rows.filter(_among(rows, "user_id", users))
            found |= set(own.column("impression_id").drop_null().to_pylist())
    return found


def count_rows(path: str, rows: UserRows, people: People) -> tuple[int, int]:
    """How many rows of a file are users', and how many it has."""
    theirs = total = 0
    for batch in _batches(path, rows.columns):
        theirs += rows.of(batch, people).true_count
        total += batch.num_rows
    return theirs, total


def is_readable(path: str) -> bool:
    """Whether a file is whole: one that a crash cut off has no end to read it from."""
    try:
        pq.read_metadata(path)
    except pa.ArrowInvalid:
        return False
    return True


def copy_without(path: str, target: Path, rows: UserRows, people: People) -> bool:
    """Copy a file without users' rows, in their order; none is written where nothing is left.

    Returns:
        Whether a file was written.
    """
    with pq.ParquetFile(path) as source:
        writer = None
        for batch in source.iter_batches():
            kept = batch.filter(pc.invert(rows.of(batch, people)))
            if kept.num_rows == 0:
                continue
            if writer is None:
                target.parent.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(target, source.schema_arrow, compression="zstd")
            writer.write_batch(kept)
        if writer is not None:
            writer.close()
        return writer is not None


def _batches(path: str, columns: Sequence[str]) -> Iterable[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        if set(columns) <= set(file.schema_arrow.names):
            yield from file.iter_batches(columns=list(columns))


def _among(rows: pa.RecordBatch, column: str, ids: frozenset[str]) -> pa.Array:
    return pc.is_in(rows.column(column), value_set=pa.array(sorted(ids), pa.string()))


def _of_users(column: str, rows: pa.RecordBatch, people: People) -> pa.Array:
    return _among(rows, column, people.users)


def _of_impressions(rows: pa.RecordBatch, people: People) -> pa.Array:
    return _among(rows, "impression_id", people.impressions)


def _counted(contract: LogContract, rows: pa.RecordBatch, people: People) -> pa.Array:
    """Counts kept of a user, alone or crossed with something."""
    masks = [pa.array([False] * rows.num_rows)]
    for name, key in contract.features.entities.items():
        if "user_id" in key:
            parts = pc.split_pattern(rows.column("key"), pattern="\u0001")
            own = pc.equal(rows.column("entity"), name)
            # Keys of other entities may have fewer parts: those are looked at as they are.
            cut = pc.if_else(own, parts, pa.scalar([""] * len(key), parts.type))
            user = pc.list_element(cut, key.index("user_id"))
            ids = pa.array(sorted(people.users), pa.string())
            masks.append(pc.and_(own, pc.is_in(user, value_set=ids)))
    return reduce(pc.or_, masks)


def _embedded(rows: pa.RecordBatch, people: People) -> pa.Array:
    own = pc.equal(rows.column("field"), "user_id")
    return pc.and_(own, _among(rows, "value", people.users))


def _rejected(contract: LogContract, rows: pa.RecordBatch, people: People) -> pa.Array:
    """Raw rows that mention a user where their feed keeps it.

    Where the user is an expression over raw columns only Spark could tell whose a row is: every row
    of such a feed counts as theirs.
    """
    told = zip(rows.column("feed").to_pylist(), rows.column("row").to_pylist(), strict=True)
    return pa.array([_mentions(contract.feeds.get(feed), row, people) for feed, row in told])


def _mentions(feed: AnyFeed | None, row: str, people: People) -> bool:
    if feed is None:
        return False
    # Numbers as they are written: an id is text.
    values: dict[str, Any] = json.loads(row, parse_int=str, parse_float=str)
    if isinstance(feed, OutcomesFeed):
        return _row_id([values.get(name) for name in feed.impression_id]) in people.impressions
    if isinstance(feed, AttributesFeed) and feed.entity != "user":
        return False
    source = feed.key if isinstance(feed, AttributesFeed) else feed.user_id
    return source.column is None or values.get(source.column) in people.users


def _row_id(parts: Sequence[str | None]) -> str | None:
    """A row's id as ingest makes it of the raw columns that identify it."""
    if len(parts) == 1:
        return parts[0]
    text = "\u0001".join("\u0000" if part is None else part for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
