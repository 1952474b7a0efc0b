"""Two days of the bundled log from raw rows to promoted families, then repeats and planted faults.

One real retrain after another through `jobs.run_local`: real Spark, Delta, Ray Train, MLflow and
Great Expectations, on the smallest recipe.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from jobs import delta
from jobs.command import read_summary
from jobs.config import REPOSITORY, load_config
from jobs.promotions import read_ledger
from jobs.training.checkpoints import read_card

pytestmark = pytest.mark.timeout(3000)

FIRST, SECOND, THIRD = "2022-05-02", "2022-05-03", "2022-05-04"
LOG = REPOSITORY / "infra" / "logs" / "kuairand_pure"
TABLES = (
    "impressions",
    "outcomes",
    "events",
    "labels",
    "entity_features",
    "timelines",
    "examples",
    "vocabulary",
    "teacher_scores/kuairand-teacher",
    "teacher_scores/kuairand-single_column",
    "teacher_scores/kuairand-two_column",
)


def run_local(home, *arguments):
    """Run `jobs.run_local`; return its exit code, its summary and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.run_local", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "LAPIDARY_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    summary = json.loads(lines[-1]) if done.returncode == 0 else None
    return done.returncode, summary, done.stderr


def retrain(home, day, *arguments):
    code, summary, said = run_local(home, "--recipe", "tiny", "--day", day, *arguments)
    assert code == 0, said[-3000:]
    return load_config(str(Path(home) / "runs" / summary["run_id"] / "config.json")), summary


def go_on(config, start_at):
    """Run what is left of a run; return the exit code and what it said."""
    path = str(config.run_folder / "config.json")
    code, _, said = run_local(config.home, "--config", path, "--start-at", start_at)
    return code, said


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home):
    return retrain(home, FIRST)


@pytest.fixture(scope="module")
def shifted(home, first):
    """The second day up to its first judgement, of a teacher whose logits are 0.5 too high."""
    config, _ = retrain(home, SECOND, "--stop-after", "fit_baselines")
    judged = config.run_folder / "models" / "kuairand-teacher" / "judged"
    kept = shutil.copytree(judged, judged.with_name("kept"))
    shift_logits(judged, 0.5)
    code, said = go_on(config, "judge_teacher")
    text = (config.run_folder / "summary.txt").read_text(encoding="utf-8")
    champion = ledger(config).champion
    shutil.rmtree(judged)
    kept.rename(judged)
    return code, said, text, champion, config


@pytest.fixture(scope="module")
def second(shifted):
    """The second day, gone on with after the fault is mended."""
    config = shifted[-1]
    code, said = go_on(config, "judge_teacher")
    assert code == 0, said[-3000:]
    return config


def details(config, job):
    return read_summary(config, job).details


def ledger(config):
    return read_ledger(config.table("promotions"))


def versions(config):
    return {name: delta.latest_version(config.table(name)) for name in TABLES}


def num_registered(config):
    client = MlflowClient(f"sqlite:///{config.home}/mlflow/mlflow.db")
    return len(client.search_model_versions())


def test_first_day_bootstraps_a_whole_family(first):
    config, _ = first
    champion = ledger(config).champion
    assert details(config, "promote_family")["promoted"] is True
    assert champion.number == 1
    assert champion.trained_until == config.plan.gate_end
    assert set(champion.members) == {
        "kuairand-teacher",
        "kuairand-single_column",
        "kuairand-two_column",
        "kuairand-single_column-main",
        "kuairand-single_column-side",
        "kuairand-two_column-home",
        "kuairand-two_column-browse",
    }


def test_shifted_challenger_is_refused_at_the_teacher_gate(first, shifted):
    code, said, text, champion, _ = shifted
    assert code == 3
    assert "Gate 3 (teacher) refused" in said
    assert "Refused by gate 3 (teacher); family #1 goes on serving." in text
    assert champion == ledger(first[0]).row(1)


def test_examples_hold_every_impression_of_a_day_once(second):
    config = second
    columns = ["user_id", "video_id", "time_ms", "tab"]
    raw = pq.read_table(LOG / "impressions.parquet", columns=columns)
    start = int(datetime(2022, 5, 1, 16, tzinfo=UTC).timestamp() * 1000)
    day = raw.filter(
        pc.and_(
            pc.greater_equal(raw["time_ms"], start), pc.less(raw["time_ms"], start + 86_400_000)
        )
    )
    distinct = day.group_by(day.column_names).aggregate([]).num_rows
    examples = delta.read_days(config.table("examples"), [date(2022, 5, 2)], ["impression_id"])
    assert examples.num_rows == distinct
    assert pc.count_distinct(examples["impression_id"]).as_py() == distinct


