"""A faulty day stops or is set aside, and what the tables held before stays as it was.

The faults of the data half, and the test that asserts the state afterwards; without a file's name
it is one of this file.

| Fault | Test |
| --- | --- |
| 1 a source day missing or empty | `a_day_that_is_missing_or_empty…`; \
`a_day_that_is_declared_empty…`, `a_declaration_that_must_be_a_mistake…` |
| 2 a critical column empty | `a_column_of_nulls_is_set_aside…` |
| 3 a suite missing, empty, without checks | `a_gate_without_checks_refuses…` |
| 4 duplicate events | `rows_that_a_producer_sent_again…` |
| 5 impossible times | `impossible_times_are_set_aside…` |
| 6 a conversion five days late | test_repair_labels: `a_conversion_five_days_late…` |
| 7 a feature value corrected later | second_log/test_reruns: `daily_runs_leave_the_same…`; \
spark/test_point_in_time: `examples_and_timelines_equal…`; training/test_item_attributes |
| 8 schema drift | `columns_that_no_longer_fit…`, `a_new_column_and_a_wider_one…` |
| 9 a user with a million events | spark/test_timelines: `a_user_with_a_million_events…` |
| 10 an executor lost in a shuffle | test_cluster: `executors_that_are_lost…` (slow) |
| 13 a backfill beside the daily run | `of_two_ingests_of_a_day…`; test_delta: \
`writers_of_different_days…`, `of_two_writers_of_a_day…` |
| 20 a secret, a way out, an artifact that runs code | `a_secret_and_a_way_out…`; \
content/test_folder; training/test_checkpoints |
"""

import json
import shutil
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import delta, gate_events, ingest_log, schemas
from jobs.config import with_overrides
from jobs.errors import ConfigError, GateFailed
from jobs.resolve_config import parse_overrides, resolve
from jobs.spark.arrivals import Arrivals
from jobs.spark.tables import write_days
from tests.jobs.samples import contract, recipe, run_config
from tests.jobs.spark.frames import micros, utc
from validation import suites

DAYS = [date(2024, 3, day) for day in (1, 2, 3)]
TABLES = ("impressions", "events", "schemas", "quarantine")
LOG = contract(
    feeds__shown__path="shown/{day}",
    feeds__acts=None,
    feeds__visits=None,
    feeds__shown__outcomes={"click": {"when": "false"}, "buy": {"when": "false"}},
    tasks__buy__outcomes=["buy"],
    features__counts__buy=["buy"],
    features__counts__visit=None,
    timeline_event_types=["impression", "click", "buy"],
)
HOUR = 3_600_000_000


def frame(day, **changes):
    """Forty impressions of a day, some columns changed."""
    noon = micros([utc(day.day, 11)])[0]
    columns = {
        "id": [f"{day.day}-{n}" for n in range(40)],
        "user": [f"u{n % 7}" for n in range(40)],
        "ad": ["a"] * 40,
        "place": ["feed"] * 40,
        "position": pa.array(range(40), pa.int32()),
        "at": [noon + n for n in range(40)],
        "known": [noon + n for n in range(40)],
        **changes,
    }
    return pa.table({name: values for name, values in columns.items() if values is not None})


def put(log, day, rows, part="part"):
    path = log / "shown" / str(day) / f"{part}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)


@pytest.fixture(scope="module")
def two_days(spark, tmp_path_factory):
    """A folder with a log of two days, and a home that holds them."""
    folder = tmp_path_factory.mktemp("two days")
    for day in DAYS[:2]:
        put(folder / "log", day, frame(day))
    ingest_log.build(config_of(folder, DAYS[1]), spark)
    return folder


@pytest.fixture
def folder(two_days, tmp_path):
    return shutil.copytree(two_days, tmp_path / "copy")


def config_of(folder, day, first=DAYS[0], **overrides):
    settings = with_overrides(recipe(LOG, log_uri=str(folder / "log")), overrides)
    return run_config(folder / "home", settings, day, first=first, run_id=f"run-{day}")


