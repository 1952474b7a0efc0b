"""How many rows of each day hold each value of a field, counted by workers in columns."""

# pyarrow.compute makes its functions at import, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from jobs.spark.buckets import chunks

SEEN = {"field": "string", "value": "string", "day": "date", "num": "bigint"}
_MOMENT = pa.timestamp("us", "UTC")


def seen_values(
    batches: Iterable[pa.RecordBatch],
    columns: Mapping[str, str],
    bags: Iterable[str],
    cut_off: datetime,
    within: Mapping[str, Iterable[str]],
) -> Iterator[pa.RecordBatch]:
    """Count values.

    Args:
        batches: Columns of fields and bags, `known_ts` and `day`.
        columns: Columns by field.
        bags: Columns of several values, fields themselves; a value counts once for a row.
        cut_off: What was known from then on does not count.
        within: By column the values without which a row does not count.

    Yields:
        Columns `SEEN`: a field's value at most once a day and batch, none that is missing.
    """
    for chunk in chunks(batches):
        counts = pc.less(chunk["known_ts"], pa.scalar(cut_off, _MOMENT))
        for column, values in within.items():
            counts = pc.and_(counts, pc.is_in(chunk[column], pa.array([*values], pa.string())))
        rows = chunk.filter(counts)
        for field, column in columns.items():
            yield from _counted(field, rows[column].cast(pa.string()), rows["day"])
        for bag in bags:
            of_row = pa.table(
                {
                    "row": pc.list_parent_indices(rows[bag]),
                    "value": pc.list_flatten(rows[bag]).cast(pa.string()),
                }
            )
            once = of_row.group_by(["row", "value"]).aggregate([])
            yield from _counted(bag, once["value"], rows["day"].take(once["row"]))


def _counted(
    field: str, values: pa.ChunkedArray, days: pa.ChunkedArray
) -> Iterator[pa.RecordBatch]:
    rows = pa.table({"value": values, "day": days}).filter(pc.is_valid(values))
    found = rows.group_by(["value", "day"]).aggregate([([], "count_all")])
    table = pa.table(
        {
            "field": pa.array([field] * found.num_rows, pa.string()),
            "value": found["value"],
            "day": found["day"],
            "num": found["count_all"],
        }
    )
    yield from table.combine_chunks().to_batches()
