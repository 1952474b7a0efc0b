"""Whole days replaced in one commit, versions pinned, and statistics that never hide a row."""

import itertools
import math
import threading
from datetime import UTC, date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs import delta
from jobs.delta import (
    StaleSnapshot,
    can_open,
    changed_days,
    day_files,
    days_with,
    live_commits,
    open_table,
    partition_days,
    paths_by_day,
    read_days,
    write_arrow_day,
)
from jobs.errors import ConfigError
from jobs.ledgers import append_numbered
from jobs.parquet_files import parquet_statistics
from tests.jobs.samples import COMMIT

ONE, TWO, THREE = date(2024, 3, 1), date(2024, 3, 2), date(2024, 3, 3)
ROWS = pa.table({"key": ["a", "b", "c"], "value": [1, None, 3]})


@pytest.fixture(params=["plain", "with a space é"])
def uri(request, tmp_path):
    return str(tmp_path / request.param / "scores")


def write(uri, day=ONE, rows=ROWS, run="run"):
    return write_arrow_day(uri, rows, day, ["key"], {**COMMIT, "run_id": run})[0]


def version(uri):
    table = open_table(uri)
    assert table is not None
    return table.version()


def read(uri, **options):
    return read_days(uri, **options).sort_by([("day", "ascending"), ("key", "ascending")])


def test_a_day_is_read_as_it_was_written(uri):
    assert write(uri) == 0
    expected = ROWS.append_column("day", pa.array([ONE] * 3))
    assert read(uri) == expected


def test_writing_the_same_rows_again_changes_nothing(uri):
    write(uri)
    files = sorted(Path(uri).rglob("*"))
    assert write(uri, rows=ROWS.take([2, 0, 1]), run="again") is None
    assert version(uri) == 0
    assert sorted(Path(uri).rglob("*")) == files


def test_writing_other_rows_replaces_the_day_and_no_other(uri):
    write(uri)
    write(uri, TWO)
    kept = {path: Path(path).stat().st_mtime_ns for path in day_files(DeltaTable(uri), [TWO])}
    assert write(uri, rows=ROWS.slice(0, 1), run="again") == 2
    assert read(uri, columns=["key", "day"]).to_pydict() == {
        "key": ["a", "a", "b", "c"],
        "day": [ONE, TWO, TWO, TWO],
    }
    after = {path: Path(path).stat().st_mtime_ns for path in day_files(DeltaTable(uri), [TWO])}
    assert after == kept
    assert len(kept) == 1


def test_an_earlier_version_is_read_as_it_was(uri):
    write(uri)
    write(uri, rows=ROWS.slice(0, 1))
    assert read(uri, version=0)["key"].to_pylist() == ["a", "b", "c"]
    assert read(uri)["key"].to_pylist() == ["a"]


def test_an_empty_write_never_replaces_a_day(uri):
    write(uri)
    files = sorted(Path(uri).rglob("*"))
    with pytest.raises(AssertionError, match="an empty write never replaces a partition"):
        write(uri, rows=ROWS.slice(0, 0))
    assert version(uri) == 0
    assert sorted(Path(uri).rglob("*")) == files


def test_a_new_column_widens_the_table(uri):
    write(uri)
    write(uri, TWO, ROWS.append_column("extra", pa.array([0.5, None, 1.5])))
    assert read(uri)["extra"].to_pylist() == [None, None, None, 0.5, None, 1.5]


def test_a_column_that_is_no_longer_written_stays(uri):
    write(uri)
    write(uri, TWO, ROWS.drop_columns(["value"]))
    assert read(uri)["value"].to_pylist() == [1, None, 3, None, None, None]


def test_a_column_of_another_type_is_refused(uri):
    write(uri)
    with pytest.raises(ConfigError) as error:
        write(uri, rows=pa.table({"key": ["a"], "value": ["one"]}))
    assert str(error.value) == (
        "scores.value: the table holds int64, the run writes string; give the column another name "
        "or start a new LAPIDARY_HOME"
    )
    assert version(uri) == 0


def test_days_with_a_column_are_told_from_those_before_it(uri):
    assert days_with(open_table(uri), ["key"]) == []
    write(uri)
    assert days_with(open_table(uri), ["key", "extra"]) == []
    write(uri, TWO, ROWS.append_column("extra", pa.array([None, None, None], pa.int64())))
    assert days_with(open_table(uri), ["key", "extra"]) == [TWO]
    assert days_with(open_table(uri), ["key"]) == partition_days(open_table(uri)) == [ONE, TWO]


