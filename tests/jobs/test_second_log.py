"""The data half on a log of another shape, from its contract alone, checked by hand."""

import itertools
import json
import math
import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from jobs import (
    build_examples,
    build_features,
    build_tables,
    delta,
    erase_users,
    erasure,
    ingest_log,
    pack_examples,
    rebuild_days,
)
from jobs.command import run_job, write_json
from jobs.config import REPOSITORY, with_overrides
from jobs.delta import live_commits, open_table, read_days
from jobs.errors import ConfigError
from jobs.explain_row import run as explain
from jobs.recipes import tiny
from jobs.repair_labels import repair
from jobs.report.row import page
from jobs.tracking import Trained
from tests.jobs.samples import COMMIT, run_config

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


def test_moments_of_last_events_are_those_known_before_the_impression(whole):
    config, _ = whole
    names = [f"{of}_last_ts" for of in ("user_click", "ad_click", "user_read", "plan_read")]
    found = table(config, "examples", "impression_id", *names)

    def at(*moment):
        return datetime.fromtimestamp(epoch(*moment), UTC)

    assert found["1"] == (None, None, at(1, 9), at(1, 9))
    # Her click at 23:58 lies in the next day's file, and so is known from midnight on.
    assert found["5"] == (at(2, 0), at(1, 10, 5), at(2, 0, 5), at(2, 0, 5))
    # The click of view 10 is known with its view, on the 3rd; the gold plan's nobody has read.
    assert found["11"] == (at(3, 0), at(3, 0), at(2, 0, 5), None)


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
    ages_us = history.row_us - history.event_us
    assert (ages_us / 60e6).tolist() == [20, 12, 5]
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


def test_the_story_of_a_row_names_the_sources_of_everything(whole):
    config, _ = whole
    story = explain(config, config.home, "5").details
    assert (story["impression"]["day"], story["impression"]["user_id"]) == (DAYS[1], "ann")
    assert [(row["outcome_id"], row["day"]) for row in story["outcomes"]] == [
        ("results:4", DAYS[1])
    ]
    click = story["labels"]["click"]
    assert (click["label"], click["follows"], click["mature_day"]) == (1, 1, DAYS[1])
    assert [row["verdict"] for row in click["outcomes"]] == ["counted"]
    features = story["features"]
    made_from = story["commits"]["examples"]["inputs"]
    assert (features["day"], features["version"]) == (DAYS[0], made_from["entity_features"])
    # The click of view 3 became known after midnight.
    assert features["entities"]["user"]["counts"]["click_1d"] == {"before": 1, "today": 1}
    assert features["values"]["user_plan"] == "free"
    assert story["history"]["history_end"] == 7
    assert [event["event_type"] for event in story["history"]["last"]][-2:] == ["click", "read"]
    held = live_commits(open_table(config.table("examples")))[DAYS[1]]
    assert story["commits"]["examples"]["digest"] == held.digest
    text = page(config, story)
    for part in (
        "Impression 5 of the log 'gazette'",
        "click: 1; window 1:00:00 (view_through)",
        "user [ann]: impression_1d 2+0",
        "Learnt by no registered version",
        f"examples of 2024-03-02: version {story['commits']['examples']['version']}",
    ):
        assert part in text, text


def test_a_row_that_is_not_there_is_told(whole):
    config, _ = whole
    with pytest.raises(ConfigError, match=r"no impression '8' in the log 'gazette' \(3 days, 2024"):
        explain(config, config.home, "8")


def test_a_late_subscription_is_repaired_and_its_story_says_by_what(spark, whole, tmp_path):
    home = str(shutil.copytree(whole[0].home, tmp_path / "home"))
    config = whole[0].model_copy(update={"home": home})
    before = explain(config, home, "2").details["labels"]["subscribe"]
    assert (before["label"], before["outcomes"][0]["verdict"]) == (
        0,
        "arrived on 2024-03-03; the label counts what was known by 2024-03-02",
    )
    made_from = explain(config, home, "2").details["features"]["version"]
    repair(config, home, spark)
    after = explain(config, home, "2").details
    assert (after["labels"]["subscribe"]["label"], after["repairs"][0]["until"]) == (1, DAYS[2])
    # The repaired example's counts still are those of the day on which they were counted.
    assert after["features"]["version"] == made_from
    assert after["commits"]["examples"]["run_id"] == "repair-000001"
    story = page(config, after)
    assert "repair 1 counted what was known by 2024-03-03; it changed 1 impressions" in story


SCORES = "teacher_scores/gazette-teacher"
USERS_TABLES = (*TABLES, SCORES, "vocabulary")
MODEL = Trained("gazette-teacher", "1", {"examples": 2, "vocabulary": 0})


@pytest.fixture(scope="module")
def pinned():
    """Models that were tagged; one is registered, trained on the tables as they were at first."""
    tagged = []
    with pytest.MonkeyPatch.context() as patch:
        pins = {table: {version: [MODEL]} for table, version in MODEL.inputs.items()}
        patch.setattr(erase_users, "read_pins", lambda *_: pins)
        patch.setattr(erasure, "tag_trained", lambda *told: tagged.append(told[2:]))
        yield tagged


