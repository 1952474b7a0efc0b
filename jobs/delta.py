"""Delta tables through delta-rs: whole partitions replaced in one commit, versions pinned.

A table's Parquet files lie under `<table>/data/run=<run id>/day=<day>/` where their writer put
them; a commit makes them part of the table and, in the same transaction, removes the day's earlier
files. A commit says in its metadata what was written (digest, rows, files) and from what.

No Spark here: `jobs/spark/tables.py` writes and reads the files on a cluster.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import (
    AddAction,
    CommitProperties,
    create_table_with_add_actions,
)
from pyarrow import dataset

from jobs.digests import rows_digest
from jobs.errors import ConfigError
from jobs.parquet_files import add_action, files_dataset

METADATA_KEY = "lapidary"
RECORDS_KEY = "lapidary_days"
"""Metadata of a commit that repeats the records of days, so that older log entries may go."""


@dataclass(frozen=True)
class PartitionCommit:
    """What a commit says about the day it replaced."""

    day: str
    digest: str
    """Hash of the day's rows, whatever their order or files."""
    rows: int
    files: list[str]
    """Paths of the day's files, relative to the table."""
    run_id: str
    config_hash: str
    code_hash: str
    inputs: dict[str, int | None] = field(default_factory=dict)
    """Table versions that the rows were made from."""


def open_table(uri: str, version: int | None = None) -> DeltaTable | None:
    """A table at a version (the newest if None); None where no table is."""
    if not DeltaTable.is_deltatable(uri):
        return None
    return DeltaTable(uri, version=version)


def can_open(uri: str, version: int) -> bool:
    """Whether a version's log entry and all of its files are still there."""
    try:
        table = open_table(uri, version)
    except DeltaError:
        return False
    return table is not None and all(Path(path).is_file() for path in day_files(table))


def latest_version(uri: str) -> int | None:
    """Newest version of a table; None where no table is."""
    table = open_table(uri)
    return None if table is None else table.version()


def _root(table: DeltaTable) -> str:
    uri = table.table_uri.rstrip("/")
    return unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri


def partition_days(table: DeltaTable | None) -> list[date]:
    """Days that a table holds, in order."""
    if table is None:
        return []
    return sorted({date.fromisoformat(day["day"]) for day in table.partitions()})


def day_files(table: DeltaTable, days: Iterable[date] | None = None) -> list[str]:
    """Absolute paths of a table's files, of the given days or of all."""
    wanted = None if days is None else {day.isoformat() for day in days}
    root = _root(table)
    return sorted(
        f"{root}/{path}"
        for day, paths in paths_by_day(table).items()
        if wanted is None or day in wanted
        for path in paths
    )


def paths_by_day(table: DeltaTable | None) -> dict[str | None, set[str]]:
    """Paths of a table's files, relative to it, by day; under None where days are no partitions."""
    found: dict[str | None, set[str]] = {}
    if table is None:
        return found
    actions = pa.table(table.get_add_actions(flatten=True))
    paths = actions.column("path").to_pylist()
    days = (
        actions.column("partition.day").to_pylist()
        if "partition.day" in actions.column_names
        else [None] * len(paths)
    )
    for path, day in zip(paths, days, strict=True):
        found.setdefault(None if day is None else str(day), set()).add(path)
    return found


def paths_at(table: DeltaTable, version: int | None) -> dict[str | None, set[str]]:
    """As `paths_by_day` at an earlier version; none if None, or if it can no longer be opened."""
    if version is None:
        return {}
    try:
        return paths_by_day(open_table(_root(table), version))
    except DeltaError:
        return {}


def changed_days(table: DeltaTable, since: int | None) -> list[date]:
    """Days that hold other files than they did at an earlier version.

    Args:
        table: The table now.
        since: The earlier version. All days if None, or if it can no longer be opened.
    """
    touched = touched_days(table, since)
    return [day for day in partition_days(table) if day in touched]


def touched_days(table: DeltaTable, since: int | None) -> set[date]:
    """As `changed_days`, and the days that were held then and are no longer."""
    before, now = paths_at(table, since), paths_by_day(table)
    days = [day for day in {*before, *now} if now.get(day) != before.get(day)]
    return {date.fromisoformat(day) for day in days if day is not None}


def days_with(table: DeltaTable | None, columns: Iterable[str]) -> list[date]:
    """Days whose files hold all of the columns (a later run may add some), as statistics tell."""
    if table is None:
        return []
    actions = pa.table(table.get_add_actions(flatten=True))
    known = [f"null_count.{name}" for name in columns]
    if not set(known) <= set(actions.column_names):
        return []
    rows = actions.select(["partition.day", *known]).to_pylist()
    lacking = {row["partition.day"] for row in rows if None in row.values()}
    return [day for day in partition_days(table) if day not in lacking]


