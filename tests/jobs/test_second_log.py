"""The data half on a log of another shape, from its contract alone, checked by hand."""

import json
import math
import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from jobs import (
    build_examples,
    build_features,
    build_tables,
    ingest_log,
    pack_examples,
    rebuild_days,
)
from jobs.command import run_job
from jobs.config import REPOSITORY, with_overrides
from jobs.delta import live_commits, open_table, read_days
from jobs.errors import ConfigError
from jobs.recipes import tiny
from tests.jobs.samples import run_config

CONTRACT = REPOSITORY / "tests" / "data" / "second_log" / "contract.yaml"
DAYS = [date(2024, 3, day) for day in (1, 2, 3)]
TABLES = (
    "impressions",
    "outcomes",
    "events",
    "attributes_readers",
    "quarantine",
    "labels",
    "entity_features",
    "timelines",
    "examples",
)
FOLLOWING = ("impressions", "events", "entity_features", "timelines", "examples")
"""What changes with the ad of an impression; labels go by its id."""


def epoch(day: int, hour: int, minute: int = 0) -> int:
    """Seconds since 1970 of a moment in New York, five hours behind UTC."""
    return int(datetime(2024, 3, day, hour, minute, tzinfo=UTC).timestamp()) + 5 * 3600


VIEWS = {
    # (view_no, reader, creative, slot, epoch, px, price, agreed)
    1: [
        (1, "ann", "c1", "front", epoch(1, 10), 100, 0.5, "y"),
        (2, "bob", "c1", "article", epoch(1, 12), 50, "", "y"),
        (3, "ann", "c2", "front", epoch(1, 23, 50), "", "", "y"),
        (4, "cat", "c1", "front", epoch(1, 13), 100, "", "n"),
    ],
    2: [
        (5, "ann", "c1", "front", epoch(2, 0, 10), 100, "", "y"),
        (1, "ann", "c1", "front", epoch(1, 10), 100, 0.5, "y"),  # sent again
        (6, "bob", "c1", "app_home", epoch(2, 9), 100, "", "y"),
        (7, "bob", "c1", "shelf", epoch(2, 9), 100, "", "y"),
        (8, "ann", "c2", "front", "soon", 100, "", "y"),
        (9, "dan", "c2", "article", epoch(1, 22), 100, "", "y"),  # a day late
    ],
    3: [
        (10, "ann", "c1", "front", epoch(2, 7), 100, "", "y"),  # later than its click
        (11, "ann", "c1", "front", epoch(3, 8), 100, "", "y"),
        (12, "bob", "c2", "article", epoch(3, 9), 100, "", "y"),
        (6, "bob", "c1", "app_home", epoch(2, 9), 100, "", "y"),  # sent again
    ],
}
RESULTS = {
    # (no, view_no, kind, epoch, amount)
    1: [
        (1, 1, "click", epoch(1, 10, 5), ""),
        (2, 1, "subscribe", epoch(1, 20), 9.5),
    ],
    2: [
        (3, 3, "click", epoch(1, 23, 58), ""),
        (4, 5, "click", epoch(2, 0, 20), ""),
        (5, 10, "click", epoch(2, 8), ""),
    ],
    3: [
        (6, 2, "subscribe", epoch(2, 11), 9.5),  # in its window, but after the label matured
        (7, 6, "subscribe", epoch(3, 8), 9.5),
    ],
}
READING = {
    # (no, reader, article, section, act, epoch)
    1: [
        (1, "ann", "a1", "news", "read", epoch(1, 9)),
        (2, "bob", "a1", "news", "read", epoch(1, 12, 30)),
    ],
    2: [(3, "ann", "a2", "news", "read", epoch(2, 0, 5))],
}
READERS = {
    1: [("ann", "free"), ("bob", "free")],
    2: [("ann", "gold"), ("bob", "free")],
    3: [("ann", "gold"), ("bob", "free")],
}