@pytest.fixture(scope="module")
def before(settings, whole, tmp_path_factory):
    """A copy of the whole home, with scores, whose run has a configuration."""
    home = shutil.copytree(whole[0].home, tmp_path_factory.mktemp("erased") / "a home")
    config = run_config(home, settings, DAYS[2])
    write_json(config.run_folder / "config.json", config.model_dump(mode="json"))
    for day, ids in ((DAYS[0], ["1", "2", "3"]), (DAYS[2], ["11"])):
        times = pa.array([datetime(2024, 3, day.day, tzinfo=UTC)] * len(ids))
        rows = pa.table({"impression_id": ids, "event_ts": times})
        order = ["event_ts", "impression_id"]
        delta.write_arrow_day(config.table(SCORES), rows, day, order, COMMIT)
    return config, {name: rows_of(config, name) for name in USERS_TABLES}


@pytest.fixture(scope="module")
def erased(spark, before, pinned):
    """Configuration and summary of an erasure of ann that left what a model was trained on."""
    config, _ = before
    return config, erase_users.run(config, config.home, ["ann", ""], spark=spark)


def rows_of(config, name):
    return sorted(map(str, read_days(config.table(name)).to_pylist()))


def anns(config, name):
    """Rows of ann, told otherwise than by the job: by her name, or by what she was shown."""
    rows = read_days(config.table(name)).to_pylist()
    shown = {"1", "3", "5", "10", "11"}
    return {str(row) for row in rows if "ann" in str(row) or row.get("impression_id") in shown}


def test_erased_users_are_in_no_table_and_nobody_else_is_missing(before, erased, whole):
    config, held = before
    for name in USERS_TABLES[:-1]:
        theirs = {row for row in held[name] if "ann" in row}
        if name == SCORES:
            theirs = {row for row in held[name] if "'2'" not in row}
        elif name in ("outcomes", "labels"):
            theirs = anns(whole[0], name)
        expected = [row for row in held[name] if row not in theirs]
        assert rows_of(config, name) == expected, name
        assert len(expected) < len(held[name]), name


def test_an_erased_users_row_of_the_vocabulary_is_nobodys(erased, before):
    config, _ = before
    rows = read_days(config.table("vocabulary")).to_pylist()
    users = {row["row"]: row["value"] for row in rows if row["field"] == "user_id"}
    assert sorted(users) == [1, 2]
    assert "bob" in users.values()
    assert "ann" not in users.values()


def test_a_log_that_is_read_again_does_not_bring_them_back(spark, erased):
    config, _ = erased
    kept = {"impressions", "outcomes", "events", "attributes_readers", "quarantine"}
    kept |= {"labels", "timelines"}
    before = digests(config)
    summary = run_job(config, ingest_log.build, spark=spark)
    run_job(config, build_tables.build, spark=spark)
    after = digests(config)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    # Six views, one of them sent twice; her reads; her listing on three days; her outcomes.
    assert summary.details["verdicts"]["erased"] == 7 + 2 + 3 + 5
    assert not anns(config, "examples")
    assert {row for row in rows_of(config, "vocabulary") if "ann" in row} == set()


def test_an_erasure_says_what_it_found_and_proves_that_it_is_gone(erased):
    config, summary = erased
    begun, proven = read_days(config.table(erase_users.LEDGER)).sort_by("at").to_pylist()
    assert (begun["stage"], proven["stage"], proven["num_users"]) == ("begun", "proven", 1)
    assert json.loads(begun["tables"])["impressions"] == {"rows": 5}
    proof = json.loads(proven["tables"])
    assert {name: table["found"] for name, table in proof.items()} == dict.fromkeys(USERS_TABLES, 0)
    assert all(table["rows"] > 0 for table in proof.values())
    assert "ann" not in str(begun) + str(proven) + str(summary.details)
    assert not (config.run_folder / "packed").exists()
    commits = live_commits(open_table(config.table("labels")))
    assert commits[DAYS[0]].run_id == summary.details["run_id"]


def test_versions_that_models_were_trained_on_are_given_up_only_when_told(erased, pinned, before):
    config, summary = erased
    assert summary.details["still_pinned"] == {
        "examples": {2: ["gazette-teacher/1"]},
        "vocabulary": {0: ["gazette-teacher/1"]},
    }
    assert summary.details["models_tagged"] == pinned == []
    assert "ann" in str(read_days(config.table("examples"), version=2).to_pylist())
    again = erase_users.run(config, config.home, ["ann"], include_pinned=True)
    assert again.details["still_pinned"] == {}
    assert again.details["models_tagged"] == [{"name": "gazette-teacher", "version": "1"}]
    ((model, tags),) = pinned
    assert model == MODEL
    assert tags[erasure.TAG].startswith("no longer reproducible: users erased on ")
    for name, version in MODEL.inputs.items():
        with pytest.raises(FileNotFoundError):
            read_days(config.table(name), version=version)
    files = list(itertools.chain(*(Path(config.table(n)).rglob("*.parquet") for n in USERS_TABLES)))
    files = [file for file in files if "_delta_log" not in file.parts]
    assert len(files) > len(USERS_TABLES)
    assert not any("ann" in str(pa.parquet.read_table(f).to_pylist()) for f in files)