def read_days(
    uri: str,
    days: Sequence[date] | None = None,
    columns: list[str] | None = None,
    version: int | None = None,
    where: dataset.Expression | None = None,
) -> pa.Table:
    """Read days of a table into memory.

    Args:
        uri: Table.
        days: Days to read; all if None. A day that the table lacks yields no rows.
        columns: Columns to read; all if None.
        version: Version to read; the newest if None.
        where: Condition on columns; rows that do not meet it are left out while reading.

    Returns:
        The rows. Their order is that of the files.

    Raises:
        ConfigError: No such table, or no such column.
    """
    table = open_table(uri, version)
    if table is None:
        raise ConfigError(f"no Delta table at {uri}; run the job that writes it first")
    schema = pa.schema(table.schema())
    for name in columns or []:
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {schema.names}"
            raise ConfigError(f"{Path(uri).name}: no column {name!r}; {hint}")
    files = files_dataset(day_files(table, days), schema, f"{_root(table)}/data")
    return files.to_table(columns=columns or schema.names, filter=where)


def holds(uri: str, commit: PartitionCommit, digest: str) -> bool:
    """Whether a day has rows of this digest, in files that are all there."""
    return commit.digest == digest and has_files(uri, commit)


def has_files(uri: str, commit: PartitionCommit) -> bool:
    """Whether the files of a day are all there."""
    return all(Path(uri, path).is_file() for path in commit.files)


def live_commits(table: DeltaTable | None) -> dict[date, PartitionCommit]:
    """The commit that wrote each day, where its files are still the day's files."""
    return {day: commit for day, (_, commit) in live_records(table).items()}


def live_versions(table: DeltaTable | None) -> dict[date, int]:
    """The version that wrote each day, where its files are still the day's files."""
    return {day: version for day, (version, _) in live_records(table).items()}


def live_records(table: DeltaTable | None) -> dict[date, tuple[int, PartitionCommit]]:
    """As `live_commits`, each with the version whose log entry says it."""
    if table is None:
        return {}
    live = paths_by_day(table)
    found: dict[date, tuple[int, PartitionCommit]] = {}
    for entry in table.history():
        told = [_plain(entry[METADATA_KEY])] if METADATA_KEY in entry else []
        told += _plain(entry.get(RECORDS_KEY, []))
        for commit in [PartitionCommit(**values) for values in told]:
            day = date.fromisoformat(commit.day)
            if day not in found and live.get(commit.day) == set(commit.files):
                found[day] = entry["version"], commit
    return found


def _plain(metadata: Any) -> Any:
    return json.loads(metadata) if isinstance(metadata, str) else metadata


def carry_records(uri: str) -> int:
    """Repeat the records of all days in one commit that changes no row.

    Returns:
        The version that says them.

    Raises:
        StaleSnapshot: Another writer came between.
    """
    table = open_table(uri)
    assert table is not None, "only a table has records"
    before = table.version()
    records = [asdict(commit) for commit in live_commits(table).values()]
    properties = CommitProperties(
        custom_metadata={RECORDS_KEY: json.dumps(records)}, max_commit_retries=0
    )
    schema = Schema.from_arrow(pa.schema(table.schema()))
    try:
        table.create_write_transaction([], "append", schema, ["day"], commit_properties=properties)
    except DeltaError as error:
        if latest_version(uri) == before:
            raise  # nobody came between
        raise StaleSnapshot(f"{Path(uri).name}: another writer came first") from error
    table.update_incremental()
    return table.version()


def replace_day(
    uri: str,
    schema: pa.Schema,
    commit: PartitionCommit,
    expected: Collection[str],
    table: DeltaTable | None = None,
) -> int:
    """Make files the content of one day, in one commit.

    Compare-and-set by day: writers of other days never conflict, a second writer of the same day
    always does, so that one that began earlier cannot undo what a later one has written.

    Args:
        uri: Table; made if absent.
        schema: Columns of the table, `day` included.
        commit: The day, its files (already written below the table) and what they came from.
        expected: The day's files when the replacement was begun; none for a new day.
        table: The table, where it is open already; it is at the new version afterwards, unless
            another writer came between.

    Returns:
        The table's new version.

    Raises:
        StaleSnapshot: Another writer replaced the day meanwhile.
        ConfigError: A column has another type in the table.
    """
    assert commit.rows > 0, "an empty write never replaces a partition"
    adds = [add_action(uri, path, {"day": commit.day}) for path in commit.files]
    return _swap_day(uri, schema, commit, adds, expected, table)


def drop_day(uri: str, commit: PartitionCommit, expected: Collection[str]) -> int:
    """Take a day out of a table, in one commit; compare-and-set as `replace_day`.

    Args:
        uri: Table.
        commit: The day, without rows or files, and who dropped it.
        expected: The day's files when that was decided.

    Raises:
        StaleSnapshot: Another writer replaced the day meanwhile.
    """
    assert commit.rows == 0 and not commit.files, "a dropped day holds nothing"
    table = open_table(uri)
    assert table is not None, "only a table has days"
    return _swap_day(uri, pa.schema(table.schema()), commit, [], expected, table)