def write_log(folder):
    """The log's files, each day's in its own."""

    def text(path, header, rows, sep):
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [sep.join(str(value) for value in row) for row in [header.split(), *rows]]
        path.write_text("\n".join(lines) + "\n")

    for day in DAYS:
        n = day.day
        header = "view_no reader creative slot epoch px price agreed"
        text(folder / "views" / f"{day}" / "part.csv", header, VIEWS[n], ";")
        header = "no view_no kind epoch amount"
        text(folder / "results" / f"{day}.csv", header, RESULTS[n], ",")
        text(folder / "readers" / f"{day}.csv", "reader plan", READERS[n], ",")
        if n in READING:
            names = ("no", "reader", "article", "section", "act", "epoch")
            rows = [json.dumps(dict(zip(names, row, strict=True))) for row in READING[n]]
            (folder / "reading").mkdir(exist_ok=True)
            (folder / "reading" / f"{day}.jsonl").write_text("\n".join(rows) + "\n")


def run(spark, config):
    """The data half: ingest, all tables, packed arrays; the ingest's summary."""
    summary = run_job(config, ingest_log.build, spark=spark)
    run_job(config, build_tables.build, spark=spark)
    run_job(config, pack_examples.run)
    return summary


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A recipe on the log's contract, by overrides alone."""
    folder = tmp_path_factory.mktemp("logs") / "gazette of 2024-01-01"
    write_log(folder)
    return with_overrides(tiny(), {"contract": str(CONTRACT), "log_uri": str(folder)})


@pytest.fixture(scope="module")
def whole(spark, settings, tmp_path_factory):
    """(configuration, ingest's summary) of one run over all days."""
    config = run_config(tmp_path_factory.mktemp("whole home"), settings, DAYS[2])
    return config, run(spark, config)


@pytest.fixture(scope="module")
def daily(spark, settings, tmp_path_factory):
    """Configurations of a first run over two days and of a daily run after it."""
    home = tmp_path_factory.mktemp("daily")
    configs = [
        run_config(home, settings, DAYS[1], run_id="first"),
        run_config(home, settings, DAYS[2], first=DAYS[2], run_id="second"),
    ]
    for config in configs:
        run(spark, config)
    return configs


def table(config, name, key, *columns):
    rows = read_days(config.table(name)).to_pylist()
    assert len({row[key] for row in rows}) == len(rows)
    return {row[key]: tuple(row[c] for c in columns) for row in rows}


def digests(config):
    return {
        name: {
            day: commit.digest
            for day, commit in live_commits(open_table(config.table(name))).items()
        }
        for name in TABLES
    }


def test_every_row_is_taken_or_told(whole):
    config, summary = whole
    assert summary.details["verdicts"] == {
        "ok": 9 + 7 + 3,
        "no_consent": 1,
        "duplicate": 2,
        "unknown_surface": 1,
        "bad_epoch": 1,
    }
    assert summary.details["outcomes_without_impression"] == 0
    assert summary.rows == {
        "impressions": 9,
        "outcomes": 7,
        "events": 19,
        "attributes_readers": 6,
        "quarantine": 2,
    }
    rejected = table(config, "quarantine", "reason", "row", "day")
    assert {reason: day for reason, (_, day) in rejected.items()} == {
        "bad_epoch": DAYS[1],
        "unknown_surface": DAYS[1],
    }
    assert json.loads(rejected["bad_epoch"][0])["epoch"] == "soon"
    assert json.loads(rejected["unknown_surface"][0])["slot"] == "shelf"


