"""Start and stop the embedded Airflow and MLflow servers.

Every server leads a session of its own, so that a stop finds all its descendants. Its pid and its
log lie in `<LAPIDARY_HOME>/stack/`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from infra.airflow_home import (
    AIRFLOW,
    LocalError,
    airflow_port,
    environment,
    mlflow_port,
    prepare,
    run_logged,
)
from jobs.config import REPOSITORY, lapidary_home

START_SECONDS = 240
"""Time that servers get to answer."""
STOP_SECONDS = 20
"""Time that processes get to end before they are killed."""


def stack_folder() -> Path:
    """Where pids and logs lie."""
    return lapidary_home() / "stack"


def services() -> dict[str, list[str]]:
    """The commands of the servers, by name."""
    home = lapidary_home()
    store = [f"--backend-store-uri=sqlite:///{home}/mlflow/mlflow.db"]
    artifacts = [f"--default-artifact-root={home}/mlflow/artifacts", "--workers=1"]
    address = ["--host=127.0.0.1", f"--port={mlflow_port()}"]
    return {
        "api-server": [*AIRFLOW, "api-server"],
        # The logs lie on this machine's disk: no server needs to hand them out.
        "scheduler": [*AIRFLOW, "scheduler", "--skip-serve-logs"],
        "triggerer": [*AIRFLOW, "triggerer", "--skip-serve-logs"],
        "dag-processor": [*AIRFLOW, "dag-processor"],
        "mlflow": [AIRFLOW[0], "-m", "mlflow", "server", *store, *artifacts, *address],
    }


def up(recipe: str | None = None, unpause: bool = False) -> None:
    """Start what is not running, wait until all of it answers, say where it is.

    Args:
        recipe: Recipe of scheduled runs.
        unpause: Whether to let the schedule of `daily_retrain` start runs.

    Raises:
        LocalError: A port is taken, or a server does not come up.
    """
    require_room(recipe)
    folder = stack_folder()
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    missing = {name: command for name, command in services().items() if not running(name)}
    if missing:
        for name, port in (("api-server", airflow_port()), ("mlflow", mlflow_port())):
            if name in missing:
                _require_free(name, port)
        prepare(folder / "prepare.log")
        (folder / "recipe").write_text(recipe or "", encoding="utf-8")
        for name, command in missing.items():
            _start(name, command, environment(recipe))
        try:
            _wait(started)
        except (LocalError, KeyboardInterrupt):
            down()
            raise
    if unpause:
        log = folder / "prepare.log"
        run_logged([*AIRFLOW, "dags", "reserialize"], log, recipe)
        run_logged([*AIRFLOW, "dags", "unpause", "--yes", "daily_retrain"], log, recipe)
    took = f" (started in {time.monotonic() - started:.0f} s)" if missing else " (was running)"
    print(f"Airflow  http://127.0.0.1:{airflow_port()}  no login: everybody here is admin{took}")
    print(f"MLflow   http://127.0.0.1:{mlflow_port()}/?workflowType=machine_learning")
    print(f'Logs     {folder}; commands: eval "$(make -s env)"; stop: make down')


def require_room(recipe: str | None) -> None:
    """Refuse to start beside a retrain, or beside a stack that schedules another recipe.

    Raises:
        LocalError: One of them runs.
    """
    if running("retrain"):
        raise LocalError("make retrain is at work on the same Airflow home; let it end first.")
    kept = stack_folder() / "recipe"
    held = kept.read_text(encoding="utf-8") if kept.is_file() else ""
    if any(running(name) for name in services()) and held != (recipe or ""):
        raise LocalError(f"The stack is up with LOG={held or 'kuairand'}; make down first.")


def down() -> None:
    """Stop every process of the stack: asked first, killed after a while."""
    names = [name for name in services() if running(name)]
    leaders = _leaders()
    for send in (signal.SIGTERM, signal.SIGKILL):
        for process in _members(leaders):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(send)
        deadline = time.monotonic() + STOP_SECONDS
        while (left := _members(leaders)) and time.monotonic() < deadline:
            time.sleep(0.2)
        if not left:
            break
    for name in services():
        _pid_file(name).unlink(missing_ok=True)
    (stack_folder() / "recipe").unlink(missing_ok=True)
    print(f"Stopped {', '.join(names)}." if names else "Nothing was running.")


def running(name: str) -> bool:
    """Whether a server that we started still runs."""
    held = _held(name)
    try:
        process = psutil.Process(held["pid"])
        return process.create_time() == held["created"] and process.status() != "zombie"
    except (KeyError, psutil.NoSuchProcess):
        return False


def keep_pid(name: str, pid: int) -> None:
    """Remember a process, its start included: numbers are used again."""
    held = {"pid": pid, "created": psutil.Process(pid).create_time()}
    _pid_file(name).parent.mkdir(parents=True, exist_ok=True)
    _pid_file(name).write_text(json.dumps(held), encoding="utf-8")


def last_lines(path: Path, count: int = 15) -> str:
    """The end of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:])


def _start(name: str, command: list[str], env: dict[str, str]) -> None:
    with (stack_folder() / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env=env,
            start_new_session=True,
        )
    keep_pid(name, process.pid)


def _wait(started: float) -> None:
    waiting = True
    while waiting:
        for name in services():
            if not running(name):
                log = stack_folder() / f"{name}.log"
                raise LocalError(f"{name} ended at once:\n{last_lines(log)}\nThe log: {log}")
        waiting = not (_airflow_is_healthy() and _get(f"http://127.0.0.1:{mlflow_port()}/health"))
        if time.monotonic() - started > START_SECONDS:
            raise LocalError(f"No answer after {START_SECONDS} s; see {stack_folder()}.")
        time.sleep(0.5)


def _airflow_is_healthy() -> bool:
    answer = _get(f"http://127.0.0.1:{airflow_port()}/api/v2/monitor/health")
    parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    health: dict[str, Any] = json.loads(answer) if answer else {}
    return all((health.get(part) or {}).get("status") == "healthy" for part in parts)


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError):
        return b""


def _require_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            variable = "AIRFLOW_PORT" if name == "api-server" else "MLFLOW_PORT"
            raise LocalError(
                f"Port {port} is taken; choose another for {name}: make up {variable}={port + 1}"
            ) from None


def _leaders() -> set[int]:
    """Numbers of the sessions that we started, less those that are someone else's by now."""
    held = {name: _held(name).get("pid") for name in services()}
    return {
        pid
        for name, pid in held.items()
        if pid is not None and (running(name) or not psutil.pid_exists(pid))
    }


def _members(leaders: set[int]) -> list[psutil.Process]:
    """Living processes of the sessions, and their descendants in sessions of their own."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) in leaders:
                for member in [process, *process.children(recursive=True)]:
                    if member.status() != "zombie":
                        found[member.pid] = member
    return list(found.values())


def _held(name: str) -> dict[str, Any]:
    path = _pid_file(name)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _pid_file(name: str) -> Path:
    return stack_folder() / f"{name}.pid"
