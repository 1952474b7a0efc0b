"""The job: both files, and what it tells MLflow, which a recorder stands in for."""

import pytest

from jobs import tracking, write_report
from jobs.command import write_json
from tests.jobs.report import samples


class Recorder:
    """A run in MLflow that remembers what it was told."""

    def __init__(self):
        self.told = {}

    def tags(self, values):
        self.told["tags"] = values

    def metrics(self, values):
        self.told["metrics"] = values

    def note(self, text):
        self.told["note"] = text

    def file(self, path, folder):
        self.told.setdefault("files", []).append((path.name, folder))


@pytest.fixture
def told(monkeypatch):
    """What MLflow is told."""
    recorder = Recorder()
    recorder.told["models"] = {}

    def close(_, name, status):
        recorder.told["closed"] = (name, status)

    def describe(_, name, *about_note_versions):
        recorder.told["models"][name] = about_note_versions[-1]

    monkeypatch.setattr(tracking, "parent_run", lambda _: recorder)
    monkeypatch.setattr(tracking, "close_parent", close)
    monkeypatch.setattr(tracking, "describe_model", describe)
    return recorder.told


def resolved(home):
    """A run of which nothing but its configuration is there."""
    config = samples.first_run(home)
    write_json(config.run_folder / "config.json", config.model_dump(mode="json"))
    return config


def test_both_files_lie_in_the_run_folder(tmp_path, told):
    config = samples.promoted(samples.daily_run(tmp_path))
    write_report.run(config)
    page = (config.run_folder / "report.html").read_text(encoding="utf-8")
    screen = (config.run_folder / "summary.txt").read_text(encoding="utf-8")
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert screen.startswith("shop 2024-03-05: run run, ")


def test_no_part_of_a_file_is_left_behind(tmp_path, told):
    config = resolved(tmp_path)
    write_report.run(config)
    found = sorted(path.name for path in config.run_folder.iterdir())
    assert found == ["config.json", "report.html", "summary.txt"]


def test_the_summary_says_how_the_run_ended(tmp_path, told):
    details = write_report.run(samples.promoted(samples.daily_run(tmp_path))).details
    assert (details["verdict"], details["reason"]) == ("promoted", "All gates passed.")


def test_both_files_are_logged(tmp_path, told):
    write_report.run(resolved(tmp_path))
    assert told["files"] == [("report.html", "report"), ("summary.txt", "report")]


def test_a_run_that_did_what_it_should_is_finished(tmp_path, told):
    write_report.run(samples.promoted(samples.daily_run(tmp_path)))
    assert told["closed"] == ("2024-03-05 promoted #2", "FINISHED")


def test_a_run_that_stopped_has_failed(tmp_path, told):
    config = resolved(tmp_path)
    samples.jobs_until(config, "gate_events")
    write_report.run(config)
    assert told["closed"] == ("2024-03-05 unfinished", "FAILED")


def test_only_models_that_were_trained_are_described(tmp_path, told):
    config = resolved(tmp_path)
    rows, details = {"learnt": 5}, {"version": 3}
    samples.job(config, "train_teacher", rows=rows, details=details)
    write_report.run(config)
    assert told["models"] == {"shop-teacher": ["3"]}


def test_writing_again_replaces_what_was_said(tmp_path, told):
    config = resolved(tmp_path)
    write_report.run(config)
    samples.promoted(config)
    write_report.run(config)
    screen = (config.run_folder / "summary.txt").read_text(encoding="utf-8")
    assert screen.splitlines()[1].startswith("Promoted as family #2")
