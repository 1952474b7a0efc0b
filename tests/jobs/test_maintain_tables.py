"""Maintenance changes no row, keeps what models were trained on, and is done when it is done."""

import itertools
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from jobs import delta, ledgers, maintain_tables
from jobs.config import Maintenance
from jobs.delta import live_commits, open_table, paths_by_day, read_days
from jobs.spark import compaction
from jobs.spark.tables import write_days
from jobs.table_files import table_files, trim_log
from jobs.trained import Trained
from tests.jobs.samples import COMMIT, recipe
from tests.jobs.spark.frames import frame, utc

ONE, TWO = date(2024, 3, 1), date(2024, 3, 2)
SCHEMA = "user_id string, event_ts timestamp, value double, day date"
ROWS = [(f"u{n % 7}", utc(1, n), float(n), ONE) for n in range(20)] + [("u1", utc(2), 0.5, TWO)]
LATER = timedelta(days=40)
MODEL = Trained("shop-teacher", "1", {"events": 0})


@pytest.fixture
def home(tmp_path):
    return tmp_path / "a home"


@pytest.fixture
def uri(home):
    return str(home / "tables" / "shop" / "events")


@pytest.fixture
def pins(monkeypatch):
    """What is pinned; none at first."""
    held: dict = {}
    monkeypatch.setattr(maintain_tables, "read_pins", lambda *_: held)
    return held


@pytest.fixture
def maintain(spark, home, pins):
    """Maintain the shop's tables as of a later moment; what is told of `events`."""

    def run(after=LATER, **settings):
        family = recipe(maintenance=Maintenance(checkpoint_commits=2, **settings))
        done = maintain_tables.run(family, str(home), now=datetime.now(UTC) + after, spark=spark)
        return done.details["tables"]["events"]

    return run


def fragmented(spark, uri, files=4):
    """Two days of events, the first in several files."""
    rows = frame(spark, SCHEMA, *ROWS)
    write_days(rows, uri, days=[ONE, TWO], order=["user_id"], commit=COMMIT, files_per_day=files)


def scores(uri, *values, run="run"):
    """A day of rows, once per value: each a version of its own."""
    for value in values:
        rows = pa.table({"user_id": ["a"], "value": [value]})
        delta.write_arrow_day(uri, rows, ONE, ["user_id"], {**COMMIT, "run_id": run})


def rows_of(uri):
    return sorted(map(str, read_days(uri).to_pylist()))


def on_disk(uri):
    return sorted(p.relative_to(uri).as_posix() for p in Path(uri).rglob("*") if p.is_file())


def test_compaction_changes_files_and_neither_rows_nor_digests(spark, uri, maintain):
    fragmented(spark, uri)
    rows, before = rows_of(uri), live_commits(open_table(uri))
    assert len(before[ONE].files) > 1
    told = maintain(timedelta(0))
    after = live_commits(open_table(uri))
    assert rows_of(uri) == rows
    assert told["days_compacted"] == 1
    assert {day: c.digest for day, c in after.items()} == {d: c.digest for d, c in before.items()}
    assert [len(after[day].files) for day in (ONE, TWO)] == [1, 1]
    assert after[TWO] == before[TWO]
    assert (after[ONE].run_id, after[ONE].rows) == ("run", 20)


def test_a_compacted_day_lies_user_by_user(spark, uri, maintain):
    fragmented(spark, uri)
    maintain(timedelta(0))
    users = read_days(uri, [ONE])["user_id"].to_pylist()
    changes = sum(a != b for a, b in itertools.pairwise(users))
    assert changes == len(set(users)) - 1


