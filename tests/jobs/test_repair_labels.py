"""Late conversions: only the labels they belong to change, for good, and who learnt them is named.

The small log shows two ads a day; a purchase of 2 March, whose window closed on the 3rd, arrives on
the 8th.
"""

import shutil
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from jobs import build_labels, delta, repair_labels
from jobs.config import days_between
from jobs.delta import StaleSnapshot
from jobs.errors import ConfigError
from jobs.learners import Learner
from jobs.repair_labels import repair
from jobs.repairs import TABLE, append, read_repairs
from jobs.spark import build as build_module
from jobs.spark.repair import LabelTables
from tests.jobs.samples import COMMIT, contract, recipe, run_config
from tests.jobs.spark.frames import utc

DAYS = days_between(date(2024, 3, 1), date(2024, 3, 8))
LATE = date(2024, 3, 2)
SETTINGS = recipe(contract())
LEARNERS = [
    # (name, version, trained from, trained until); the label of 2 March matured on the 3rd, 12:00.
    ("shop-teacher", "1", None, utc(3, 12) - timedelta(seconds=1)),
    ("shop-teacher", "2", utc(3), utc(4)),
    ("shop-teacher", "3", utc(3, 12), utc(5)),
    ("shop-app", "1", None, utc(4)),
    ("shop-app-feed", "1", None, utc(4)),  # does not predict purchases
]


def shown(day: date) -> list[dict]:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return [
        {
            "impression_id": f"{place}-{day.day}",
            "surface": place,
            "event_ts": noon,
            "known_ts": noon,
            "event_day": day,
        }
        for place in ("feed", "search")
    ]


def act(name: str, of: str, what: str, at: datetime) -> dict:
    return {
        "outcome_id": name,
        "impression_id": of,
        "outcome_type": what,
        "value": 0.0,
        "event_ts": at,
        "known_ts": at,
    }


OUTCOMES = {
    day: [act(f"c{day.day}", f"feed-{day.day}", "click", utc(day.day, 12, 5))] for day in DAYS
}
OUTCOMES[date(2024, 3, 8)].append(act("late", f"feed-{LATE.day}", "buy", utc(2, 13)))
OUTCOMES[date(2024, 3, 8)].append(act("in time", "feed-8", "buy", utc(8, 13)))


def put(home, table, day, rows, kinds=()):
    uri = f"{home}/tables/shop/{table}"
    columns = pa.Table.from_pylist(rows)
    for name, kind in kinds:
        at = columns.schema.get_field_index(name)
        columns = columns.set_column(at, name, columns[name].cast(kind))
    delta.write_arrow_day(uri, columns, day, [columns.column_names[0]], COMMIT)


def arrive(home, days):
    for day in days:
        put(home, "impressions", day, shown(day))
        put(home, "outcomes", day, OUTCOMES[day])
        put(home, "events", day, [{"event_id": "x"}])


def examples(home):
    """Examples as their job would leave them: a feature, and the labels."""
    held = delta.read_days(f"{home}/tables/shop/labels")
    for day in sorted(set(held["day"].to_pylist())):
        rows = [row for row in held.to_pylist() if row.pop("day") == day]
        for row in rows:
            del row["is_mature_click"], row["is_mature_buy"]
            row["user_click_1d"] = day.day
        kinds = [("label_click", pa.int8()), ("label_buy", pa.int8())]
        kinds += [(f"mature_ts_{task}", pa.timestamp("us", "UTC")) for task in ("click", "buy")]
        put(home, "examples", day, rows, kinds)


@pytest.fixture(scope="module")
def learnt(spark, tmp_path_factory):
    """A home whose labels of all days are built, the late purchase having come too late."""
    home = tmp_path_factory.mktemp("learnt")
    arrive(home, DAYS)
    build_labels.build(run_config(home, SETTINGS, DAYS[-1]), spark)
    examples(home)
    return home


@pytest.fixture(scope="module", autouse=True)
def marked():
    """What a registry that knows these versions is told."""
    known = [
        Learner(name, version, f"run-{version}", "final", since, until, None)
        for name, version, since, until in LEARNERS
    ]
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repair_labels, "learners", lambda *_: known)
        patch.setattr(repair_labels, "mark_stale", lambda _r, _h, notes: told.append(notes))
        yield told


@pytest.fixture
def home(learnt, tmp_path):
    """A copy of it."""
    return shutil.copytree(learnt, tmp_path / "home")


@pytest.fixture(scope="module")
def repaired(spark, marked, learnt, tmp_path_factory):
    """(home, summary) of a copy that has been repaired."""
    home = shutil.copytree(learnt, tmp_path_factory.mktemp("repaired") / "home")
    return home, repair(SETTINGS, str(home), spark)


def uri(home, table):
    return f"{home}/tables/shop/{table}"


def files(home, table):
    return delta.paths_by_day(delta.open_table(uri(home, table)))


def versions(home):
    return {name: delta.latest_version(uri(home, name)) for name in ("labels", "examples", TABLE)}


def bought(home, table="labels"):
    rows = delta.read_days(uri(home, table)).to_pylist()
    return sorted(row["impression_id"] for row in rows if row["label_buy"])


def test_a_conversion_five_days_late_changes_its_label_and_its_example_and_no_other_file(
    learnt, repaired
):
    home, _ = repaired
    assert (bought(learnt), bought(home)) == ([], ["feed-2"])
    assert bought(home, "examples") == ["feed-2"]
    for table in ("labels", "examples"):
        before, after = files(learnt, table), files(home, table)
        assert [day for day in before if after[day] != before[day]] == [LATE.isoformat()]
        assert len(after) == len(before) == 8
    parts = [
        delta.read_days(uri(of, "examples")).sort_by("impression_id").drop_columns("label_buy")
        for of in (learnt, home)
    ]
    assert parts[1].select(parts[0].column_names) == parts[0]