def test_days_that_changed_since_a_version_are_told_and_all_where_it_is_gone(uri):
    for day in (ONE, TWO):
        write(uri, day)
    before = version(uri)
    write(uri, TWO, ROWS.slice(0, 1), run="again")
    write(uri, THREE)
    table = DeltaTable(uri)
    assert changed_days(table, before) == [TWO, THREE]
    assert changed_days(table, version(uri)) == []
    assert changed_days(table, None) == changed_days(table, 99) == [ONE, TWO, THREE]


def test_a_version_can_be_opened_while_its_files_are_there(uri):
    write(uri)
    (path,) = day_files(DeltaTable(uri))
    write(uri, rows=ROWS.slice(0, 1))
    assert [can_open(uri, number) for number in (0, 1, 2)] == [True, True, False]
    Path(path).unlink()
    assert [can_open(uri, number) for number in (0, 1)] == [False, True]


def test_rows_that_do_not_meet_a_condition_are_not_read(uri):
    write(uri)
    assert read(uri, where=pc.field("key") == "b")["key"].to_pylist() == ["b"]


@pytest.mark.parametrize("days", [[], [THREE]])
def test_days_that_are_not_there_yield_no_rows(uri, days):
    write(uri)
    assert read_days(uri, days).num_rows == 0
    assert read_days(uri, days).schema.names == ["key", "value", "day"]


def test_only_the_days_asked_for_are_read(uri):
    for day in (ONE, TWO, THREE):
        write(uri, day)
    assert set(read_days(uri, [ONE, THREE])["day"].to_pylist()) == {ONE, THREE}


def test_a_column_that_is_not_there_is_told_with_the_nearest(uri):
    write(uri)
    with pytest.raises(ConfigError, match="scores: no column 'valeu'; did you mean 'value'"):
        read_days(uri, columns=["valeu"])


def test_a_table_that_is_not_there_is_told(uri):
    with pytest.raises(ConfigError, match=r"no Delta table at .*scores; run the job that writes"):
        read_days(uri)
    assert partition_days(open_table(uri)) == []
    assert live_commits(open_table(uri)) == {}


def test_a_commit_says_what_a_day_was_made_from(uri):
    write(uri)
    _, commit = write_arrow_day(
        uri, ROWS, TWO, ["key"], {**COMMIT, "run_id": "r2", "inputs": {"labels": 7}}
    )
    held = live_commits(open_table(uri))
    assert held[TWO] == commit
    assert (commit.rows, commit.run_id, commit.inputs) == (3, "r2", {"labels": 7})
    assert held[ONE].digest == commit.digest


def test_a_day_changed_by_another_writer_is_no_longer_known(uri):
    write(uri)
    write(uri, TWO)
    other = pa.table({"key": ["x"], "value": [9], "day": [ONE]})
    write_deltalake(uri, other, mode="overwrite", predicate=f"day = '{ONE}'")
    assert list(live_commits(open_table(uri))) == [TWO]
    assert write(uri) == 3
    assert read(uri)["key"].to_pylist() == ["a", "b", "c"] * 2


def stale(monkeypatch, uri, overtake):
    """Let another writer come between what a write has seen and its commit."""
    seen = delta.live_commits

    def overtaken(table):
        monkeypatch.setattr(delta, "live_commits", seen)
        overtake()
        return seen(table)

    monkeypatch.setattr(delta, "live_commits", overtaken)


@pytest.mark.parametrize("first", ["new table", "held day"])
def test_of_two_writers_of_a_day_the_one_that_began_earlier_fails(uri, monkeypatch, first):
    if first == "held day":
        write(uri)
    stale(monkeypatch, uri, lambda: write(uri, rows=ROWS.slice(1), run="newer"))
    with pytest.raises(StaleSnapshot, match="another writer replaced 2024-03-01 meanwhile"):
        write(uri, rows=ROWS.slice(0, 1), run="older")
    assert read(uri)["key"].to_pylist() == ["b", "c"]
    assert live_commits(open_table(uri))[ONE].run_id == "newer"


@pytest.mark.parametrize("first", ["new table", "held days"])
def test_writers_of_different_days_do_not_disturb_one_another(uri, first):
    days = [ONE + timedelta(days=n) for n in range(6)]
    if first == "held days":
        for day in days:
            write(uri, day)
    ready = threading.Barrier(len(days))
    failed = []

    def run(n, day):
        ready.wait()
        try:
            write(uri, day, pa.table({"key": [str(n)], "value": [n]}), run=f"r{n}")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=at) for at in enumerate(days)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert read(uri)["value"].to_pylist() == [0, 1, 2, 3, 4, 5]


def test_a_write_that_cannot_be_committed_fails_with_its_own_reason(uri, monkeypatch):
    write(uri)
    (Path(uri) / "_delta_log" / "00000000000000000001.json").mkdir()
    with pytest.raises(Exception) as error:
        write(uri, rows=ROWS.slice(0, 1))
    assert not isinstance(error.value, StaleSnapshot)