def _swap_day(
    uri: str,
    schema: pa.Schema,
    commit: PartitionCommit,
    adds: Sequence[AddAction],
    expected: Collection[str],
    table: DeltaTable | None,
) -> int:
    properties = CommitProperties(
        custom_metadata={METADATA_KEY: json.dumps(asdict(commit))}, max_commit_retries=0
    )
    lost: DeltaError | None = None
    for _ in range(_MAX_ATTEMPTS):
        if table is None or lost is not None:
            table = open_table(uri)
        if paths_by_day(table).get(commit.day, set()) != set(expected):
            raise StaleSnapshot(
                f"{Path(uri).name}: another writer replaced {commit.day} meanwhile; nothing was "
                "changed; run the job again"
            ) from lost
        try:
            return _commit_day(uri, table, schema, commit.day, adds, properties)
        except DeltaError as error:
            if open_table(uri) is None or latest_version(uri) == _version(table):
                raise  # nobody came between
            lost = error
    raise StaleSnapshot(
        f"{Path(uri).name}: other days are written without pause; run the job again"
    ) from lost


_MAX_ATTEMPTS = 20


def _commit_day(
    uri: str,
    table: DeltaTable | None,
    schema: pa.Schema,
    day: str,
    adds: Sequence[AddAction],
    properties: CommitProperties,
) -> int:
    if table is None:
        create_table_with_add_actions(
            uri,
            Schema.from_arrow(schema),
            list(adds),
            partition_by=["day"],
            commit_properties=properties,
        )
        return 0
    table.create_write_transaction(
        list(adds),
        "overwrite",
        Schema.from_arrow(_widened(uri, pa.schema(table.schema()), schema)),
        ["day"],
        partition_filters=[("day", "=", day)],
        commit_properties=properties,
    )
    table.update_incremental()
    return table.version()


def _version(table: DeltaTable | None) -> int | None:
    return None if table is None else table.version()


def _widened(uri: str, held: pa.Schema, written: pa.Schema) -> pa.Schema:
    """The table's schema with the new columns of what is written; no column is ever dropped."""
    fields = {f.name: f for f in held}
    for new in written:
        old = fields.setdefault(new.name, new)
        if not _same_type(old.type, new.type):
            raise ConfigError(
                f"{Path(uri).name}.{new.name}: the table holds {old.type}, the run writes "
                f"{new.type}; give the column another name or start a new LAPIDARY_HOME"
            )
    return pa.schema(list(fields.values()))


def _same_type(held: pa.DataType, written: pa.DataType) -> bool:
    if pa.types.is_list(held) and pa.types.is_list(written):
        return _same_type(held.value_type, written.value_type)
    return held == written


def write_arrow_day(
    uri: str, rows: pa.Table, day: date, order: list[str], commit: dict[str, Any]
) -> tuple[int | None, PartitionCommit]:
    """Replace one day by rows in memory, unless the day already holds exactly them.

    Args:
        uri: Table.
        rows: The day's rows, without the column `day`.
        day: The day.
        order: Columns that order the rows in their file.
        commit: `run_id`, `config_hash`, `code_hash` and `inputs` of `PartitionCommit`.

    Returns:
        The new version (None if nothing changed) and the commit that holds the day.
    """
    assert rows.num_rows > 0, "an empty write never replaces a partition"
    rows = rows.sort_by([(name, "ascending") for name in order]).combine_chunks()
    folder = f"data/run={commit['run_id']}/day={day.isoformat()}"
    partial = Path(uri) / folder / f"{os.getpid()}-{os.urandom(4).hex()}.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as beside:
        # Hardly any write is in vain, and it takes longer than to find out.
        written = beside.submit(pq.write_table, rows, partial, compression="zstd")
        table = open_table(uri)
        held = live_commits(table).get(day)
        digest = rows_digest(rows)
    written.result()
    if held is not None and holds(uri, held, digest):
        partial.unlink()
        for empty in (partial.parent, partial.parent.parent):
            with suppress(OSError):
                empty.rmdir()
        return None, held
    path = f"{folder}/{digest}.parquet"
    partial.replace(Path(uri) / path)
    record = PartitionCommit(
        day=day.isoformat(), digest=digest, rows=rows.num_rows, files=[path], **commit
    )
    schema = rows.schema.append(pa.field("day", pa.date32()))
    expected = paths_by_day(table).get(day.isoformat(), set())
    return replace_day(uri, schema, record, expected, table), record


def write_folder(uri: str, run_id: str) -> Path:
    """A new folder for this write: the run's, numbered where a retry wrote before."""
    attempt = 0
    while True:
        name = f"{run_id}-{attempt}" if attempt else run_id
        folder = Path(uri) / "data" / f"run={name}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            attempt += 1
        else:
            return folder


class StaleSnapshot(Exception):
    """The table has moved on since it was read."""
