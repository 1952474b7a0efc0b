"""A log is profiled as the ingest would judge it, and nothing is written."""

import json
import sys
from contextlib import nullcontext
from datetime import UTC, date, datetime

import pytest

from jobs import check_contract, ingest_log
from jobs.errors import ConfigError
from tests.jobs.samples import contract, recipe, run_config
from tests.jobs.spark.frames import micros, utc
from tests.jobs.test_ingest_log import LATER, NOON, write_log

DAYS = [date(2024, 3, 1), date(2024, 3, 2)]
EARLY = micros([utc(1, 11)])[0]
GOOD = ("1", "u", "a", "feed", "3", NOON, NOON)
SHOWN = [
    ("0", "u", "a", "feed", "3", EARLY, EARLY),
    GOOD,
    GOOD,
    ("2", None, *GOOD[2:]),
    ("3", "u", "a", "shelf", *GOOD[4:]),
    ("4", "u", "a", "shelf", *GOOD[4:]),
    ("5", *GOOD[1:5], 0, 0),
    ("6", "nobody", *GOOD[2:]),
    ("7", *GOOD[1:5], *micros([utc(9), utc(9)])),
]
ACTS = [("1", "1", "click", LATER, LATER), ("2", "lost", "click", LATER, LATER)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    visits = [("1", "u", "i", "front", kind, NOON, NOON) for kind in ("visit",)]
    write_log(folder, shown=SHOWN, acts=ACTS, visits=visits)
    log = contract(
        feeds__shown__consent="user IS NULL OR user <> 'nobody'",
        feeds__visits__where="what = 'visit'",
        feeds__acts__known_ts=None,
        tasks__click__window="2h",
    )
    return recipe(log, log_uri=str(folder))


@pytest.fixture(scope="module")
def summary(spark, settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check_contract, "spark_session", lambda *_: nullcontext(spark))
        return check_contract.run(settings, DAYS)


def test_rows_are_counted_by_day_and_verdict_with_an_example_of_each_reason(summary):
    shown = summary.details["feeds"]["shown"]
    assert shown["days"] == {
        "2024-03-01": {"ok": 1, "epoch_zero": 1},
        "2024-03-02": {
            "ok": 1,
            "duplicate": 1,
            "no_consent": 1,
            "null_user_id": 1,
            "unknown_surface": 2,
        },
    }
    assert shown["verdicts"]["ok"] == 2
    assert summary.rows == {"shown": 8, "acts": 2, "visits": 1}
    assert {reason: json.loads(row)["id"] for reason, row in shown["examples"].items()} == {
        "epoch_zero": "5",
        "null_user_id": "2",
        "unknown_surface": "3",
    }
    assert shown["rows_of_other_days"] == 1
    first = datetime(2024, 3, 1, 11, tzinfo=UTC)
    assert (shown["first"], shown["last"]) == (first, first.replace(day=2))


def test_what_several_feeds_tell_of_each_other_is_told(summary):
    assert summary.details["outcomes_without_impression"] == 1
    assert summary.details["unmapped_surfaces"] == {"shelf": 2}
    # The window of `buy` is a day, so that one label of two has matured.
    assert summary.details["base_rates"] == {
        "click": {"rows": 2, "positives": 1, "rate": 0.5},
        "buy": {"rows": 1, "positives": 0, "rate": 0.0},
    }
    assert summary.details["feeds"]["acts"]["unused_columns"] == ["known"]
    assert summary.details["feeds"]["shown"]["unused_columns"] == []


def test_the_profile_is_that_of_an_ingest(spark, settings, summary, tmp_path):
    config = run_config(tmp_path, settings, DAYS[1])
    ingest_log.build(config, spark)
    profile = json.loads((config.run_folder / ingest_log.PROFILE).read_text())
    found = {
        (name, day, verdict, rows)
        for name, feed in summary.details["feeds"].items()
        for day, verdicts in feed["days"].items()
        for verdict, rows in verdicts.items()
    }
    assert {tuple(entry.values()) for entry in profile} == found


def test_a_person_reads_a_table(summary):
    lines = check_contract.table(summary.details).splitlines()
    assert lines[:6] == [
        "shown (impressions): 8 rows, 2024-03-01 11:00:00 to 2024-03-02 11:00:00 UTC",
        "  day                ok  duplicate no_consent quarantined",
        "  2024-03-01          1          0          0           1",
        "  2024-03-02          1          1          1           3",
        '  epoch_zero: 1, such as {"id":"5","user":"u","ad":"a","place":"feed","position":"3",'
        '"at":0,"known":0}',
        '  null_user_id: 1, such as {"id":"2","ad":"a","place":"feed","position":"3",'
        f'"at":{NOON},"known":{NOON}}}',
    ]
    assert lines[-4:] == [
        "outcomes without impression: 1",
        "surfaces in no vertical: shelf (2)",
        "task click: base rate 0.5000, 1 of 2 mature labels",
        "task buy: base rate 0.0000, 0 of 1 mature labels",
    ]


def test_rows_of_another_feed_in_the_same_file_are_counted_and_not_judged(spark, tmp_path):
    rows = [(str(n), "u", "i", "front", what, NOON, NOON) for n, what in enumerate("vvw")]
    write_log(tmp_path / "log", shown=[GOOD], visits=[*rows, ("4", *rows[0][1:4], None, *GOOD[5:])])
    log = contract(feeds__visits__where="what = 'v'")
    config = run_config(tmp_path, recipe(log, log_uri=str(tmp_path / "log")), DAYS[1])
    summary = ingest_log.build(config, spark)
    assert summary.details["rows_of_other_feeds"] == {"visits": 2}
    assert summary.details["verdicts"] == {"ok": 3}


def test_many_days_are_listed_by_month():
    days = {f"2024-{m:02}-{d:02}": {"ok": 1, "bad": 2} for m in (1, 2, 3) for d in range(1, 29)}
    feed = {"kind": "events", "verdicts": {"ok": 84, "bad": 168}, "days": days, "examples": {}}
    feed |= {"first": None, "rows_of_other_days": 0, "rows_of_other_feeds": 0, "unused_columns": []}
    empty = {"schema_changes": [], "unmapped_surfaces": {}, "base_rates": {}}
    text = check_contract.table({"feeds": {"acts": feed}, "outcomes_without_impression": 0} | empty)
    assert text.splitlines()[2:5] == [
        f"  2024-0{month}            28          0          0          56" for month in (1, 2, 3)
    ]


def test_days_are_those_asked_for_or_all_of_a_closed_log():
    closed = contract(last_day=date(2024, 3, 3))
    assert check_contract.log_days(closed, []) == [*DAYS, date(2024, 3, 3)]
    assert check_contract.log_days(closed, ["2024-03-02", "2024-03-01"]) == DAYS
    with pytest.raises(ConfigError, match="first_day 2999-01-01 is yet to come"):
        check_contract.log_days(contract(first_day=date(2999, 1, 1)), [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contract", "x.yaml"], "--contract and --log belong together"),
        (["--contract", "x.yaml", "--log", "y"], "contract: no file x.yaml"),
        (["--day", "yesterday"], "--day: a day is YYYY-MM-DD; found 'yesterday'"),
    ],
)
def test_the_command_ends_with_code_2_and_one_sentence(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["check_contract", *arguments])
    with pytest.raises(SystemExit) as end:
        check_contract._main()
    assert end.value.code == 2
    said = capsys.readouterr()
    assert message in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)
