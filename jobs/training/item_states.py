"""Which state of an item was the last one known at a moment."""

# pyarrow.compute makes its functions when imported.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def last_known(states: pa.Table, items: pa.ChunkedArray, at_us: np.ndarray) -> np.ndarray:
    """Rows of the last states known strictly before moments.

    Args:
        states: `item_id` and `known_ts`, in order of item and time, and whatever is known.
        items: Item ids, missing ones among them.
        at_us: Moments, microseconds since 1970 UTC.

    Returns:
        int64: rows of `states`; -1 where nothing was known.
    """
    if states.num_rows == 0:
        return np.full(len(items), -1, np.int64)
    named = states["item_id"].combine_chunks().dictionary_encode()
    item = named.indices.to_numpy().astype(np.int64)
    known = micros(states["known_ts"])
    # One number per (item, moment), in which the moments before a moment are counted.
    moments = np.unique(known)
    step = len(moments) + 1
    places = item * step + np.searchsorted(moments, known) + 1
    wanted = pc.fill_null(pc.index_in(items, value_set=named.dictionary), -1)
    wanted = wanted.to_numpy().astype(np.int64)
    queries = wanted * step + np.searchsorted(moments, at_us, side="left")
    found = np.searchsorted(places, queries, side="right") - 1
    hit = (found >= 0) & (wanted >= 0) & (item[np.maximum(found, 0)] == wanted)
    return np.where(hit, found, -1)


def flat(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values of lists, one after the other."""
    return pa.chunked_array([chunk.flatten() for chunk in lists.chunks], type=lists.type.value_type)


def micros(column: pa.ChunkedArray) -> np.ndarray:
    """Moments as microseconds since 1970 UTC."""
    return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