def test_rows_lie_under_the_day_on_which_they_arrived(whole):
    config, _ = whole
    shown = table(config, "impressions", "impression_id", "day", "event_day", "bid", "slot_height")
    assert shown == {
        "1": (DAYS[0], DAYS[0], 0.5, 100.0),
        "2": (DAYS[0], DAYS[0], None, 50.0),
        "3": (DAYS[0], DAYS[0], None, None),
        "5": (DAYS[1], DAYS[1], None, 100.0),
        "6": (DAYS[1], DAYS[1], None, 100.0),
        "9": (DAYS[1], DAYS[0], None, 100.0),
        "10": (DAYS[2], DAYS[1], None, 100.0),
        "11": (DAYS[2], DAYS[2], None, 100.0),
        "12": (DAYS[2], DAYS[2], None, 100.0),
    }
    acts = table(config, "events", "event_id", "day", "user_id")
    # The click of view 10 is known with the view, which came a day after it.
    assert acts["results:5"] == (DAYS[2], "ann")
    assert acts["results:3"] == (DAYS[1], "ann")


def test_labels_count_what_was_known_when_they_matured(whole):
    config, _ = whole
    assert table(config, "labels", "impression_id", "label_click", "label_subscribe") == {
        "1": (1, 1),
        "2": (0, 0),
        "3": (1, 0),
        "5": (1, 0),
        "6": (0, 1),
        "9": (0, 0),
        "10": (1, 0),
        "11": (0, None),
        "12": (0, None),
    }


def test_features_are_what_was_known_before_the_impression(whole):
    config, _ = whole
    names = ("hour", "domain", "vertical", "user_plan", "history_end")
    found = table(config, "examples", "impression_id", *names)
    assert found["1"] == ("10", "web", "front", None, 1)
    assert found["3"] == ("23", "web", "front", None, 4)
    # A plan is known when the day that lists it is over.
    assert found["5"] == ("0", "web", "front", "free", 7)
    assert found["6"] == ("9", "app", "home", "free", 2)
    assert found["11"] == ("8", "web", "front", "gold", 11)
    names = [
        f"{entity}_{what}_{days}d"
        for entity, what in (
            ("user", "impression"),
            ("user", "click"),
            ("user", "read"),
            ("all", "impression"),
            ("plan", "read"),
        )
        for days in (1, 2)
    ]
    counts = table(config, "examples", "impression_id", *names)
    assert counts["1"] == (0, 0, 0, 0, 1, 1, 0, 0, 1, 1)
    assert counts["5"] == (2, 2, 2, 2, 2, 2, 4, 4, 1, 1)
    assert counts["11"] == (2, 4, 3, 4, 1, 2, 4, 7, 0, 0)


def test_packed_arrays_hold_the_same_in_order_of_time(whole):
    config, _ = whole
    packed = pack_examples.open_packed(config)
    ids = packed.impression_ids().to_pylist()
    assert ids == ["1", "2", "9", "3", "5", "10", "6", "11", "12"]
    assert [None if math.isnan(y) else int(y) for y in packed.labels[:, 1]] == [
        1,
        0,
        0,
        0,
        0,
        0,
        1,
        None,
        None,
    ]
    row = ids.index("5")
    spec = packed.spec
    dense = dict(zip(spec.dense, packed.dense[row].tolist(), strict=True))
    assert dense["slot_height"] == pytest.approx(math.log(101))
    assert dense["log_user_click_1d"] == pytest.approx(math.log(3))
    # One click in four impressions of everybody, so (2 + 10 p) / (2 + 10) of ann's.
    clicks, shown = 2, 4
    prior = (clicks + 0.5) / (shown + 1)
    rate = (2 + 10 * prior) / (2 + 10)
    assert dense["rate_user_click_1d"] == pytest.approx(math.log(rate / (1 - rate)), rel=1e-6)
    assert math.isnan(packed.dense[ids.index("3"), spec.dense.index("slot_height")])
    history = packed.batch([row], max_events=3).history
    assert history is not None
    # The last three before: view 3, its click, an article read.
    minutes = [20, 12, 5]
    ages = [math.log1p(m) / 4 for m in minutes]
    assert history.dense[:, 0].tolist() == pytest.approx(ages, rel=1e-6)
    assert spec.table_rows["user_id"] == 3  # ann, bob and the unknown


