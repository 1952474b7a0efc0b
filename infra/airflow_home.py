"""The environment of the embedded Airflow and MLflow: all state below `LAPIDARY_HOME`, all ports on
127.0.0.1. `infra/env.example` describes the variables.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from jobs.config import REPOSITORY, lapidary_home

POOLS = REPOSITORY / "infra" / "pools.json"
AIRFLOW = [sys.executable, "-m", "airflow"]


class LocalError(Exception):
    """Something a user can mend: told in one sentence."""


def airflow_port() -> int:
    """Port of Airflow's page and interface (`AIRFLOW_PORT`)."""
    return int(os.environ.get("AIRFLOW_PORT") or 8080)


def mlflow_port() -> int:
    """Port of MLflow's page (`MLFLOW_PORT`)."""
    return int(os.environ.get("MLFLOW_PORT") or 5000)


def settings(recipe: str | None = None) -> dict[str, str]:
    """The variables that make `airflow` and our jobs use the embedded stores.

    Args:
        recipe: Recipe of scheduled runs; `LAPIDARY_RECIPE`, or the DAG's own, if left out.

    Returns:
        Variables by name, without those that the shell has already and may keep.
    """
    home = lapidary_home()
    url = f"http://127.0.0.1:{airflow_port()}"
    chosen = recipe or os.environ.get("LAPIDARY_RECIPE")
    return {
        "LAPIDARY_HOME": str(home),
        **({"LAPIDARY_RECIPE": chosen} if chosen else {}),
        "LAPIDARY_SPARK_POOL": "spark",
        "LAPIDARY_RAY_POOL": "ray",
        "PYTHONPATH": str(REPOSITORY),
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW_CONN_FS_DEFAULT": "fs://",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(airflow_port()),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__INSTANCE_NAME": "Lapidary",
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": str(min(4, max(2, os.cpu_count() or 2))),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow/airflow.db?timeout=60",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "GX_ANALYTICS_ENABLED": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def environment(recipe: str | None = None) -> dict[str, str]:
    """The whole environment of a process of ours."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **settings(recipe), "PATH": path}


def prepare(log: Path) -> None:
    """Create Airflow's database and pools, once per Airflow version, and close what was cut off.

    Args:
        log: File that the commands' output is added to.

    Raises:
        LocalError: A command failed.
    """
    home = lapidary_home() / "airflow"
    done = home / f"prepared-{version('apache-airflow')}"
    if done.exists():
        _close_interrupted_runs(home / "airflow.db")
        return
    print("Preparing Airflow's database, once …", flush=True)
    home.mkdir(parents=True, exist_ok=True)
    (lapidary_home() / "mlflow").mkdir(parents=True, exist_ok=True)
    for command in (["db", "migrate"], ["pools", "import", str(POOLS)]):
        run_logged([*AIRFLOW, *command], log)
    done.touch()


def _close_interrupted_runs(database: Path) -> None:
    """Fail the runs that a killed `retrain` left open: a scheduler would go on with them."""
    open_runs = "FROM dag_run WHERE state = 'running' AND triggered_by = 'TEST'"
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute(
            "UPDATE task_instance SET state = 'failed' WHERE state NOT IN ('success', 'failed', "
            f"'skipped', 'upstream_failed', 'removed') AND run_id IN (SELECT run_id {open_runs})"
        )
        connection.execute(
            "UPDATE dag_run SET state = 'failed', end_date = strftime('%Y-%m-%d %H:%M:%f', 'now') "
            f"WHERE id IN (SELECT id {open_runs})"
        )


def run_logged(command: list[str], log: Path, recipe: str | None = None) -> None:
    """Run a command to its end, its output in a file.

    Raises:
        LocalError: It failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        code = subprocess.run(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env=environment(recipe),
            check=False,
        ).returncode
    if code:
        raise LocalError(f"{' '.join(command[1:4])} failed with exit code {code}; see {log}")
