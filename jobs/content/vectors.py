"""The table `content_embeddings`: one row per item, text and encoder version, never changed.

Rows are only added, in one compare-and-set commit of a run, so that an older encoder's stay
readable. A row says what a text's vector is, not when the text held: an item's texts over time are
in its attributes (`jobs/content/texts.py`).
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when imported.

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from pyarrow import dataset

from jobs import delta, ledgers

TABLE = "content_embeddings"
_APP_ID = TABLE
_VECTOR = pa.list_(pa.field("element", pa.float32()))
_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("content_hash", pa.string()),
        ("encoder_version", pa.string()),
        ("vector", _VECTOR),
        ("known_ts", pa.timestamp("us", "UTC")),
        ("run_id", pa.string()),
    ]
)


def read_vectors(
    table: DeltaTable | None, encoder_version: str, columns: list[str], hashes: pa.Array | None
) -> pa.Table:
    """Rows of one encoder version.

    Args:
        table: The table as one snapshot saw it; None where there is none yet.
        encoder_version: The version.
        columns: Columns to read.
        hashes: Content hashes to read; all if None.
    """
    if table is None:
        return pa.table({name: pa.array([], _SCHEMA.field(name).type) for name in columns})
    wanted = dataset.field("encoder_version") == encoder_version
    if hashes is not None:
        wanted &= dataset.field("content_hash").isin(hashes)
    files = dataset.dataset(delta.day_files(table), schema=_SCHEMA, format="parquet")
    return files.to_table(columns=columns, filter=wanted)


def vectors_of(
    table: DeltaTable | None, encoder_version: str, hashes: pa.Array, dim: int
) -> tuple[pa.Array, np.ndarray]:
    """Stored vectors of texts.

    Returns:
        The hashes that are stored, each once and in order, and their vectors: float32, hashes x
        dim.
    """
    rows = read_vectors(table, encoder_version, ["content_hash", "vector"], hashes)
    # Items that share a text have a row each, with equal vectors.
    numbered = rows.select(["content_hash"]).append_column(
        "row", pa.array(np.arange(rows.num_rows))
    )
    stored = numbered.group_by("content_hash").aggregate([("row", "min")]).sort_by("content_hash")
    flat = rows["vector"].combine_chunks().flatten().to_numpy()
    vectors = flat.reshape(-1, dim)[stored["row_min"].to_numpy()]
    return stored["content_hash"].combine_chunks(), vectors


def without_vector(table: DeltaTable | None, encoder_version: str, states: pa.Table) -> pa.Table:
    """Texts of items that have no row yet: `item_id`, `content_hash`, and since when, `known_ts`.

    Args:
        table: The table.
        encoder_version: The version.
        states: `item_id`, `known_ts`, `content_hash`.
    """
    told = states.filter(pc.is_valid(states["content_hash"]))
    texts = told.group_by(["item_id", "content_hash"]).aggregate([("known_ts", "min")])
    texts = texts.rename_columns({"known_ts_min": "known_ts"})
    held = read_vectors(table, encoder_version, ["item_id", "content_hash"], None)
    keys = [
        pc.binary_join_element_wise(t["item_id"], t["content_hash"], "\n") for t in (texts, held)
    ]
    missing = pc.invert(pc.is_in(keys[0], value_set=keys[1].combine_chunks()))
    order = [("item_id", "ascending"), ("content_hash", "ascending")]
    return texts.filter(missing).sort_by(order)


def add(
    uri: str,
    table: DeltaTable | None,
    encoder_version: str,
    texts: pa.Table,
    vectors: np.ndarray,
    run_id: str,
) -> int:
    """Add rows.

    Args:
        uri: The table; made if absent.
        table: The snapshot that was read.
        encoder_version: The version.
        texts: As `without_vector` returns them.
        vectors: float32, texts x dim.
        run_id: The run that computed them.

    Returns:
        The table's version.

    Raises:
        StaleSnapshot: Another run has added rows meanwhile. Run the job again.
    """
    number = 1 if table is None else (table.transaction_version(_APP_ID) or 0) + 1
    count, dim = vectors.shape
    offsets = pa.array(np.arange(0, (count + 1) * dim, dim), pa.int32())
    flat = pa.array(np.ascontiguousarray(vectors).ravel())
    rows = pa.table(
        {
            "item_id": texts["item_id"],
            "content_hash": texts["content_hash"],
            "encoder_version": pa.array([encoder_version] * count),
            "vector": pa.ListArray.from_arrays(offsets, flat, type=_VECTOR),
            "known_ts": texts["known_ts"],
            "run_id": pa.array([run_id] * count),
        },
        schema=_SCHEMA,
    )
    return ledgers.append_numbered(uri, rows, _APP_ID, number, table)