def state(folder):
    """Digest of every day of every table."""
    config = config_of(folder, DAYS[0])
    tables = {name: delta.open_table(config.table(name)) for name in TABLES}
    return {
        (name, day): commit.digest
        for name, table in tables.items()
        for day, commit in delta.live_commits(table).items()
    }


def ingest(spark, folder, day=DAYS[1], **overrides):
    config = config_of(folder, day, first=day, **overrides)
    return config, ingest_log.build(config, spark)


@pytest.mark.parametrize("fault", ["missing", "empty", "no rows"])
def test_a_day_that_is_missing_or_empty_is_refused_and_leaves_the_held_one(spark, folder, fault):
    before = state(folder)
    part = folder / "log" / "shown" / str(DAYS[1]) / "part.parquet"
    part.unlink()
    if fault == "missing":
        part.parent.rmdir()
    elif fault == "empty":
        part.touch()
    else:
        put(folder / "log", DAYS[1], frame(DAYS[1]).slice(0, 0))
    config, summary = ingest(spark, folder)
    assert summary.details["verdicts"] == {}
    assert summary.details["kept_days"] == {"impressions": ["2024-03-02"], "events": ["2024-03-02"]}
    assert state(folder) == before
    with pytest.raises(GateFailed, match="2024-03-02"):
        gate_events.run(config)


EMPTY = {"windows.empty_days": ["2024-03-01"]}


@pytest.mark.parametrize("how", ["missing", "empty", "rejected"])
def test_a_day_that_is_declared_empty_is_dropped_and_the_later_ones_told(spark, folder, how):
    before = state(folder)
    part = folder / "log" / "shown" / str(DAYS[0]) / "part.parquet"
    part.unlink()
    if how == "missing":
        part.parent.rmdir()
    elif how == "rejected":
        put(folder / "log", DAYS[0], frame(DAYS[0], user=pa.array([None] * 40, pa.string())))
    dropped = {("impressions", DAYS[0]), ("events", DAYS[0])}
    rejected = {("quarantine", DAYS[0])} if how == "rejected" else set()
    for _ in range(2):  # A repeat drops nothing, and yet knows what follows.
        config, summary = ingest(spark, folder, DAYS[0], **EMPTY)
        assert "kept_days" not in summary.details
        assert summary.details["stale_days"] == {
            table: ["2024-03-02"] for table in ("impressions", "events")
        }
        after = state(folder)
        assert set(after) == set(before) - dropped | rejected
        assert {key: after[key] for key in set(before) - dropped} == {
            key: before[key] for key in set(before) - dropped
        }
    assert gate_events.expected_days(config) == []
    newest = delta.open_table(config.table("impressions")).history(1)[0]
    record = json.loads(newest[delta.METADATA_KEY])
    told = (record["day"], record["rows"], record["files"], record["config_hash"])
    assert told == ("2024-03-01", 0, [], config.run.config_hash)


@pytest.mark.parametrize(
    ("day", "moved", "told"),
    [(DAYS[1], False, "days of the run, 2024-03-01 to"), (DAYS[0], True, "nothing was dropped")],
    ids=["another day", "no log"],
)
def test_a_declaration_that_must_be_a_mistake_drops_nothing(spark, folder, day, moved, told):
    before = state(folder)
    if moved:
        (folder / "log").rename(folder / "elsewhere")
    else:
        (folder / "log" / "shown" / str(DAYS[0]) / "part.parquet").unlink()
    with pytest.raises(ConfigError, match=told):
        ingest(spark, folder, DAYS[0], **{"windows.empty_days": [str(day)]})
    assert state(folder) == before


def test_a_column_of_nulls_is_set_aside_and_leaves_the_held_day(spark, folder):
    before = state(folder)
    put(folder / "log", DAYS[1], frame(DAYS[1], user=pa.array([None] * 40, pa.string())))
    config, summary = ingest(spark, folder)
    assert summary.details["verdicts"] == {"null_user_id": 40}
    after = state(folder)
    assert ("quarantine", DAYS[1]) in after
    assert {key: after[key] for key in before} == before
    with pytest.raises(GateFailed):
        gate_events.run(config)


