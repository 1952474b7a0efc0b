"""Days that come later, again or otherwise leave what one run over all of them would have made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jobs import (
    build_examples,
    build_features,
    build_tables,
    delta,
    ingest_log,
    pack_examples,
    rebuild_days,
)
from jobs.command import run_job
from jobs.config import with_overrides
from jobs.days import DERIVED
from jobs.delta import live_commits, open_table, read_days
from jobs.errors import ConfigError
from tests.jobs.samples import run_config
from tests.jobs.second_log.log import DAYS, TABLES, digests, run, table

FOLLOWING = ("impressions", "events", "entity_features", "timelines", "examples")
"""What changes with the ad of an impression; labels go by its id."""


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
    tables = ("impressions", "events", *DERIVED)  # no outcome is new
    assert summary.details["stale_days"] == {key: ["2024-03-03"] for key in tables}
    rebuilt = run_job(again, rebuild_days.build, spark=spark)
    assert rebuilt.details == {"days": ["2024-03-02", "2024-03-03"]}
    assert digests(again) == digests(whole[0])


def test_a_day_that_is_declared_empty_leaves_all_tables_as_if_nothing_had_ever_come(
    spark, settings, whole, tmp_path
):
    log = shutil.copytree(settings.log_uri, tmp_path / "log")
    for path in [*log.glob("*/2024-03-02*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    # Nor does anything come later that was shown on the 2nd.
    views = log / "views" / "2024-03-03" / "part.csv"
    lines = views.read_text().splitlines(keepends=True)
    views.write_text("".join(line for line in lines if not line.startswith(("6;", "10;"))))
    settings = with_overrides(settings, {"log_uri": str(log)})
    never = run_config(tmp_path / "never", settings, DAYS[2], run_id="never")
    run(spark, never)
    home = shutil.copytree(whole[0].home, tmp_path / "home")
    declared = with_overrides(settings, {"windows.empty_days": [str(DAYS[1])]})
    config = run_config(home, declared, DAYS[1], first=DAYS[1], run_id="emptied")
    told = run_job(config, ingest_log.build, spark=spark).details
    gone = ("impressions", "outcomes", "events", "attributes_readers", "quarantine")
    assert told["emptied_days"] == {table: ["2024-03-02"] for table in gone}
    assert told["stale_days"].keys() == {*gone[:-1], *DERIVED}
    run_job(config, rebuild_days.build, spark=spark)
    assert digests(config) == digests(never)
    held = {name: DAYS[1] in days for name, days in digests(config).items()}
    assert [name for name, holds in held.items() if holds] == ["entity_features"]


def test_a_day_that_waits_for_its_labels_gets_them_and_is_otherwise_left(spark, settings, tmp_path):
    # Labels of the 1st mature on the 3rd.
    longer = with_overrides(settings, {"contract.tasks.subscribe.window": "2d"})
    first = run_config(tmp_path, longer, DAYS[1], run_id="first")
    second = run_config(tmp_path, longer, DAYS[2], first=DAYS[2], run_id="second")
    for config in (first, second):
        run_job(config, ingest_log.build, spark=spark)
        summary = run_job(config, build_tables.build, spark=spark)
    assert summary.rows["examples"] == 9
    made = live_commits(open_table(second.table("examples")))
    assert {day: commit.run_id for day, commit in made.items()} == dict.fromkeys(DAYS, "second")
    relabelled, anew = made[DAYS[0]].inputs, made[DAYS[1]].inputs
    assert relabelled.keys() == anew.keys()
    assert relabelled["labels"] == anew["labels"]
    older = {name for name, version in relabelled.items() if version != anew[name]}
    assert {"impressions", "events", "timelines"} <= older
    expected = digests(second)

    repeated = run_job(second, build_examples.build, spark=spark)
    assert repeated.rows == {"examples": 0}
    assert repeated.inputs == made[DAYS[2]].inputs
    # Other code makes everything anew, and finds the same.
    changed = second.model_copy(update={"run": second.run.model_copy(update={"code_hash": "new"})})
    assert run_job(changed, build_examples.build, spark=spark).rows == {"examples": 9}
    assert digests(second) == expected

    for path in made[DAYS[0]].files:
        Path(second.table("examples"), path).unlink()
    run_job(second, build_examples.build, spark=spark)
    assert read_days(second.table("examples")).num_rows == 9
    assert digests(second) == expected


def test_the_order_of_files_does_not_show_in_what_is_packed(settings, whole, tmp_path, monkeypatch):
    home = shutil.copytree(whole[0].home, tmp_path / "home")
    config = run_config(home, settings, DAYS[2])

    def packed():
        return {p.name: p.read_bytes() for p in (config.run_folder / "packed").glob("*.npy")}

    expected = packed()
    shutil.rmtree(config.run_folder / "packed")

    def backwards(*arguments, **options):
        rows = read_days(*arguments, **options)
        return rows.take(list(reversed(range(rows.num_rows))))

    monkeypatch.setattr(delta, "read_days", backwards)
    run_job(config, pack_examples.run)
    assert expected.keys() >= {"event_dense.npy", "timeline.npy"}
    assert packed() == expected


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
