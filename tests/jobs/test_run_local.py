"""Without a scheduler, students are as independent of each other as with one."""

from types import SimpleNamespace

import pytest

from jobs import run_local
from jobs.command import JobSummary
from jobs.errors import ConfigError
from tests.jobs.samples import DAY, recipe, run_config


@pytest.fixture
def called(monkeypatch):
    """Jobs that ran, with their students; the one of app-feed refuses."""
    found = []

    def module(name):
        def job(config, student=None):
            found.append((name.removeprefix("jobs."), student))
            if student == "app-feed":
                raise ConfigError("app-feed: no labels")
            return JobSummary(job=name, part=student)

        return SimpleNamespace(run=job)

    monkeypatch.setattr(run_local.importlib, "import_module", module)
    monkeypatch.setattr(run_local, "run_job", lambda config, job, **more: job(config, **more))
    return found


def test_a_student_that_refuses_stops_what_follows_and_no_other_student(tmp_path, called):
    config = run_config(tmp_path, recipe(), DAY)
    with pytest.raises(ConfigError, match="app-feed: no labels"):
        run_local.run(config, "train_domain_student", None)
    assert called == [
        ("train_domain_student", "app"),
        ("train_vertical_student", "app-feed"),
        ("train_vertical_student", "app-search"),
        ("write_report", None),
    ]
