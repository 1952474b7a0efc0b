"""Days written by Spark: once, whole, and known by a digest that forgets no difference."""

from datetime import date
from pathlib import Path

import pytest
from deltalake import DeltaTable

from jobs import delta
from jobs.delta import StaleSnapshot
from jobs.errors import ConfigError
from jobs.spark import tables
from jobs.spark.tables import read_table, write_days
from tests.jobs.samples import COMMIT
from tests.jobs.spark.frames import by, frame, listed, utc

ONE, TWO, THREE = date(2024, 3, 1), date(2024, 3, 2), date(2024, 3, 3)
SCHEMA = "key string, value double, at timestamp, many array<int>, day date"
ROWS = [
    ("a", 1.5, utc(1, 2, 3, 4, 5), [1, None], ONE),
    ("b", None, None, [], ONE),
    ("c", 2.5, utc(1), None, ONE),
    ("a", 0.5, utc(2), [3], TWO),
    (None, 0.5, utc(2), [3], TWO),
]


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "a home" / "features")


@pytest.fixture
def rows(spark):
    return frame(spark, SCHEMA, *ROWS)


def write(df, uri, days=(ONE, TWO), **options):
    return write_days(df, uri, days=days, order=["key"], commit=COMMIT, **options)


def data_files(uri):
    return sorted(str(p.relative_to(uri)) for p in Path(uri, "data").rglob("*") if p.is_file())


def test_days_are_read_as_they_were_written(spark, rows, uri):
    written = write(rows, uri)
    assert (written.version, written.rows, written.changed) == (1, {ONE: 3, TWO: 2}, [ONE, TWO])
    found = read_table(spark, uri)
    assert found.schema.simpleString() == rows.schema.simpleString()
    key = ["day", "at", "value"]
    expected = sorted(rows.toArrow().to_pylist(), key=str)
    assert sorted(found.toArrow().select([*rows.columns]).to_pylist(), key=str) == expected, key


def test_both_readers_read_the_same(spark, rows, uri):
    write(rows, uri)
    with_spark = read_table(spark, uri, [ONE]).toArrow().to_pylist()
    with_arrow = delta.read_days(uri, [ONE]).to_pylist()
    assert sorted(with_spark, key=str) == sorted(with_arrow, key=str)
    assert len(with_arrow) == 3


def test_writing_twice_changes_nothing_and_leaves_nothing(rows, uri):
    first = write(rows, uri)
    files = data_files(uri)
    again = write(rows.repartition(3), uri)
    assert (again.version, again.changed, again.digests) == (1, [], first.digests)
    assert data_files(uri) == files
    assert [p.name for p in Path(uri, "data").iterdir()] == ["run=run"]


def test_a_changed_day_is_replaced_and_the_other_left(spark, rows, uri):
    write(rows, uri)
    kept = delta.day_files(DeltaTable(uri), [TWO])
    changed = frame(spark, SCHEMA, *ROWS[1:])
    written = write(changed, uri)
    assert (written.version, written.changed) == (2, [ONE])
    assert delta.day_files(DeltaTable(uri), [TWO]) == kept
    assert by(read_table(spark, uri, [ONE]), "key", "value") == {"b": None, "c": 2.5}
    # What the unchanged day wrote a second time is gone.
    assert [p.name for p in Path(uri, "data", "run=run-1").iterdir()] == ["day=2024-03-01"]


def test_a_deleted_day_comes_back_with_its_digest(spark, rows, uri):
    first = write(rows, uri)
    DeltaTable(uri).delete(f"day = '{ONE}'")
    assert read_table(spark, uri, [ONE]).count() == 0
    again = write(rows, uri)
    assert again.changed == [ONE]
    assert again.digests == first.digests
    assert delta.live_commits(delta.open_table(uri))[ONE].digest == first.digests[ONE]


def test_no_rows_replace_nothing(spark, rows, uri):
    assert write(rows.limit(0), uri).version is None
    write(rows, uri)
    files = data_files(uri)
    written = write(rows.limit(0), uri)
    assert (written.version, written.rows, written.changed) == (1, {}, [])
    assert data_files(uri) == files
    assert read_table(spark, uri).count() == 5


def test_rows_outside_the_days_are_an_error_before_any_commit(rows, uri):
    with pytest.raises(AssertionError, match=r"rows of \[datetime.date\(2024, 3, 2\)\] outside"):
        write(rows, uri, days=[ONE])
    assert delta.open_table(uri) is None


def test_a_write_that_fails_leaves_the_table_as_it_was(spark, rows, uri):
    write(rows, uri)
    poisoned = rows.selectExpr(
        "key", "if(key = 'c', raise_error('poison'), value) as value", "at", "many", "day"
    )
    with pytest.raises(Exception, match="poison"):
        write(poisoned, uri)
    assert delta.latest_version(uri) == 1
    assert by(read_table(spark, uri, [ONE]), "key", "value") == {"a": 1.5, "b": None, "c": 2.5}
    assert write(rows, uri).changed == []


def test_a_writer_that_began_earlier_cannot_undo_a_later_one(spark, rows, uri, monkeypatch):
    write(rows, uri)
    newer = frame(spark, SCHEMA, *ROWS[:1])
    digest = tables.digest_by_day

    def overtaken(*given):
        monkeypatch.setattr(tables, "digest_by_day", digest)
        write(newer, uri)
        return digest(*given)

    monkeypatch.setattr(tables, "digest_by_day", overtaken)
    with pytest.raises(StaleSnapshot, match="features: another writer replaced 2024-03-01"):
        write(frame(spark, SCHEMA, *ROWS[:2]), uri)
    assert by(read_table(spark, uri, [ONE]), "key", "value") == {"a": 1.5}


def test_a_pinned_version_is_read_as_it_was(spark, rows, uri):
    write(rows, uri)
    write(frame(spark, SCHEMA, *ROWS[1:]), uri)
    assert read_table(spark, uri, [ONE], version=1).count() == 3
    assert read_table(spark, uri, [ONE]).count() == 2


def test_days_that_are_not_there_yield_no_rows(spark, rows, uri):
    write(rows, uri)
    for days in ([], [THREE]):
        found = read_table(spark, uri, days)
        assert found.count() == 0
        assert found.columns == rows.columns
    with pytest.raises(ConfigError, match="no Delta table at"):
        read_table(spark, uri + "2")


def test_a_new_column_is_null_in_the_days_before_it(spark, uri):
    write(frame(spark, "key string, day date", ("a", ONE)), uri)
    write(frame(spark, "key string, extra int, day date", ("b", 1, TWO)), uri)
    assert by(read_table(spark, uri), "key", "extra") == {"a": None, "b": 1}


def test_a_day_may_lie_in_several_files(spark, rows, uri):
    one = write(rows, uri)
    DeltaTable(uri).delete()
    several = write(rows, uri, files_per_day=4)
    assert several.digests == one.digests
    assert len(delta.day_files(DeltaTable(uri))) > 2
    assert read_table(spark, uri).count() == 5


def test_rows_lie_sorted_within_a_file(spark, uri):
    df = frame(spark, "key string, day date", *[(key, ONE) for key in "dacb"])
    write(df, uri, days=[ONE])
    assert [row["key"] for row in delta.read_days(uri).to_pylist()] == ["a", "b", "c", "d"]
    assert listed(read_table(spark, uri), "key") == [{"key": k, "day": ONE} for k in "abcd"]