def test_rows_that_a_producer_sent_again_change_no_table(spark, folder):
    before = state(folder)
    put(folder / "log", DAYS[1], frame(DAYS[1]), part="retry")
    _, summary = ingest(spark, folder)
    assert summary.details["verdicts"] == {"ok": 40, "duplicate": 40}
    assert state(folder) == before


def test_impossible_times_are_set_aside_and_too_many_are_refused(spark, folder):
    before = state(folder)
    noon = frame(DAYS[1])["at"].to_pylist()[0]
    zero, ahead, day_after = [0] * 2, [noon + HOUR] * 2, [noon + 24 * HOUR] * 2
    at = [*zero, *ahead, *day_after, *[noon] * 34]
    known = [*zero, *[noon] * 2, *day_after, *[noon] * 34]
    put(folder / "log", DAYS[1], frame(DAYS[1], at=at, known=known))
    config, summary = ingest(spark, folder)
    assert summary.details["verdicts"] == {
        "ok": 34,
        "epoch_zero": 2,
        "time_in_the_future": 2,
        "known_after_arrival": 2,
    }
    after = state(folder)
    assert {key for key in after if before.get(key) != after[key]} == {
        ("impressions", DAYS[1]),
        ("events", DAYS[1]),
        ("quarantine", DAYS[1]),
    }
    with pytest.raises(GateFailed, match="quarantine"):
        gate_events.run(config)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"user": None, "usr": ["u"] * 40}, "column 'user' (string) is missing (the nearest is"),
        ({"ad": None}, "column 'ad' (string) is missing (it has"),
        ({"position": pa.array([1] * 40, pa.int8())}, "'position' is narrowed from int to tinyint"),
        ({"position": ["first"] * 40}, "column 'position' is changed from int to string"),
    ],
    ids=["renamed", "missing", "narrowed", "another type"],
)
def test_columns_that_no_longer_fit_stop_before_anything_is_written(spark, folder, changes, told):
    before = state(folder)
    put(folder / "log", DAYS[2], frame(DAYS[2], **changes))
    with pytest.raises(ConfigError) as error:
        ingest(spark, folder, DAYS[2])
    assert error.value.exit_code == 2
    assert told in str(error.value)
    assert state(folder) == before


def test_a_new_column_and_a_wider_one_are_recorded_and_told(spark, folder):
    before = state(folder)
    wider = pa.array(range(40), pa.int64())
    put(folder / "log", DAYS[2], frame(DAYS[2], position=wider, device=["tv"] * 40))
    config, summary = ingest(spark, folder, DAYS[2])
    assert summary.details["schema_changes"] == [
        "shown 2024-03-03: new column 'device' (string)",
        "shown 2024-03-03: column 'position' is bigint, was int",
    ]
    assert summary.details["verdicts"] == {"ok": 40}
    held = schemas.held_columns(config.table("schemas"))["shown"]
    assert sorted(held) == DAYS
    assert held[DAYS[2]] == held[DAYS[1]] | {"device": "string", "position": "bigint"}
    assert {key: state(folder)[key] for key in before} == before


def test_an_ingest_that_dies_between_two_tables_is_finished_by_its_repeat(
    spark, folder, monkeypatch
):
    before = state(folder)
    more = frame(DAYS[0], id=[f"late-{n}" for n in range(40)])
    put(folder / "log", DAYS[0], more, part="late")

    def dies(df, uri, **options):
        if uri.endswith("/events"):
            raise ConnectionError("the store went away")
        return write_days(df, uri, **options)

    with monkeypatch.context() as broken:
        broken.setattr(ingest_log, "write_days", dies)
        with pytest.raises(ConnectionError):
            ingest(spark, folder, DAYS[0])
    half = state(folder)
    changed = {("impressions", DAYS[0]), ("events", DAYS[0])}
    assert {key for key in half if half[key] != before[key]} == {("impressions", DAYS[0])}
    _, summary = ingest(spark, folder, DAYS[0])
    whole = state(folder)
    assert {key for key in whole if whole[key] != before[key]} == changed
    # The repeat changed no impression itself, and yet knows whose days follow from them.
    assert summary.details["stale_days"] == {
        table: ["2024-03-02"] for table in ("impressions", "events")
    }
    ingest(spark, folder, DAYS[0])
    assert state(folder) == whole