def test_daily_runs_leave_the_same_tables_as_one_run_over_all_days(whole, daily):
    expected = digests(whole[0])
    assert digests(daily[-1]) == expected
    assert {name: len(days) for name, days in expected.items()} == {
        **dict.fromkeys(TABLES, 3),
        "quarantine": 1,
    }


def test_a_changed_row_or_setting_changes_what_follows_from_it_and_nothing_else(
    spark, settings, whole, tmp_path, request
):
    before = digests(whole[0])
    home = shutil.copytree(whole[0].home, tmp_path / "home")
    views = Path(settings.log_uri) / "views" / "2024-03-03" / "part.csv"
    text = views.read_text()
    changed = text.replace("12;bob;c2", "12;bob;c1")
    assert changed != text
    request.addfinalizer(lambda: views.write_text(text))
    views.write_text(changed)
    for changes, expected in (
        ({}, dict.fromkeys(FOLLOWING, DAYS[2:])),
        # Labels mature at other times, on every day.
        ({"contract.tasks.click.window": "2h"}, {"labels": DAYS, "examples": DAYS}),
    ):
        config = run_config(home, with_overrides(settings, changes), DAYS[2])
        run_job(config, ingest_log.build, spark=spark)
        run_job(config, build_tables.build, spark=spark)
        after = digests(config)
        found = {
            name: [d for d in DAYS if after[name].get(d) != before[name].get(d)] for name in before
        }
        assert {name: days for name, days in found.items() if days} == expected
        before = after


def test_after_a_late_file_the_later_days_are_told_and_made_as_if_it_had_come_in_time(
    spark, settings, whole, tmp_path, request
):
    views = Path(settings.log_uri) / "views" / "2024-03-02" / "part.csv"
    arrived = views.read_text()
    request.addfinalizer(lambda: views.write_text(arrived))
    lines = arrived.splitlines(keepends=True)
    # Views 5 and 6 are late; the copy of 6 that came on the 3rd is all there is of it until then.
    views.write_text("".join(line for line in lines if not line.startswith(("5;", "6;"))))
    held = run_config(tmp_path / "home", settings, DAYS[2], run_id="held")
    run_job(held, ingest_log.build, spark=spark)
    run_job(held, build_tables.build, spark=spark)
    assert table(held, "impressions", "impression_id", "day")["6"] == (DAYS[2],)
    views.write_text(arrived)
    again = run_config(tmp_path / "home", settings, DAYS[1], first=DAYS[1], run_id="again")
    summary = run_job(again, ingest_log.build, spark=spark)
    tables = ("impressions", "events", *ingest_log.DERIVED)  # no outcome is new
    assert summary.details["stale_days"] == {key: ["2024-03-03"] for key in tables}
    rebuilt = run_job(again, rebuild_days.build, spark=spark)
    assert rebuilt.details == {"days": ["2024-03-02", "2024-03-03"]}
    assert digests(again) == digests(whole[0])


def test_an_outcome_waits_for_its_impression(daily):
    summary = json.loads((daily[0].run_folder / "summaries" / "ingest_log.json").read_text())
    assert summary["details"]["outcomes_without_impression"] == 1
    assert "results:5" in table(daily[0], "outcomes", "outcome_id", "day")


def test_a_missing_day_of_features_is_an_error_in_examples_and_recounted_in_windows(spark, daily):
    config = daily[-1]
    held = digests(config)["entity_features"]
    features = open_table(config.table(build_features.TABLE))
    assert features is not None
    features.delete(f"day = '{DAYS[1]}'")
    with pytest.raises(ConfigError, match="entity_features: no rows for 2024-03-02, though there"):
        build_examples.build(config, spark)
    build_features.build(config, spark)
    assert digests(config)["entity_features"] == {day: held[day] for day in (DAYS[0], DAYS[2])}
