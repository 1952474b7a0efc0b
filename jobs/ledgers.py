"""Delta tables that are only added to: logs, ledgers and caches, without partitions."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import CommitProperties, Transaction, create_table_with_add_actions

from jobs import delta
from jobs.parquet_files import add_action


def append(uri: str, rows: pa.Table) -> int:
    """Append rows to an unpartitioned table; made if absent."""
    from deltalake import write_deltalake

    write_deltalake(uri, rows, mode="append")
    version = delta.latest_version(uri)
    assert version is not None
    return version


def append_numbered(
    uri: str,
    rows: pa.Table,
    app_id: str,
    number: int,
    snapshot: DeltaTable | None,
    *,
    replacing: bool = False,
) -> int:
    """Append rows as application transaction `number`, only if it is the next one.

    Compare-and-set: the commit starts from `snapshot`; a writer that came between makes it fail.

    Args:
        uri: Table; made if `snapshot` is None.
        rows: Rows to append.
        app_id: Application id.
        number: 1 for the first transaction of `app_id`, then counting up.
        snapshot: The table as the decision to write saw it.
        replacing: Whether the rows take the place of all that the table holds.

    Returns:
        The new version.

    Raises:
        StaleSnapshot: `number` does not follow the snapshot's, or another writer came first.
    """
    seen = 0 if snapshot is None else (snapshot.transaction_version(app_id) or 0)
    if number != seen + 1:
        raise delta.StaleSnapshot(f"{app_id}: transaction {number} does not follow {seen}")
    name = f"data/{app_id}-{number:08d}-{os.urandom(8).hex()}.parquet"
    target = Path(uri) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, target, compression="zstd")
    add = add_action(uri, name, {})
    properties = CommitProperties(
        app_transactions=[Transaction(app_id, number)], max_commit_retries=0
    )
    schema = Schema.from_arrow(rows.schema)
    try:
        if snapshot is None:
            create_table_with_add_actions(
                uri, schema, [add], mode="error", commit_properties=properties
            )
            return 0
        mode = "overwrite" if replacing else "append"
        snapshot.create_write_transaction([add], mode, schema, commit_properties=properties)
    except DeltaError as error:
        if delta.latest_version(uri) == (None if snapshot is None else snapshot.version()):
            raise  # nobody came between
        raise delta.StaleSnapshot(f"{app_id}: another writer committed {number} first") from error
    snapshot.update_incremental()
    return snapshot.version()
