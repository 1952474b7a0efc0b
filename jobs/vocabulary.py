"""The vocabulary: a stable embedding row per value, for ever.

Row 0 of every table is the out-of-vocabulary row. A value is admitted once it has been seen often
enough before the training cut-off and then keeps its row; rows are handed out in one
compare-and-set commit, so that two racing runs cannot hand out one twice.

The table is a log. A value evicted from row n is written again with the row -n, one that comes
back once more with n: nobody else is ever given its row.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when imported.
from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import delta, ledgers
from jobs.contract import LogContract

APP_ID = "vocabulary"
OUT_OF_VOCABULARY = 0
EVENT_TYPE = "event_type"

_SCHEMA = pa.schema(
    [("field", pa.string()), ("value", pa.string()), ("row", pa.int64()), ("run_id", pa.string())]
)


@dataclass(frozen=True)
class Vocabulary:
    """Values of every embedding table at one version, each at the position `row - 1`."""

    version: int | None
    values: Mapping[str, pa.Array]
    """Every value that was ever admitted."""
    evicted: Mapping[str, list[int]] = dataclasses.field(default_factory=dict)
    """Rows, in order, of the values that are out of vocabulary at this version, where some are."""

    def num_rows(self, field: str) -> int:
        """Rows of a table, its out-of-vocabulary row included."""
        return 1 + len(self.values.get(field, ()))

    def prefix_digests(self, field: str) -> np.ndarray:
        """Hash of a field's first k values at each k: equal where the same rows have the same ones.

        Returns:
            uint64 array with one entry for each row of the table.
        """
        hashes = _hashes(self.values.get(field, pa.array([], pa.string())))
        places = 2 * np.arange(len(hashes), dtype=np.uint64) + 1
        return np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes * places)])

    def rows(self, field: str, column: pa.ChunkedArray | pa.Array) -> np.ndarray:
        """Rows of values, those of evicted ones too; unknown and missing ones have row 0.

        Returns:
            int32 array.
        """
        known = self.values.get(field)
        if known is None or len(known) == 0:
            return np.zeros(len(column), dtype=np.int32)
        found = pc.index_in(column.cast(pa.string()), value_set=known)
        return pc.fill_null(pc.add(found, 1), OUT_OF_VOCABULARY).to_numpy().astype(np.int32)


class Admission(NamedTuple):
    """What a run changed."""

    version: int | None
    """The table's version afterwards."""
    admitted: int
    """Values that were given a row, their own old one or a new one."""
    evicted: int


def fields(contract: LogContract) -> list[str]:
    """Embedding tables under a contract; `ad_id` also holds the items of histories."""
    return [*contract.features.categorical, *contract.features.bags, EVENT_TYPE]


def read_vocabulary(uri: str, version: int | None = None) -> Vocabulary:
    """Read the vocabulary at a version (the newest if None); empty where none is yet."""
    table = delta.open_table(uri, version)
    if table is None:
        return Vocabulary(None, {})
    log = delta.read_days(uri, version=table.version())
    values, evicted = {}, {}
    for field in sorted(pc.unique(log["field"]).to_pylist()):
        own = log.filter(pc.equal(log["field"], field))
        rows = own["row"].to_numpy()
        ever, first = np.unique(np.abs(rows), return_index=True)
        assert ever.tolist() == list(range(1, len(ever) + 1)), f"{field}: rows have gaps"
        values[field] = own["value"].take(pa.array(first)).combine_chunks()
        # As often given as taken back; the order of the log's files says nothing.
        gone = ever[np.bincount(np.abs(rows), np.sign(rows))[1:] == 0]
        if len(gone):
            evicted[field] = gone.tolist()
    return Vocabulary(table.version(), values, evicted)