def test_large_days_keep_as_many_files_as_their_size_needs(spark, uri, maintain):
    fragmented(spark, uri)
    table = open_table(uri)
    total = sum(Path(path).stat().st_size for path in delta.day_files(table, [ONE]))
    maintain(timedelta(0), target_file_bytes=total // 2 + 1)
    assert len(paths_by_day(open_table(uri))[ONE.isoformat()]) == 2


def test_a_second_time_changes_nothing(spark, uri, maintain):
    fragmented(spark, uri)
    scores(uri.replace("events", "teacher_scores/shop-teacher"), 1.0, 2.0, 3.0)
    maintain()
    files, rows = on_disk(uri), rows_of(uri)
    again = maintain()
    assert (on_disk(uri), rows_of(uri)) == (files, rows)
    assert again["before"] == again["after"]
    assert again["days_compacted"] == again["log_entries_cut"] == 0


def test_a_day_compacted_while_somebody_replaces_it_stays_as_they_left_it(
    spark, uri, maintain, monkeypatch
):
    fragmented(spark, uri)
    digest_by_day = compaction.digest_by_day

    def overtaken(*given):
        other = frame(spark, SCHEMA, ("new", utc(1), 9.0, ONE))
        newer = {**COMMIT, "run_id": "newer"}
        write_days(other, uri, days=[ONE], order=["user_id"], commit=newer)
        return digest_by_day(*given)

    monkeypatch.setattr(compaction, "digest_by_day", overtaken)
    told = maintain(timedelta(0))
    assert told["days_compacted"] == 0
    assert live_commits(open_table(uri))[ONE].run_id == "newer"
    assert read_days(uri, [ONE])["user_id"].to_pylist() == ["new"]
    assert not list(Path(uri).glob("data/run=maintenance*"))


def test_a_day_replaced_after_its_compaction_was_seen_is_stale(spark, uri, maintain):
    fragmented(spark, uri)
    held = live_commits(open_table(uri))[ONE]
    maintain(timedelta(0))
    with pytest.raises(delta.StaleSnapshot):
        delta.replace_day(uri, pa.schema([("day", pa.date32())]), held, held.files)


def test_a_crash_before_the_commit_leaves_the_table_and_the_next_time_finishes(
    spark, uri, maintain, monkeypatch
):
    fragmented(spark, uri)
    rows, version = rows_of(uri), DeltaTable(uri).version()
    with monkeypatch.context() as crash:
        crash.setattr(delta, "replace_day", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            maintain(timedelta(0))
    assert (rows_of(uri), DeltaTable(uri).version()) == (rows, version)
    assert maintain()["days_compacted"] == 1
    # The files that the crash left were younger than the retention when it was next run.
    assert maintain()["after"]["orphan_bytes"] == 0
    assert rows_of(uri) == rows
    assert len([p for p in on_disk(uri) if p.endswith(".parquet") and p.startswith("data")]) == 2


def test_rows_that_differ_from_their_record_are_never_committed(spark, uri, maintain, monkeypatch):
    fragmented(spark, uri)
    version = DeltaTable(uri).version()
    clustered = compaction.clustered
    monkeypatch.setattr(compaction, "clustered", lambda rows, n: clustered(rows.limit(19), n))
    with pytest.raises(AssertionError, match=r"rewritten it has .19, "):
        maintain(timedelta(0))
    assert DeltaTable(uri).version() == version


def test_a_pinned_version_stays_readable_and_an_unpinned_older_one_goes(uri, maintain, pins):
    scores(uri, 0.0, 1.0, 2.0, 3.0)
    pins["events"] = {1: [MODEL]}
    told = maintain()
    assert read_days(uri, version=1)["value"].to_pylist() == [1.0]
    assert read_days(uri)["value"].to_pylist() == [3.0]
    for gone in (0, 2):
        with pytest.raises(FileNotFoundError):
            read_days(uri, version=gone)
    assert told["before"]["expired_bytes"] > 0
    assert (told["after"]["expired_bytes"], told["after"]["lost_versions"]) == (0, 0)
    assert told["after"]["pinned_bytes"] > 0


def test_what_a_run_may_still_read_stays_for_the_retention(uri, maintain):
    scores(uri, 0.0, 1.0)
    maintain(timedelta(days=6), retention_days=7)
    assert read_days(uri, version=0)["value"].to_pylist() == [0.0]
    maintain(timedelta(days=8), retention_days=7)
    with pytest.raises(FileNotFoundError):
        read_days(uri, version=0)


def test_files_that_no_commit_names_go_once_no_writer_can_be_at_work(uri, maintain):
    scores(uri, 0.0)
    orphan = Path(uri) / "data" / "run=crashed" / "day=2024-03-01" / "x.parquet"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"half")
    assert maintain(timedelta(days=1))["after"]["recent_bytes"] == 4
    assert orphan.exists()
    assert maintain()["before"]["orphan_bytes"] == 4
    assert not orphan.parent.parent.exists()
    assert read_days(uri)["value"].to_pylist() == [0.0]


def test_the_log_is_cut_and_every_live_day_keeps_its_record(uri, maintain):
    delta.write_arrow_day(uri, pa.table({"user_id": ["a"], "value": [7.0]}), TWO, ["value"], COMMIT)
    scores(uri, 0.0, 1.0, 2.0)
    held = live_commits(open_table(uri))
    maintain()
    scores(uri, 3.0)
    told = maintain()
    table = open_table(uri)
    assert told["log_entries_cut"] > 0
    assert min(entry["version"] for entry in DeltaTable(uri).history()) > 0
    assert live_commits(table)[TWO] == held[TWO]
    scores(uri, 3.0)
    assert DeltaTable(uri).version() == table.version() if table else False


def test_the_log_reaches_back_to_every_pinned_version(uri, maintain, pins):
    scores(uri, *map(float, range(6)))
    pins["events"] = {1: [MODEL]}
    for value in (6.0, 7.0, 8.0):
        maintain()
        scores(uri, value)
    assert read_days(uri, version=1)["value"].to_pylist() == [1.0]


def test_a_dry_run_tells_and_changes_nothing(spark, home, uri, pins):
    fragmented(spark, uri)
    files = on_disk(uri)
    now = datetime.now(UTC) + LATER
    told = maintain_tables.run(recipe(), str(home), dry_run=True, now=now)
    assert told.details["tables"]["events"]["days_to_compact"] == 1
    assert on_disk(uri) == files


def test_old_packed_arrays_of_the_family_go_where_a_retention_is_set(home, uri, maintain):
    scores(uri, 0.0)
    folders = {}
    for name in ("shop", "other"):
        run = home / "runs" / name
        folders[name] = run / "packed"
        folders[name].mkdir(parents=True)
        (run / "config.json").write_text(f'{{"contract": {{"name": "{name}"}}}}')
    maintain()
    assert folders["shop"].exists()
    maintain(packed_retention_days=3)
    assert [folders[name].exists() for name in ("shop", "other")] == [False, True]


def test_a_pinned_version_that_is_already_broken_is_told(uri, pins):
    scores(uri, 0.0, 1.0)
    Path(uri, next(iter(paths_by_day(open_table(uri, 0))[ONE.isoformat()]))).unlink()
    found = table_files(uri, [0, 1, 99], datetime.now(UTC))
    assert found.lost_versions == [0, 99]


def test_an_application_goes_on_counting_after_its_log_was_cut(uri):
    for number in range(1, 5):
        rows = pa.table({"x": [number]})
        ledgers.append_numbered(uri, rows, "app", number, open_table(uri))
    DeltaTable(uri).create_checkpoint()
    cut = trim_log(uri, [], datetime.now(UTC) + LATER)
    assert len(cut) == 3
    ledgers.append_numbered(uri, pa.table({"x": [5]}), "app", 5, open_table(uri))
    assert sorted(read_days(uri)["x"].to_pylist()) == [1, 2, 3, 4, 5]
