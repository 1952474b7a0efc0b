"""Workers read and write days in columns: the rows that Spark itself would have written."""

import gc
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from jobs import delta
from jobs.spark import columns
from jobs.spark.columns import write_columns
from jobs.spark.scans import scan_days
from jobs.spark.tables import read_table, write_days
from tests.jobs.samples import COMMIT
from tests.jobs.spark.frames import frame, utc

ONE, TWO, THREE = date(2024, 3, 1), date(2024, 3, 2), date(2024, 3, 3)
COLUMNS = {
    "key": "string",
    "at": "timestamp",
    "many": "array<bigint>",
    "day": "date",
}
ROWS = [
    ("a", utc(1, 2, 3, 4, 5), [1, None], ONE),
    ("b", None, [], ONE),
    ("c", utc(1), None, ONE),
    ("a", utc(2), [3], TWO),
    (None, utc(2), [3, 3, 4], TWO),
]


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "a home" / "features")


@pytest.fixture
def rows(spark):
    return frame(spark, ", ".join(f"{n} {kind}" for n, kind in COLUMNS.items()), *ROWS)


def write(rows, uri, function=lambda batches: batches, days=(ONE, TWO), **options):
    return write_columns(rows, function, COLUMNS, uri, days=days, commit=COMMIT, **options)


def listed(table):
    return sorted(table.select(list(COLUMNS)).to_pylist(), key=str)


def data_files(uri):
    return sorted(str(p.relative_to(uri)) for p in Path(uri, "data").rglob("*") if p.is_file())


@pytest.mark.parametrize("partitions", [1, 3])
def test_what_workers_write_has_the_rows_and_the_digest_of_what_spark_writes(rows, uri, partitions):
    written = write(rows.repartition(partitions), uri)
    assert (written.rows, written.changed) == ({ONE: 3, TWO: 2}, [ONE, TWO])
    assert listed(delta.read_days(uri)) == listed(rows.toArrow())
    other = write_days(rows, uri + "2", days=[ONE, TWO], order=["key"], commit=COMMIT)
    assert written.digests == other.digests


def test_writing_twice_changes_nothing_and_leaves_nothing(rows, uri):
    first = write(rows.repartition(2), uri)
    files = data_files(uri)
    again = write(rows.repartition(3), uri)
    assert (again.version, again.changed) == (first.version, [])
    assert data_files(uri) == files


def test_moments_and_numbers_stored_as_differences_are_read_as_they_were(spark, rows, uri):
    write(rows.coalesce(1), uri, differences=["at", "many.list.element"])
    (path,) = delta.day_files(DeltaTable(uri), [ONE])
    chunks = pq.read_metadata(path).row_group(0)
    encodings = {chunks.column(n).path_in_schema: chunks.column(n).encodings for n in range(3)}
    for name in ("at", "many.list.element"):
        assert "DELTA_BINARY_PACKED" in encodings[name]
    for found in (read_table(spark, uri).toArrow(), delta.read_days(uri)):
        assert listed(found) == listed(rows.toArrow())


def test_rows_are_written_in_groups_of_bounded_size(rows, uri, monkeypatch):
    monkeypatch.setattr(columns, "_BYTES_HELD", 1)

    def one_by_one(batches):
        for batch in batches:
            yield from (batch.slice(n, 1) for n in range(batch.num_rows))

    # In this process: the workers would not see the smaller bound.
    schema = rows.toArrow().schema
    with columns.DayFiles(Path(uri), schema) as files:
        for batch in one_by_one(rows.coalesce(1).toArrow().to_batches()):
            files.add(batch)
    found = files.paths().to_pylist()
    assert [row["day"] for row in found] == [ONE, TWO]
    assert [pq.read_metadata(row["path"]).num_row_groups for row in found] == [3, 2]


def test_a_task_that_fails_leaves_the_table_as_it_was(rows, uri):
    write(rows, uri)

    def breaks(batches):
        yield from batches
        raise ValueError("out of room")

    with pytest.raises(Exception, match="out of room"):
        write(rows.limit(2), uri, breaks)
    assert listed(delta.read_days(uri)) == listed(rows.toArrow())


def test_rows_outside_the_days_are_refused(rows, uri):
    with pytest.raises(AssertionError, match="outside"):
        write(rows, uri, days=[ONE])
    assert not DeltaTable.is_deltatable(uri)


def test_workers_read_the_columns_of_days_themselves(spark, rows, uri):
    write(rows.where("key is not null"), uri)

    def longer(batches):
        for batch in batches:
            names = pc.binary_join_element_wise(batch["key"], "x", "-")
            yield pa.RecordBatch.from_pydict({"name": names, "day": batch["day"]})

    def found(days):
        result = {"name": "string", "day": "date"}
        df = scan_days(spark, uri, days, ["key", "day"]).map(longer, result)
        return sorted(tuple(row.values()) for row in df.toArrow().to_pylist())

    assert found([ONE, THREE]) == [("a-x", ONE), ("b-x", ONE), ("c-x", ONE)]
    assert found([THREE]) == []


def test_texts_with_few_values_are_read_as_dictionaries(spark, rows, uri):
    write(rows, uri)

    def told(batches):
        for batch in batches:
            keys = batch.column("key")
            assert isinstance(keys, pa.DictionaryArray)
            yield pa.RecordBatch.from_arrays([keys.cast(pa.string())], names=["key"])

    scan = scan_days(spark, uri, [ONE, TWO], ["key"], few_values=["key"])
    found = scan.map(told, {"key": "string"}).toArrow()
    assert sorted(map(str, found["key"].to_pylist())) == ["None", "a", "a", "b", "c"]


def test_workers_leave_imports_out_of_collections(spark, rows, uri):
    write(rows, uri)

    def told(batches):
        assert list(batches)
        yield pa.RecordBatch.from_arrays([pa.array([gc.get_freeze_count()])], names=["num"])

    found = scan_days(spark, uri, [ONE], ["key"]).map(told, {"num": "bigint"}).toArrow()
    assert min(found["num"].to_pylist()) > 10_000