@pytest.mark.parametrize("fault", ["missing", "no checks", "switched off"])
def test_a_gate_without_checks_refuses_the_day_and_changes_no_table(
    spark, folder, monkeypatch, fault
):
    off = {"gates.disabled_checks": ["events.*"]} if fault == "switched off" else {}
    config, _ = ingest(spark, folder, **off)
    before = state(folder)
    if fault != "switched off":
        suite = {} if fault == "missing" else {"days": []}
        monkeypatch.setattr(suites, "events", lambda **_: suite)
    # Without its suite the gate crashes; it passes in no case.
    with pytest.raises(ValueError if fault == "missing" else GateFailed, match=r"events\."):
        gate_events.run(config)
    assert state(folder) == before
    if fault != "missing":
        told = delta.read_days(config.table("gate_reports")).to_pylist()
        assert {(row["gate"], row["passed"]) for row in told} == {("events", False)}


def test_of_two_ingests_of_a_day_the_one_that_began_earlier_fails_and_may_be_repeated(
    spark, folder, monkeypatch
):
    """A backfill of a day that the daily run has just read, from files that came meanwhile."""
    acts = Arrivals.acts
    newer = {}

    def overtaken(self):
        monkeypatch.setattr(Arrivals, "acts", acts)
        put(folder / "log", DAYS[1], frame(DAYS[1], id=[f"new-{n}" for n in range(40)]), "late")
        newer["summary"] = ingest(spark, folder)[1]
        newer["state"] = state(folder)
        return acts(self)

    more = frame(DAYS[1], id=[f"more-{n}" for n in range(40)])
    put(folder / "log", DAYS[1], more, "more")
    monkeypatch.setattr(Arrivals, "acts", overtaken)
    with pytest.raises(delta.StaleSnapshot, match="another writer replaced 2024-03-02 meanwhile"):
        ingest(spark, folder)
    assert newer["summary"].rows["impressions"] == 120
    assert state(folder) == newer["state"]
    ingest(spark, folder)
    assert state(folder) == newer["state"]


SECRETS = (
    {"resources.mlflow_uri": "https://ann:hunter2@mlflow.example/"},
    {"log_uri": "s3://key:hunter2@bucket/log"},
    {"resources.spark_java_options": "-Dfs.s3a.secret.key=hunter2"},
    {"contract.feeds.impressions.options": {"fs.s3a.access.key": "hunter2"}},
    {"password": "hunter2"},
)
OUTSIDE = (
    {"contract.name": "../../etc"},
    {"contract.feeds.impressions.path": "../../etc/passwd"},
    {"contract.feeds.impressions.path": "/etc/passwd"},
    {"contract.feeds.../../x": {"kind": "attributes"}},
)


@pytest.mark.parametrize("overrides", [*SECRETS, *OUTSIDE], ids=str)
def test_a_secret_and_a_way_out_of_the_root_are_refused_and_leave_no_trace(
    tmp_path, monkeypatch, overrides
):
    monkeypatch.setenv("LAPIDARY_HOME", str(tmp_path / "home"))
    with pytest.raises(ConfigError) as error:
        resolve("tiny", parse_overrides(json.dumps(overrides)), date(2022, 5, 2), None, "run")
    assert error.value.exit_code == 2
    assert "hunter2" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_overrides_that_are_no_json_are_refused_without_being_told():
    with pytest.raises(ConfigError) as error:
        parse_overrides('{"password": "hunter2"')
    assert "hunter2" not in str(error.value)
