"""Where the models of a family lie: in this run, and in the past wherever MLflow keeps them."""

from datetime import UTC, datetime
from pathlib import Path

import mlflow.artifacts
import pytest

from jobs import family
from jobs.promotions import Member, Promotion, commit, read_ledger
from tests.jobs.training import samples

TEACHER = "tiny-teacher"


@pytest.fixture
def config(tmp_path):
    plan = samples.plan(bootstrap=False, champion=1, parent=1)
    return samples.config(tmp_path, plan=plan)


def promote(config, uri):
    table = config.table("promotions")
    row = Promotion(
        number=1,
        action="promote",
        day="2026-03-03",
        trained_until=datetime.now(UTC),
        members={TEACHER: Member("2", "1", uri)},
        previous=None,
        run_id="run-0",
        reason="",
        who="me",
        at=datetime.now(UTC),
        config_hash="c",
        code_hash="s",
    )
    commit(read_ledger(table), row, None)


@pytest.fixture
def downloads(monkeypatch):
    """Calls of MLflow's download, which here makes an empty folder of the artifact's name."""
    calls = []

    def download(artifact_uri, dst_path, tracking_uri):
        calls.append((artifact_uri, tracking_uri))
        target = Path(dst_path) / artifact_uri.rsplit("/", 1)[-1]
        target.mkdir()
        (target / "card.json").write_text("{}")
        return str(target)

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    return calls


def test_a_local_parent_is_read_where_it_lies(config, downloads):
    promote(config, "/somewhere/final")
    assert str(family.parent_folder(config, TEACHER)) == "/somewhere/final"
    assert downloads == []


@pytest.mark.parametrize("uri", ["mlflow-artifacts:/1/abc/artifacts/final", "s3://bucket/1/final"])
def test_a_parent_on_a_server_is_fetched_once_from_the_runs_store(config, downloads, uri):
    resources = config.resources.model_copy(update={"mlflow_uri": "http://mlflow:5000"})
    config = config.model_copy(update={"resources": resources})
    promote(config, uri)
    folder = family.parent_folder(config, TEACHER)
    assert (folder / "card.json").is_file()
    assert family.parent_folder(config, TEACHER) == folder
    assert downloads == [(uri, "http://mlflow:5000")]


def test_a_fetch_that_fails_is_tried_again(config, downloads, monkeypatch):
    promote(config, "s3://bucket/1/final")

    def fail(**_):
        raise OSError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.artifacts, "download_artifacts", fail)
        with pytest.raises(OSError, match="gone"):
            family.parent_folder(config, TEACHER)
    assert (family.parent_folder(config, TEACHER) / "card.json").is_file()


def test_a_model_that_the_family_lacks_has_no_parent(config):
    promote(config, "/somewhere/final")
    assert family.parent_folder(config, "tiny-blue") is None


def test_a_first_run_has_no_parent(tmp_path):
    assert family.parent_folder(samples.config(tmp_path), TEACHER) is None


def test_a_repeat_is_judged_against_its_parent(tmp_path):
    plan = samples.plan(bootstrap=False, champion=2, parent=1, promotable=False)
    config = samples.config(tmp_path, plan=plan)
    promote(config, "/somewhere/final")
    assert family.opponent(config).number == 1
    assert str(family.opponent_folder(config, TEACHER)) == "/somewhere/final"
