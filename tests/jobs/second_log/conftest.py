"""Runs of the newspaper's log that several tests look at; who changes a home copies it first."""

from __future__ import annotations

import pytest

from jobs.config import with_overrides
from jobs.recipes import tiny
from tests.jobs.samples import run_config
from tests.jobs.second_log.log import CONTRACT, DAYS, run, write_log


@pytest.fixture(scope="package")
def settings(tmp_path_factory):
    """A recipe on the log's contract, by overrides alone."""
    folder = tmp_path_factory.mktemp("logs") / "gazette of 2024-01-01"
    write_log(folder)
    return with_overrides(tiny(), {"contract": str(CONTRACT), "log_uri": str(folder)})


@pytest.fixture(scope="package")
def whole(spark, settings, tmp_path_factory):
    """(configuration, ingest's summary) of one run over all days."""
    config = run_config(tmp_path_factory.mktemp("whole home"), settings, DAYS[2])
    return config, run(spark, config)


@pytest.fixture(scope="package")
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
