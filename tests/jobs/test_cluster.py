"""The data half on a standalone Spark cluster makes the rows that it makes on one machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyspark
import pytest

from jobs.command import write_json
from jobs.config import REPOSITORY, with_overrides
from jobs.delta import live_commits, open_table
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


@pytest.fixture
def cluster(tmp_path):
    """URL of a master with two workers of one core each."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    environment = {
        **os.environ,
        "SPARK_HOME": str(HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(folder),
        "SPARK_DAEMON_MEMORY": "256m",
    }
    started = []

    def start(name: str, kind: str, *options: str) -> None:
        command = [str(HOME / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind}"]
        with (folder / f"{name}.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [*command, "--host", "127.0.0.1", *options],
                    env=environment,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                )
            )

    port, page = free_port(), free_port()
    url = f"spark://127.0.0.1:{port}"
    try:
        start("master", "master.Master", "--port", str(port), "--webui-port", str(page))
        for number in (1, 2):
            work = ("--work-dir", str(folder / f"work-{number}"), "--webui-port", "0")
            start(f"worker-{number}", "worker.Worker", "--cores", "1", "--memory", "1g", *work, url)
        end = time.monotonic() + LIMIT_SECONDS
        while alive_workers(page) < 2:
            logs = "".join(path.read_text()[-1000:] for path in folder.glob("*.log"))
            assert time.monotonic() < end, logs
            time.sleep(0.5)
        yield url
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)


def digests(home, settings, resources):
    """Digests of every table by day, after the jobs ran as programs on a master."""
    changed = with_overrides(settings, {"resources": resources})
    config = run_config(home, changed, DAYS[2])
    path = config.run_folder / "config.json"
    write_json(path, config.model_dump(mode="json"))
    for job in ("ingest_log", "build_tables"):
        # Away from the repository: only what is shipped can be imported by executors.
        done = subprocess.run(
            [sys.executable, "-m", f"jobs.{job}", "--config", str(path)],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    return {
        name: {day: c.digest for day, c in live_commits(open_table(config.table(name))).items()}
        for name in TABLES
    }


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_cluster_makes_the_same_tables_as_one_machine(cluster, tmp_path):
    write_log(tmp_path / "log")
    overrides = {"contract": str(CONTRACT), "log_uri": str(tmp_path / "log")}
    settings = with_overrides(tiny(), overrides)
    homes = [tmp_path / name for name in ("one machine", "two workers")]
    for home in homes:
        home.mkdir()
    conf = ["spark.driver.host=127.0.0.1", "spark.executor.memory=512m"]
    on_cluster = {"spark_master": cluster, "spark_conf": conf, "spark_shuffle_partitions": 5}
    expected = digests(homes[0], settings, {"spark_master": "local[2]"})
    assert digests(homes[1], settings, on_cluster) == expected
    assert {name: len(days) for name, days in expected.items()} == {
        **dict.fromkeys(TABLES, 3),
        "quarantine": 1,
    }
    executed = [*tmp_path.glob("cluster/work-1/app-*/*"), *tmp_path.glob("cluster/work-2/app-*/*")]
    assert len(executed) >= 4, "each job had an executor on each worker"
