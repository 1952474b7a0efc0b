"""The data half on a standalone Spark cluster makes the rows that it makes on one machine.

Also where an executor is lost on the way, which is the one fault of a cluster that Spark repairs
without a word: map outputs that were on it are made again, and no row may come twice or be missing.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyspark
import pytest

from jobs.command import write_json
from jobs.config import REPOSITORY, with_overrides
from jobs.delta import live_commits, open_table, partition_days, read_days
from jobs.recipes import tiny
from tests.jobs.samples import run_config
from tests.jobs.second_log.log import CONTRACT, DAYS, TABLES, write_log

HOME = Path(pyspark.__file__).parent
LIMIT_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def alive_workers(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/", timeout=5) as page:
            return json.load(page)["aliveworkers"]
    except OSError:
        return 0


@dataclass
class Cluster:
    """A master and its workers, each a process that the test started."""

    folder: Path
    url: str = ""
    workers: list[psutil.Popen] = field(default_factory=list)

    def executors(self) -> list[psutil.Process]:
        """Processes that the workers run tasks in."""
        found = []
        for worker in self.workers:
            for child in worker.children(recursive=True):
                with suppress(psutil.Error):
                    if any("CoarseGrainedExecutorBackend" in part for part in child.cmdline()):
                        found.append(child)
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A master with two workers of one core each."""
    folder = tmp_path_factory.mktemp("cluster")
    environment = {
        **os.environ,
        "SPARK_HOME": str(HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(folder),
        "SPARK_DAEMON_MEMORY": "256m",
    }
    started = []

    def start(name: str, kind: str, *options: str) -> psutil.Popen:
        command = [str(HOME / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind}"]
        with (folder / f"{name}.log").open("wb") as log:
            process = psutil.Popen(
                [*command, "--host", "127.0.0.1", *options],
                env=environment,
                stdout=log,
                stderr=log,
                cwd=folder,
            )
        started.append(process)
        return process

    port, page = free_port(), free_port()
    made = Cluster(folder, f"spark://127.0.0.1:{port}")
    try:
        start("master", "master.Master", "--port", str(port), "--webui-port", str(page))
        for number in (1, 2):
            options = ("--work-dir", str(folder / f"work-{number}"), "--webui-port", "0")
            options = ("--cores", "1", "--memory", "1g", *options, made.url)
            made.workers.append(start(f"worker-{number}", "worker.Worker", *options))
        end = time.monotonic() + LIMIT_SECONDS
        while alive_workers(page) < 2:
            logs = "".join(path.read_text()[-1000:] for path in folder.glob("*.log"))
            assert time.monotonic() < end, logs
            time.sleep(0.5)
        yield made
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    log = tmp_path_factory.mktemp("log")
    write_log(log)
    return with_overrides(tiny(), {"contract": str(CONTRACT), "log_uri": str(log)})


@pytest.fixture(scope="module")
def expected(settings, tmp_path_factory):
    """Digests of the tables that one machine makes."""
    home = tmp_path_factory.mktemp("one machine")
    return digests(made_by_programs(home, settings, {"spark_master": "local[2]"}))


def on_cluster(cluster: Cluster, *conf: str):
    """Where the jobs run."""
    conf = ("spark.driver.host=127.0.0.1", "spark.executor.memory=512m", *conf)
    return {"spark_master": cluster.url, "spark_conf": list(conf), "spark_shuffle_partitions": 5}


def made_by_programs(home, settings, resources, meanwhile: Callable[[str], None] | None = None):
    """The configuration of a run whose jobs ran as programs on a master.

    `meanwhile` is called again and again with the name of the job that is running.
    """
    changed = with_overrides(settings, {"resources": resources})
    config = run_config(home, changed, DAYS[2])
    path = config.run_folder / "config.json"
    write_json(path, config.model_dump(mode="json"))
    for job in ("ingest_log", "build_tables"):
        # Away from the repository: only what is shipped can be imported by executors.
        with (home / f"{job}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"jobs.{job}", "--config", str(path)],
                cwd=home,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdout=log,
                stderr=log,
            )
        try:
            while process.poll() is None:
                if meanwhile is not None:
                    meanwhile(job)
                time.sleep(0.02)
        finally:
            process.kill()
        assert process.returncode == 0, (home / f"{job}.log").read_text()[-4000:]
    return config


def digests(config):
    """Digests of every table by day."""
    return {
        name: {day: c.digest for day, c in live_commits(open_table(config.table(name))).items()}
        for name in TABLES
    }


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_cluster_makes_the_same_tables_as_one_machine(cluster, settings, expected, tmp_path):
    config = made_by_programs(tmp_path, settings, on_cluster(cluster))
    assert digests(config) == expected
    assert {name: len(days) for name, days in expected.items()} == {
        **dict.fromkeys(TABLES, 3),
        "quarantine": 1,
    }
    executed = [*cluster.folder.glob("work-1/app-*/*"), *cluster.folder.glob("work-2/app-*/*")]
    assert len(executed) >= 4, "each job had an executor on each worker"


class Killer:
    """Kills two executors, each when it has map outputs that a shuffle is to read."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.victims: list[int] = []

    def __call__(self, job: str) -> None:
        if job != "build_tables" or len(self.victims) == 2:
            return
        for executor in self.cluster.executors():
            with suppress(psutil.Error):
                folders = executor.environ().get("SPARK_EXECUTOR_DIRS", "").split(os.pathsep)
                outputs = [p for f in folders if f for p in Path(f).rglob("shuffle_*.data")]
                if outputs and executor.pid not in self.victims and executor.is_running():
                    executor.kill()
                    self.victims.append(executor.pid)
                    return


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_executors_that_are_lost_during_a_shuffle_change_no_row(
    cluster, settings, expected, tmp_path
):
    events = tmp_path / "spark events"
    events.mkdir()
    killer = Killer(cluster)
    told = ("spark.eventLog.enabled=true", f"spark.eventLog.dir={events.as_uri()}")
    plain = "spark.eventLog.compress=false"
    config = made_by_programs(tmp_path, settings, on_cluster(cluster, *told, plain), killer)
    assert len(killer.victims) == 2
    lines = [line for p in events.rglob("*") if p.is_file() for line in p.read_text().splitlines()]
    removed = [line for line in lines if '"SparkListenerExecutorRemoved"' in line]
    assert len(removed) >= 2
    # Tasks were lost with them, or what they had left for the shuffle was made again.
    again = ("ExecutorLostFailure", "FetchFailed", "Resubmitted")
    assert any(reason in line for line in lines for reason in again)
    assert digests(config) == expected
    for name in TABLES:
        table = open_table(config.table(name))
        commits = live_commits(table)
        assert sorted(commits) == partition_days(table), f"{name}: a day that no commit tells of"
        for day, commit in commits.items():
            assert read_days(config.table(name), [day]).num_rows == commit.rows, (name, day)
