"""Bytes of a day's timelines against those of the events in them."""

from __future__ import annotations

import io
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.spark.histories import VALUES


def stored_ratio(timelines: pa.Table, day: date, stored_bytes: int | None = None) -> dict[str, Any]:
    """Parquet bytes of a day's timelines over those of their distinct events.

    An event is in one timeline of a day at most, so the distinct events are the flattened lists,
    each with its user: written flat, sorted as timelines are, with the same compression.

    Args:
        timelines: The timelines table's columns.
        day: The day.
        stored_bytes: Size of the day's files; that of one file written here if None.
    """
    rows = timelines.filter(pc.equal(timelines["day"], day)).sort_by("user_id").combine_chunks()
    lengths = pc.list_value_length(rows["known_ts"]).to_numpy()
    users = rows["user_id"].take(pa.array(np.repeat(np.arange(rows.num_rows), lengths)))
    flat = {name: pc.list_flatten(rows[name]) for name in VALUES}
    plain = _parquet_bytes(pa.table({"user_id": users, **flat}))
    held = _parquet_bytes(rows.drop_columns(["day"])) if stored_bytes is None else stored_bytes
    return {
        "day": day.isoformat(),
        "num_timelines": rows.num_rows,
        "num_events": int(lengths.sum()),
        "timeline_bytes": held,
        "event_bytes": plain,
        "ratio": round(held / plain, 3),
    }


def _parquet_bytes(table: pa.Table) -> int:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.tell()