def test_the_ledger_names_what_changed_and_the_models_that_had_learnt_it(repaired):
    home, summary = repaired
    change = {"column": "label_buy", "before": 0, "after": 1, "num_labels": 1}
    stale = [
        {"name": name, "version": version, "run_id": f"run-{version}", "num_labels": 1}
        for name, version in (("shop-teacher", "2"), ("shop-app", "1"))
    ]
    assert summary.details["days"] == {
        "2024-03-02": {
            "late_outcomes": 1,
            "impressions_changed": 1,
            "changes": [change],
            "stale": stale,
        }
    }
    repairs = read_repairs(uri(home, TABLE))
    assert [(row["number"], row["action"]) for row in repairs.rows] == [(1, "decide"), (2, "done")]
    assert repairs.seen == delta.latest_version(uri(home, "outcomes"))
    assert repairs.until == {LATE: DAYS[-1]}


def test_a_commit_says_which_repair_wrote_it_and_from_what(learnt, repaired):
    home, _ = repaired
    before = versions(learnt)
    commit = delta.live_commits(delta.open_table(uri(home, "labels")))[LATE]
    assert commit.run_id == "repair-000001"
    assert commit.inputs == {"impressions": 7, "outcomes": 7, TABLE: 0}
    commit = delta.live_commits(delta.open_table(uri(home, "examples")))[LATE]
    assert commit.inputs == {"examples": before["examples"], "labels": before["labels"] + 1}


def test_a_second_repair_changes_nothing_and_starts_no_engine(repaired, monkeypatch):
    home, _ = repaired
    before = versions(home)
    monkeypatch.delattr(repair_labels, "spark_session")
    summary = repair_labels.run(SETTINGS, str(home))
    assert versions(home) == before
    assert summary.rows == {"impressions_changed": 0}


def test_outcomes_that_are_sent_again_repair_nothing_twice(spark, repaired, tmp_path):
    home = shutil.copytree(repaired[0], tmp_path / "home")
    before = versions(home)
    sent = OUTCOMES[DAYS[-1]]
    put(home, "outcomes", DAYS[-1], [*sent, act("x", "lost", "buy", utc(4))])
    summary = repair(SETTINGS, str(home), spark)
    assert summary.details["days"] == {}
    assert versions(home) == {**before, TABLE: before[TABLE] + 1}
    assert read_repairs(uri(home, TABLE)).seen == delta.latest_version(uri(home, "outcomes"))


def test_building_a_repaired_day_again_leaves_it_repaired(spark, repaired, tmp_path):
    home = shutil.copytree(repaired[0], tmp_path / "home")
    held = delta.live_commits(delta.open_table(uri(home, "labels")))
    summary = build_labels.build(run_config(home, SETTINGS, DAYS[-1], run_id="again"), spark)
    assert summary.inputs[TABLE] == 1
    assert delta.live_commits(delta.open_table(uri(home, "labels"))) == held
    delta.open_table(uri(home, "labels")).delete(f"day = '{LATE}'")
    # A backfill of the day alone, which has to read past the arrivals of its own window.
    build_labels.build(run_config(home, SETTINGS, LATE, run_id="backfill"), spark)
    again = delta.live_commits(delta.open_table(uri(home, "labels")))
    assert again[LATE].digest == held[LATE].digest
    assert bought(home) == ["feed-2"]


def test_a_repair_that_died_is_carried_out_by_the_next(spark, home, marked, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LabelTables, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            repair(SETTINGS, str(home), spark)
    assert bought(home) == []
    assert read_repairs(uri(home, TABLE)).pending == [LATE]
    marked.clear()
    repair(SETTINGS, str(home), spark)
    assert bought(home) == bought(home, "examples") == ["feed-2"]
    note = "1 labels since changed, of impressions of 2024-03-02"
    assert marked == [{("shop-teacher", "2"): note, ("shop-app", "1"): note}]
    repairs = read_repairs(uri(home, TABLE))
    assert repairs.pending == []
    assert [row["num_impressions"] for row in repairs.of(LATE)] == [1]


def test_of_two_repairs_that_decide_at_once_one_fails(home):
    snapshot = read_repairs(uri(home, TABLE))
    hashes = {"config_hash": "c", "code_hash": "k"}
    append(snapshot, "done", 3, [], hashes)
    with pytest.raises(StaleSnapshot, match="another writer committed 1 first"):
        append(snapshot, "done", 2, [], hashes)
    assert read_repairs(uri(home, TABLE)).seen == 3


def test_a_run_that_read_before_a_repair_cannot_undo_it(spark, home, monkeypatch):
    read = build_module.Build.read

    def overtaken(self, table, *args, **options):
        rows = read(self, table, *args, **options)
        if table == "outcomes":
            repair(SETTINGS, str(home), spark)
        return rows

    monkeypatch.setattr(build_module.Build, "read", overtaken)
    with pytest.raises(StaleSnapshot, match="labels: another writer replaced 2024-03-02 meanwhile"):
        build_labels.build(run_config(home, SETTINGS, DAYS[-1], run_id="older"), spark)
    assert bought(home) == ["feed-2"]


def test_without_labels_there_is_nothing_to_repair(tmp_path):
    with pytest.raises(ConfigError, match=r"labels: there is nothing to repair in .* for 'shop'"):
        repair_labels.run(SETTINGS, str(tmp_path))