def admit(
    uri: str,
    candidates: Iterable[tuple[str, str, int]],
    contract: LogContract,
    run_id: str,
    seen_lately: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> Admission:
    """Give rows to values that are seen often enough and have none, and evict those out of use.

    Args:
        uri: The vocabulary table.
        candidates: (field, value, times seen before the training cut-off).
        contract: Says how often is enough.
        run_id: The run that admits them.
        seen_lately: Values that may keep or regain a row, by field; the rest are evicted. A field
            is left out where its rule evicts nothing, or this run cannot tell.

    Raises:
        StaleSnapshot: Another run changed the vocabulary meanwhile. Retry the job.
    """
    snapshot = delta.open_table(uri)
    held = read_vocabulary(uri, None if snapshot is None else snapshot.version())
    known, gone = {}, {}
    for field in fields(contract):
        values = held.values.get(field, pa.array([], pa.string())).to_pylist()
        known[field] = {value: row for row, value in enumerate(values, start=1)}
        gone[field] = {values[row - 1] for row in held.evicted.get(field, ())}

    def may_have_row(field: str, value: str) -> bool:
        if field in seen_lately:
            return value in seen_lately[field]
        rule = contract.vocabulary_rule(field)
        return value not in gone[field] or rule.evict_after_days is None

    admitted = [
        (field, value, count)
        for field, value, count in candidates
        if count >= contract.vocabulary_rule(field).min_count
        and (value not in known[field] or value in gone[field])
        and may_have_row(field, value)
    ]
    evicted = [
        (field, value, -row)
        for field, lately in seen_lately.items()
        for value, row in known[field].items()
        if value not in gone[field] and value not in lately
    ]
    if not admitted and not evicted:
        return Admission(held.version, 0, 0)
    # Frequent values first, so that the order depends on the data alone.
    admitted.sort(key=lambda c: (c[0], -c[2], c[1]))
    given, next_row = [], {field: held.num_rows(field) for field in fields(contract)}
    for field, value, _ in admitted:
        own = known[field].get(value)
        given.append((field, value, next_row[field] if own is None else own))
        next_row[field] += own is None
    records = [(*record, run_id) for record in given + evicted]
    number = 1 if snapshot is None else (snapshot.transaction_version(APP_ID) or 0) + 1
    rows = pa.Table.from_pylist(
        [dict(zip(_SCHEMA.names, record, strict=True)) for record in records], schema=_SCHEMA
    )
    version = ledgers.append_numbered(uri, rows, APP_ID, number, snapshot)
    return Admission(version, len(admitted), len(evicted))


def forget(uri: str, field: str, values: Collection[str], run_id: str) -> int:
    """Put a mark in place of values, whose rows are then nobody's, for ever.

    A value that is gone maps out of vocabulary; its row stays taken, so that nobody inherits what
    models have learnt of it.

    Args:
        uri: The vocabulary table.
        field: Field of the values.
        values: What to forget.
        run_id: Who does.

    Returns:
        How many entries of the log held one of them.

    Raises:
        StaleSnapshot: A run admitted values meanwhile. Retry the job.
    """
    snapshot = delta.open_table(uri)
    if snapshot is None:
        return 0
    log = delta.read_days(uri, version=snapshot.version())
    wanted = pa.array(sorted(values), pa.string())
    theirs = pc.and_(pc.equal(log["field"], field), pc.is_in(log["value"], value_set=wanted))
    found = pc.sum(theirs).as_py() or 0
    if found == 0:
        return 0
    own = log.filter(theirs)
    # Evicted or not, every entry of a row has the same mark.
    marks = [
        f"{_FORGOTTEN}{abs(row)}:{hashed:016x}"
        for row, hashed in zip(own["row"].to_pylist(), _hashes(own["value"]), strict=True)
    ]
    for name, new in (("value", marks), ("run_id", [run_id] * found)):
        at = log.schema.get_field_index(name)
        column = log[name].combine_chunks()
        changed = pc.replace_with_mask(column, theirs.combine_chunks(), pa.array(new, pa.string()))
        log = log.set_column(at, name, changed)
    number = (snapshot.transaction_version(APP_ID) or 0) + 1
    ledgers.append_numbered(uri, log, APP_ID, number, snapshot, replacing=True)
    return found


_FORGOTTEN = "\u0001forgotten:"
"""How a mark begins: with what no log has in an id. It ends with the hash of what was forgotten, so
that a checkpoint of before still finds its rows to be its own."""


def _hashes(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A uint64 per value; of a mark, that of the value that it replaced."""
    import pandas as pd

    texts = values.to_pylist()
    hashes = pd.util.hash_pandas_object(pd.Series(texts, dtype=object), index=False).to_numpy()
    for place, text in enumerate(texts):
        if text.startswith(_FORGOTTEN):
            hashes[place] = int(text.rpartition(":")[2], 16)
    return hashes
