"""Ingest writes what arrived, says what it rejected, and stops with code 2 where a log misfits."""

import json
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import ingest_log
from jobs.delta import latest_version, read_days
from jobs.erased import IMPRESSION, TABLE, USER, add_erased, read_erased
from jobs.errors import ConfigError
from tests.jobs.samples import contract, recipe, run_config
from tests.jobs.spark.frames import micros, utc

DAY = date(2024, 3, 2)
TIME = pa.int64()
SCHEMAS = {
    "shown": {
        "id": "",
        "user": "",
        "ad": "",
        "place": "",
        "position": "",
        "at": TIME,
        "known": TIME,
    },
    "acts": {"id": "", "shown_id": "", "what": "", "at": TIME, "known": TIME},
    "visits": {
        "id": "",
        "user": "",
        "item": "",
        "place": "",
        "what": "",
        "at": TIME,
        "known": TIME,
    },
}
NOON, LATER = micros([utc(2, 11), utc(2, 12)])


def write_log(folder, **feeds):
    """Parquet files of a log, empty ones for the feeds that are not given."""
    folder.mkdir(exist_ok=True)
    for name, columns in SCHEMAS.items():
        schema = pa.schema([(n, kind or pa.string()) for n, kind in columns.items()])
        rows = [dict(zip(columns, row, strict=True)) for row in feeds.get(name, [])]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{name}.parquet")


def config_of(tmp_path, **changes):
    settings = recipe(contract(**changes), log_uri=str(tmp_path / "log"))
    return run_config(tmp_path / "home", settings, DAY)


def rows(config, table, *columns):
    found = read_days(config.table(table)).select(list(columns)).to_pylist()
    return sorted(tuple(row.values()) for row in found)


def test_rows_of_several_feeds_may_be_numbered_alike(spark, tmp_path):
    write_log(
        tmp_path / "log",
        shown=[("1", "u", "a", "feed", "3", NOON, NOON)],
        acts=[("1", "1", "click", LATER, LATER)],
        visits=[("1", "u", "a", "front", "visit", LATER, LATER)],
    )
    config = config_of(tmp_path)
    summary = ingest_log.build(config, spark)
    assert summary.rows == {"impressions": 1, "outcomes": 1, "events": 3}
    assert summary.outputs == {"impressions": 0, "outcomes": 0, "events": 0, "schemas": 0}
    assert rows(config, "events", "event_id", "event_type", "impression_id") == [
        ("1", "impression", "1"),
        ("acts:1", "click", "1"),
        ("visits:1", "visit", None),
    ]


def test_what_is_rejected_is_counted_and_kept_and_what_is_no_fault_only_counted(spark, tmp_path):
    good = ("1", "u", "a", "feed", "3", NOON, NOON)
    write_log(
        tmp_path / "log",
        shown=[good, good, ("2", None, *good[2:]), ("3", *good[1:5], 0, 0)],
        acts=[("1", "lost", "click", LATER, LATER), ("2", "1", "yawn", LATER, LATER)],
    )
    config = config_of(tmp_path)
    summary = ingest_log.build(config, spark)
    assert summary.details == {
        "verdicts": {
            "ok": 2,
            "duplicate": 1,
            "null_user_id": 1,
            "epoch_zero": 1,
            "unknown_outcome_type": 1,
        },
        "days": 2,
        "outcomes_without_impression": 1,
    }
    profile = json.loads((config.run_folder / ingest_log.PROFILE).read_text())
    found = sorted((row["feed"], row["day"], row["verdict"], row["rows"]) for row in profile)
    assert found == [
        ("acts", "2024-03-02", "ok", 1),
        ("acts", "2024-03-02", "unknown_outcome_type", 1),
        ("shown", "2024-03-01", "epoch_zero", 1),
        ("shown", "2024-03-02", "duplicate", 1),
        ("shown", "2024-03-02", "null_user_id", 1),
        ("shown", "2024-03-02", "ok", 1),
    ]
    assert rows(config, "quarantine", "day", "feed", "reason") == [
        (date(2024, 3, 1), "shown", "epoch_zero"),
        (date(2024, 3, 2), "acts", "unknown_outcome_type"),
        (date(2024, 3, 2), "shown", "null_user_id"),
    ]
    assert rows(config, "outcomes", "outcome_id") == [("acts:1",)]
    assert rows(config, "events", "event_id") == [("1",)]


def test_a_log_without_rows_commits_nothing(spark, tmp_path):
    write_log(tmp_path / "log")
    config = config_of(tmp_path)
    summary = ingest_log.build(config, spark)
    assert summary.rows == {"impressions": 0, "outcomes": 0, "events": 0}
    assert [latest_version(config.table(name)) for name in summary.rows] == [None] * 3


def test_what_is_about_an_erased_user_is_counted_and_kept_nowhere(spark, tmp_path):
    write_log(
        tmp_path / "log",
        shown=[
            ("1", "u", "a", "feed", "3", NOON, NOON),
            ("2", "v", "a", "feed", "3", NOON, NOON),
            ("3", "u", "a", "feed", "3", 0, 0),
        ],
        acts=[("1", "1", "click", LATER, LATER), ("2", "2", "click", LATER, LATER)],
        visits=[("1", "u", "a", "front", "visit", LATER, LATER)],
    )
    config = config_of(tmp_path)
    add_erased(config.table(TABLE), {USER: ["u"]}, "erasure")
    summary = ingest_log.build(config, spark)
    assert summary.details["verdicts"] == {"ok": 2, "erased": 4}
    assert rows(config, "impressions", "impression_id") == [("2",)]
    assert rows(config, "outcomes", "outcome_id") == [("acts:2",)]
    assert rows(config, "events", "event_id") == [("2",), ("acts:2",)]
    assert latest_version(config.table("quarantine")) is None
    # Outcomes name no user: those that come on a later day are told by the impression.
    held = read_erased(config.table(TABLE))
    assert held is not None
    assert {held.hash_of("1"), held.hash_of("3")} == held.hashes[IMPRESSION]


@pytest.mark.parametrize(
    ("changes", "position", "parts"),
    [
        (
            {"feeds__shown__context": {"position": {"expr": "positon + 1"}}},
            "3",
            ["contract: an expression does not fit the raw log", "positon", "mend the contract"],
        ),
        (
            {"feeds__shown__context": {"position": {"expr": "position +"}}},
            "3",
            ["contract: an expression does not fit the raw log", "SYNTAX"],
        ),
        # Nothing declares the column a number, so that nothing sets the row aside.
        ({}, "third", ["contract: an expression does not fit the raw log", "third"]),
        (
            {"feeds__shown__columns": {"position": "int"}},
            "3",
            ["feeds.shown.columns", "column 'position' is string in the file, int in the contract"],
        ),
        ({"feeds__shown__path": "show.parquet"}, "3", ["feeds.shown.path: no file", "put the log"]),
    ],
    ids=["unknown column", "syntax", "cast", "type", "path"],
)
def test_a_contract_that_does_not_fit_the_log_ends_with_code_2(
    spark, tmp_path, changes, position, parts
):
    write_log(tmp_path / "log", shown=[("1", "u", "a", "feed", position, NOON, NOON)])
    config = config_of(tmp_path, **changes)
    with pytest.raises(ConfigError) as error:
        ingest_log.build(config, spark)
    assert error.value.exit_code == 2
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert latest_version(config.table("impressions")) is None
