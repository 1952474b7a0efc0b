"""The vocabulary: a stable embedding row per value, for ever.

Row 0 of every table is the out-of-vocabulary row. A value is admitted once it has been seen often
enough before the training cut-off and then keeps its row; rows are handed out in one
compare-and-set commit, so that two racing runs cannot hand out one twice.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when imported.
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import delta
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

    def num_rows(self, field: str) -> int:
        """Rows of a table, its out-of-vocabulary row included."""
        return 1 + len(self.values.get(field, ()))

    def rows(self, field: str, column: pa.ChunkedArray | pa.Array) -> np.ndarray:
        """Rows of values; unknown and missing ones are out of vocabulary.

        Returns:
            int32 array.
        """
        known = self.values.get(field)
        if known is None or len(known) == 0:
            return np.zeros(len(column), dtype=np.int32)
        found = pc.index_in(column.cast(pa.string()), value_set=known)
        return pc.fill_null(pc.add(found, 1), OUT_OF_VOCABULARY).to_numpy().astype(np.int32)


def fields(contract: LogContract) -> list[str]:
    """Embedding tables under a contract; `ad_id` also holds the items of histories."""
    return [*contract.features.categorical, EVENT_TYPE]


def read_vocabulary(uri: str, version: int | None = None) -> Vocabulary:
    """Read the vocabulary at a version (the newest if None); empty where none is yet."""
    table = delta.open_table(uri, version)
    if table is None:
        return Vocabulary(None, {})
    rows = delta.read_days(uri, version=table.version()).sort_by(
        [("field", "ascending"), ("row", "ascending")]
    )
    values = {}
    for field in pc.unique(rows["field"]).to_pylist():
        own = rows.filter(pc.equal(rows["field"], field))
        assert own["row"].to_pylist() == list(range(1, own.num_rows + 1)), (
            f"{field}: rows have gaps"
        )
        values[field] = own["value"].combine_chunks()
    return Vocabulary(table.version(), values)


def admit(
    uri: str, candidates: Iterable[tuple[str, str, int]], contract: LogContract, run_id: str
) -> tuple[int | None, int]:
    """Give rows to values that are seen often enough and have none yet.

    Args:
        uri: The vocabulary table.
        candidates: (field, value, times seen before the training cut-off).
        contract: Says how often is enough.
        run_id: The run that admits them.

    Returns:
        The table's version afterwards, and how many values were admitted.

    Raises:
        StaleSnapshot: Another run admitted values meanwhile. Retry the job.
    """
    snapshot = delta.open_table(uri)
    held = read_vocabulary(uri, None if snapshot is None else snapshot.version())
    rules = contract.features.vocabulary_by_field
    default = contract.features.vocabulary
    known = {
        field: set(held.values.get(field, pa.array([], pa.string())).to_pylist())
        for field in fields(contract)
    }
    admitted = [
        (field, value, count)
        for field, value, count in candidates
        if count >= rules.get(field, default).min_count and value not in known[field]
    ]
    if not admitted:
        return held.version, 0
    # Frequent values first, so that the order depends on the data alone.
    admitted.sort(key=lambda c: (c[0], -c[2], c[1]))
    records, next_row = [], {field: held.num_rows(field) for field in fields(contract)}
    for field, value, _ in admitted:
        records.append({"field": field, "value": value, "row": next_row[field], "run_id": run_id})
        next_row[field] += 1
    number = 1 if snapshot is None else (snapshot.transaction_version(APP_ID) or 0) + 1
    rows = pa.Table.from_pylist(records, schema=_SCHEMA)
    return delta.append_numbered(uri, rows, APP_ID, number, snapshot), len(records)


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
        How many rows held one of them.

    Raises:
        StaleSnapshot: A run admitted values meanwhile. Retry the job.
    """
    snapshot = delta.open_table(uri)
    if snapshot is None:
        return 0
    rows = delta.read_days(uri, version=snapshot.version())
    wanted = pa.array(sorted(values), pa.string())
    theirs = pc.and_(pc.equal(rows["field"], field), pc.is_in(rows["value"], value_set=wanted))
    found = pc.sum(theirs).as_py() or 0
    if found == 0:
        return 0
    marks = pc.binary_join_element_wise(_FORGOTTEN, rows["row"].cast(pa.string()), "")
    for name, new in (("value", marks), ("run_id", pa.scalar(run_id))):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, pc.if_else(theirs, new, rows[name]))
    number = (snapshot.transaction_version(APP_ID) or 0) + 1
    delta.append_numbered(uri, rows, APP_ID, number, snapshot, replacing=True)
    return found


_FORGOTTEN = "\u0001forgotten:"
"""How a mark begins: with what no log has in an id."""