NUMBERED = pa.table({"x": [1]})


def test_numbered_transactions_follow_one_another(uri):
    assert append_numbered(uri, NUMBERED, "app", 1, None) == 0
    assert append_numbered(uri, NUMBERED, "app", 2, open_table(uri)) == 1
    assert append_numbered(uri, NUMBERED, "other", 1, open_table(uri)) == 2
    assert read_days(uri)["x"].to_pylist() == [1, 1, 1]
    assert paths_by_day(open_table(uri)).keys() == {None}


@pytest.mark.parametrize("number", [1, 3])
def test_a_number_that_does_not_follow_is_refused(uri, number):
    append_numbered(uri, NUMBERED, "app", 1, None)
    with pytest.raises(StaleSnapshot, match=f"app: transaction {number} does not follow 1"):
        append_numbered(uri, NUMBERED, "app", number, open_table(uri))
    assert version(uri) == 0


@pytest.mark.parametrize("start", ["no table", "one row"])
def test_of_two_appends_from_one_snapshot_the_second_is_refused(uri, start):
    if start == "one row":
        append_numbered(uri, NUMBERED, "app", 1, None)
    one, other = open_table(uri), open_table(uri)
    number = 1 if one is None else 2
    append_numbered(uri, pa.table({"x": [7]}), "app", number, one)
    with pytest.raises(StaleSnapshot, match=f"another writer committed {number} first"):
        append_numbered(uri, pa.table({"x": [8]}), "app", number, other)
    assert read_days(uri)["x"].to_pylist()[-1] == 7 or read_days(uri)["x"].to_pylist()[0] == 7
    assert 8 not in read_days(uri)["x"].to_pylist()


def test_an_append_of_another_application_is_refused_too(uri):
    append_numbered(uri, NUMBERED, "app", 1, None)
    snapshot = open_table(uri)
    append_numbered(uri, NUMBERED, "other", 1, open_table(uri))
    with pytest.raises(StaleSnapshot):
        append_numbered(uri, NUMBERED, "app", 2, snapshot)


# Values of a column, and how each is written in SQL.
VALUES = {
    "whole": (st.integers(-(2**63), 2**63 - 1), pa.int64(), "cast('{}' as bigint)"),
    "small": (st.integers(-128, 127), pa.int8(), "{}"),
    "real": (st.floats(), pa.float64(), "cast('{}' as double)"),
    "flag": (st.booleans(), pa.bool_(), "{}"),
    "text": (st.text(max_size=40), pa.string(), "'{}'"),
    "date": (st.dates(), pa.date32(), "date '{}'"),
    "time": (
        st.datetimes(timezones=st.just(UTC)),
        pa.timestamp("us", "UTC"),
        "arrow_cast(cast('{}' as bigint), 'Timestamp(Microsecond, Some(\"UTC\"))')",
    ),
}


def where(kind, value):
    """An SQL condition that is true of a value."""
    if not value.is_valid:
        return "value is null"
    plain = value.as_py()
    if kind == "real" and math.isnan(plain):
        return "isnan(value)"
    if kind == "time":
        plain = value.value
    if kind == "text":
        plain = plain.replace("'", "''")
    return "value = " + VALUES[kind][2].format(plain)


@pytest.mark.parametrize("kind", VALUES)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_statistics_never_exclude_a_value(tmp_path, kind, data):
    strategy, arrow, _ = VALUES[kind]
    values = pa.array(data.draw(st.lists(st.none() | strategy, min_size=1, max_size=5)), arrow)
    uri = str(tmp_path / str(next(NUMBERS)))
    rows = pa.table({"value": values, "other": [None, *[1.0] * (len(values) - 1)]})
    append_numbered(uri, rows, "app", 1, None)
    query = QueryBuilder().register("t", DeltaTable(uri))
    for value in values:
        condition = where(kind, value)
        same = sum(where(kind, other) == condition for other in values)
        found = query.execute(f"select count(*) as n from t where {condition}").read_all()
        assert pa.table(found)["n"].to_pylist()[0] >= same, condition


NUMBERS = itertools.count()


def test_statistics_count_rows_and_the_nulls_of_flat_columns(tmp_path):
    path = tmp_path / "x.parquet"
    columns = {
        "real": [float("nan"), None, 1.0],
        "gone": pa.array([None] * 3, pa.int64()),
        "list": [[1], None, []],
        "kept": [1, 2, 3],
    }
    pq.write_table(pa.table(columns), path, row_group_size=2)
    assert parquet_statistics(path) == {
        "numRecords": 3,
        "nullCount": {"real": 1, "gone": 3, "kept": 0},
    }
