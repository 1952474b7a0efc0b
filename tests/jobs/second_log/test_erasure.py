"""Erased users are in no table, no file and no later ingest, and nobody else is missing."""

from __future__ import annotations

import itertools
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from jobs import build_tables, delta, erase_users, erasure, ingest_log
from jobs.command import run_job, write_json
from jobs.delta import live_commits, open_table, read_days
from jobs.trained import Trained
from tests.jobs.samples import COMMIT, run_config
from tests.jobs.second_log.log import DAYS, TABLES, digests

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
def erased(before, pinned):
    """Configuration and summary of an erasure of ann that left what a model was trained on."""
    config, _ = before
    return config, erase_users.run(config, config.home, ["ann", ""])


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