def test_second_day_starts_from_the_champion_and_is_promoted_over_it(first, second):
    config = second
    assert config.plan.parent == config.plan.champion == 1
    champion = ledger(config).champion
    assert (champion.number, champion.previous) == (2, 1)
    card = read_card(config.run_folder / "models" / "kuairand-teacher" / "final")
    parent = read_card(Path(ledger(config).row(1).members["kuairand-teacher"].uri))
    assert card.num_steps > parent.num_steps
    assert card.vocabulary_version > parent.vocabulary_version
    assert details(config, "judge_teacher")["opponent"] == "champion"


def test_scores_come_from_checkpoints_that_precede_their_impressions(second):
    config = second
    for scorer in ("kuairand-teacher", "kuairand-single_column"):
        scores = delta.read_days(config.table(f"teacher_scores/{scorer}"))
        assert scores.num_rows > 10_000
        assert pc.all(pc.less_equal(scores["trained_until"], scores["event_ts"])).as_py()


def test_aliases_follow_the_ledger(second):
    config = second
    client = MlflowClient(f"sqlite:///{config.home}/mlflow/mlflow.db")
    rows = ledger(config)
    for name, member in rows.champion.members.items():
        aliases = client.get_registered_model(name).aliases
        assert str(aliases["champion"]) == member.version
        assert str(aliases["previous"]) == rows.row(1).members[name].version


def test_report_and_summary_are_written(second):
    config = second
    page = (config.run_folder / "report.html").read_text(encoding="utf-8")
    assert "kuairand-single_column-main" in page
    assert "2022-05-03" in (config.run_folder / "summary.txt").read_text(encoding="utf-8")


def test_same_day_again_changes_no_row_and_promotes_nothing(home, second):
    config = second
    before = versions(config), len(ledger(config).rows), num_registered(config)
    again, _ = retrain(home, SECOND)
    assert (versions(again), len(ledger(again).rows), num_registered(again)) == before
    promotion = details(again, "promote_family")
    assert promotion["promoted"] is False
    assert "has already learnt" in promotion["reason"]
    assert again.plan.parent == config.plan.parent


def test_empty_day_is_refused_at_the_events_gate_and_replaces_nothing(home, second, tmp_path):
    log = copy_without(tmp_path / "log", after=datetime(2022, 5, 3, 16, tzinfo=UTC))
    before = versions(second)
    overrides = json.dumps({"log_uri": str(log)})
    code, _, said = run_local(home, "--recipe", "tiny", "--day", THIRD, "--overrides", overrides)
    assert code == 3
    assert "Gate 1 (events) refused" in said
    after = versions(second)
    assert {t: after[t] for t in ("labels", "examples")} == {
        t: before[t] for t in ("labels", "examples")
    }
    assert ledger(second).champion.number == 2


def test_gate_without_checks_refuses(home, second):
    config = second
    path = config.run_folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["gates"]["disabled_checks"] = ["*"]
    emptied = config.run_folder / "no_checks.json"
    emptied.write_text(json.dumps(values), encoding="utf-8")
    code, _, said = run_local(
        home, "--config", str(emptied), "--start-at", "gate_events", "--stop-after", "gate_events"
    )
    assert code == 3
    assert "Gate 1 (events) refused" in said


def shift_logits(folder, shift):
    """Add a constant to every logit of a checkpoint, its manifest made to fit."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name in ("model.safetensors", "averages.safetensors"):
        tensors = load_file(folder / name)
        biases = [key for key in tensors if re.match(r"heads\.domains\.\d+\.biases\.", key)]
        outermost = max(int(key.rsplit(".", 1)[1]) for key in biases)
        last = {key for key in biases if key.endswith(f".{outermost}")}
        assert last
        save_file({k: v + shift if k in last else v for k, v in tensors.items()}, folder / name)
        manifest[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def copy_without(folder, after):
    """The bundled log without what was shown after a moment."""
    shutil.copytree(LOG, folder)
    table = pq.read_table(folder / "impressions.parquet")
    early = pc.less(table["time_ms"], int(after.timestamp() * 1000))
    pq.write_table(table.filter(early), folder / "impressions.parquet")
    return folder
