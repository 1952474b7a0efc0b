"""Airflow and MLflow as a user has them: a scheduled run, runs triggered by hand, a clean end."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from mlflow import MlflowClient

from jobs import delta
from jobs.config import REPOSITORY, day_of
from jobs.promotions import read_ledger
from jobs.recipes import simulated

# Three retrains, and the wait of one for another.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(6000)]

DAY, EARLIER_DAY = "2022-05-03", "2022-05-02"
RUN_SECONDS = 3000
"""Time that a run gets to end, its wait for the runs before it included."""
SMALL_WORLD = ("--users", "500", "--impressions-per-day", "5000", "--days", "20")
"""A quarter of the rows that `make up LOG=simulated` writes into an empty folder."""


class Stack:
    """What a user has: the commands, and Airflow's public interface."""

    def __init__(self, home) -> None:
        self.home = home
        airflow, mlflow = _free_ports(2)
        self.url = f"http://127.0.0.1:{airflow}"
        # Without what other tests set to use Airflow in their own process.
        shell = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
        self.environment = {
            **shell,
            "LAPIDARY_HOME": str(home),
            "AIRFLOW_PORT": str(airflow),
            "MLFLOW_PORT": str(mlflow),
        }

    def local(self, *arguments: str) -> str:
        return self.module("infra.local", *arguments)

    def module(self, name: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", name, *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def trigger(self, conf: dict) -> str:
        """Trigger as the README says; return the run's id."""
        script = f"""{self.local("env", "--log", "simulated")}
            airflow dags trigger daily_retrain --conf '{json.dumps(conf)}' --output json"""
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        # Airflow logs to stdout too.
        return json.loads(done.stdout[done.stdout.index("[{") :])[0]["dag_run_id"]

    def runs(self) -> dict[str, dict]:
        """Airflow's runs of the DAG, by id."""
        with urllib.request.urlopen(f"{self.url}/auth/token", timeout=30) as answer:
            token = json.load(answer)["access_token"]
        request = urllib.request.Request(
            f"{self.url}/api/v2/dags/daily_retrain/dagRuns",
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return {run["dag_run_id"]: run for run in json.load(answer)["dag_runs"]}

    def wait_for(self, ended) -> dict:
        """The first run that a condition holds of, once it has ended."""
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            for run in self.runs().values():
                if ended(run) and run["state"] in ("success", "failed"):
                    return run
            time.sleep(3)
        raise AssertionError(f"No such run ended in {RUN_SECONDS} s: {self.runs()}")

    def ledger(self, family: str):
        return read_ledger(str(self.home / "tables" / family / "promotions"))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("stack"))
    # `up` goes on with the world that it finds.
    stack.module("jobs.simulate_log", *SMALL_WORLD)
    try:
        stack.local("up", "--log", "simulated")
        yield stack
    finally:
        stack.local("down")


@pytest.fixture(scope="module")
def by_hand(stack):
    """A day triggered with the command line's `--conf`."""
    started = stack.trigger({"day": DAY, "recipe": "tiny"})
    return stack.wait_for(lambda run: run["dag_run_id"] == started)


@pytest.fixture(scope="module")
def scheduled(stack, by_hand):
    """The run that nobody triggered."""
    return stack.wait_for(lambda run: run["run_type"] == "scheduled")


def test_a_triggered_day_is_promoted(stack, by_hand):
    assert by_hand["state"] == "success"
    champion = stack.ledger("kuairand").champion
    assert champion.number == 1
    examples = delta.read_days(str(stack.home / "tables" / "kuairand" / "examples"))
    assert examples.num_rows > 10_000
    client = MlflowClient(f"sqlite:///{stack.home}/mlflow/mlflow.db")
    for name, member in champion.members.items():
        assert str(client.get_registered_model(name).aliases["champion"]) == member.version


def test_the_schedule_retrains_yesterday(stack, scheduled):
    assert scheduled["state"] == "success"
    contract = simulated().contract
    yesterday = day_of(datetime.now(UTC), contract.time_zone) - timedelta(days=1)
    champion = stack.ledger(contract.name).champion
    assert champion.number == 1
    assert day_of(champion.trained_until - timedelta(seconds=1), contract.time_zone) in (
        yesterday,
        yesterday - timedelta(days=1),  # The test began before midnight.
    )


def test_an_earlier_day_leaves_the_champion(stack, by_hand, scheduled):
    before = stack.ledger("kuairand")
    started = stack.trigger({"day": EARLIER_DAY, "recipe": "tiny"})
    run = stack.wait_for(lambda run: run["dag_run_id"] == started)
    assert run["state"] == "success"
    assert stack.ledger("kuairand").rows == before.rows


def test_down_leaves_no_process(stack, scheduled):
    stack.local("down")
    left = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        values = process.info["environ"] or {}
        if values.get("LAPIDARY_HOME") == str(stack.home) and process.pid != os.getpid():
            left.append(process.info["cmdline"])
    assert left == []
