"""The commands of one machine say what is missing in one sentence, and start and stop cleanly."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from infra import airflow_home, local, retrain, stack
from infra.airflow_home import LocalError
from jobs.config import REPOSITORY, day_of
from jobs.recipes import kuairand

MODULES = "java.base@{version}\njdk.incubator.vector@{version}\n"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LAPIDARY_HOME", str(tmp_path / "home"))
    for name in ("LAPIDARY_RECIPE", "AIRFLOW_PORT", "MLFLOW_PORT", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def _program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
    path.chmod(0o755)
    return path


def _java(folder: Path, listed: str) -> None:
    _program(folder / "java", f"cat <<'END'\n{listed}END\n")


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        (None, "Lapidary needs Java 17 or newer for Spark, found none; install a Java runtime"),
        ("Unrecognized option: --list-modules\n", "for Spark, found an older one ("),
        (MODULES.format(version="11.0.2"), "for Spark, found Java 11 ("),
        ("java.base@21\njava.sql@21\n", "needs Java's module jdk.incubator.vector, which "),
    ],
)
def test_a_missing_java_is_told_in_one_sentence(tmp_path, monkeypatch, capsys, listed, told):
    if listed is not None:
        _java(tmp_path / "bin", listed)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin" if listed else str(tmp_path))
    assert local.main(["check"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("version", ["17.0.15", "25"])
def test_a_java_that_will_do_is_accepted(tmp_path, monkeypatch, version):
    _java(tmp_path / "jdk" / "bin", MODULES.format(version=version))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert local.what_is_missing() is None


def test_another_python_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr(local, "PYTHON", (3, 99))
    told = local.what_is_missing()
    assert told is not None
    assert told.startswith("Lapidary needs Python 3.99, found 3.")


def test_setup_with_another_python_stops_with_one_sentence(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    _program(tmp_path / "bin" / "python3", '[ "$1" = --version ] && echo Python 3.12.1\nexit 1\n')
    made = subprocess.run(
        ["make", "setup"],
        cwd=tmp_path,
        env={"PATH": _path_without_python(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 2
    assert made.stdout == (
        "Lapidary needs Python 3.11, found Python 3.12.1; install Python 3.11 as python3.11.\n"
    )


def _path_without_python(root: Path) -> str:
    """The fake python first, then just the tools that make needs."""
    for tool in ("make", "bash", "sh", "awk"):
        found = shutil.which(tool)
        assert found is not None
        (root / "bin" / tool).symlink_to(found)
    return str(root / "bin")


def test_make_alone_prints_every_target():
    # As outside of make: the tests themselves may have been started by it.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    printed = subprocess.run(
        ["make"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    ).stdout
    targets = [line.split()[1] for line in printed.splitlines()]
    wanted = ["help", "setup", "retrain", "test", "check", "bench", "up", "down", "env", "clean"]
    assert targets == wanted


def test_env_prints_what_a_shell_needs(home):
    told = subprocess.run(
        ["bash", "-c", f'eval "$({sys.executable} -m infra.local env)"; command -v airflow; env'],
        cwd=REPOSITORY,
        env={**os.environ, "AIRFLOW_PORT": "8099", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert told[0] == str(Path(sys.executable).parent / "airflow")
    assert {
        f"AIRFLOW_HOME={home}/airflow",
        f"AIRFLOW__CORE__DAGS_FOLDER={REPOSITORY}/dags",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL=http://127.0.0.1:8099/execution/",
        f"LAPIDARY_HOME={home}",
        f"PYTHONPATH={REPOSITORY}",
    } <= set(told)


def test_every_variable_we_read_is_in_the_example():
    example = (REPOSITORY / "infra" / "env.example").read_text(encoding="utf-8")
    for name in ("LAPIDARY_HOME", "LAPIDARY_RECIPE", "LAPIDARY_SPARK_POOL", "LAPIDARY_RAY_POOL"):
        assert f"\n{name}=" in example
    for name in ("AIRFLOW_PORT", "MLFLOW_PORT", "JAVA_HOME", "AIRFLOW_CONN_FS_DEFAULT"):
        assert f"\n{name}=" in example


def test_the_default_days_are_the_last_two_of_a_closed_log_or_the_last_two_complete_ones():
    assert retrain.default_days(kuairand()) == [date(2022, 5, 3), date(2022, 5, 4)]
    contract = kuairand().contract.model_copy(update={"last_day": None})
    growing = kuairand().model_copy(update={"contract": contract})
    today = day_of(datetime.now(UTC), "Asia/Shanghai")
    assert retrain.default_days(growing) == [today - timedelta(days=2), today - timedelta(days=1)]


def test_a_day_whose_log_is_not_there_is_refused_at_once(monkeypatch, tmp_path):
    recipe = kuairand().model_copy(update={"log_uri": str(tmp_path)})
    monkeypatch.setattr(retrain, "named_recipe", lambda _: recipe)
    with pytest.raises(LocalError, match=r"The log has no 2022-05-03: .*impressions.parquet"):
        retrain.retrain("kuairand", ["2022-05-03"])


LINES = """\
T [info     ] [DAG TEST] starting task_id=resolve_config map_index=-1 [x] loc=dag.py:1
T [info     ] $ -m jobs.resolve_config --recipe r [airflow.task.operators.lapidary] loc=c:1
T [info     ] 12:00:01 plan: bootstrap         [airflow.task.operators.lapidary] loc=c:1
T [info     ] Task instance state updated    [x] loc=t:1 new_state=success rows_affected=1
T [info     ] [DAG TEST] end task task_id=resolve_config map_index=-1 [x] loc=dag.py:2
T [info     ] [DAG TEST] starting task_id=list_domains map_index=-1 [x] loc=dag.py:1
T [info     ] Task instance state updated    [x] loc=t:1 new_state=success rows_affected=1
T [info     ] [DAG TEST] end task task_id=list_domains map_index=-1 [x] loc=dag.py:2
T [info     ] [DAG TEST] starting task_id=train_domain_student map_index=1 [x] loc=dag.py:1
T [info     ] $ -m jobs.t --config /r/1/config.json --student left [airflow.task.operators.lapidary]
T [warning  ] a library's warning [airflow.task.operators.lapidary] loc=c:1
T [error    ] lapidary: too few rows [airflow.task.operators.lapidary] loc=c:1
airflow.sdk.exceptions.AirflowFailException: train_domain_student: a gate refused: too few rows.
T [info     ] Task instance state updated    [x] loc=t:1 new_state=failed rows_affected=1
T [info     ] [DAG TEST] end task task_id=train_domain_student map_index=1 [x] loc=dag.py:2
"""


def test_progress_shows_jobs_their_lines_and_the_end_of_the_one_that_failed(capsys):
    progress = retrain.Progress()
    for line in LINES.splitlines():
        progress.read(line)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        ["resolve_config"],
        ["12:00:01", "plan:", "bootstrap"],
        ["success", "0.0", "s"],
        ["train_domain_student", "left", "failed", "0.0", "s"],
    ]
    assert progress.run == Path("/r/1")
    assert progress.failed == (
        "train_domain_student left",
        [
            "a library's warning",
            "lapidary: too few rows",
            "train_domain_student: a gate refused: too few rows.",
        ],
    )


FAMILY = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]{how})"
SLEEP = "import time; time.sleep(600)"


def _service(how: str) -> list[str]:
    return [sys.executable, "-c", FAMILY.format(child=SLEEP, how=how) + "; time.sleep(600)"]


def _descendants(pid: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if found := psutil.Process(pid).children(recursive=True):
            return found
        time.sleep(0.05)
    raise AssertionError("no child")


@pytest.mark.parametrize("how", ["", ", start_new_session=True"])
def test_down_leaves_no_process(monkeypatch, capsys, how):
    monkeypatch.setattr(stack, "services", lambda: {"one": _service(how)})
    stack.stack_folder().mkdir(parents=True)
    stack._start("one", _service(how), dict(os.environ))
    leader = psutil.Process(stack._held("one")["pid"])
    family = [leader, *_descendants(leader.pid)]
    assert stack.running("one")
    stack.down()
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert not stack.running("one")
    stack.down()
    assert capsys.readouterr().out == "Stopped one.\nNothing was running.\n"


def test_down_spares_a_process_that_got_the_number_of_one_of_ours(monkeypatch):
    monkeypatch.setattr(stack, "services", lambda: {"one": []})
    with subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True) as stranger:
        stack.keep_pid("one", stranger.pid)
        file = stack._pid_file("one")
        file.write_text(file.read_text().replace('"created": ', '"created": 1'), encoding="utf-8")
        stack.down()
        assert stranger.poll() is None
        stranger.kill()


def test_up_and_retrain_keep_out_of_each_others_way(monkeypatch):
    stack.keep_pid("retrain", os.getpid())
    with pytest.raises(LocalError, match="make retrain is at work"):
        stack.up()
    with pytest.raises(LocalError, match="make retrain is at work"):
        retrain.retrain("kuairand", [])
    stack._pid_file("retrain").unlink()
    stack.keep_pid("scheduler", os.getpid())
    with pytest.raises(LocalError, match="The stack is up"):
        retrain.retrain("kuairand", [])
    with pytest.raises(LocalError, match="The stack is up with LOG=kuairand; make down first"):
        stack.up("simulated")


def test_a_taken_port_is_told_in_one_sentence():
    with stack.socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LocalError, match=f"Port {port} is taken; .* MLFLOW_PORT={port + 1}"):
            stack._require_free("mlflow", port)


def test_a_run_that_was_cut_off_is_closed_before_a_scheduler_could_go_on_with_it(tmp_path):
    database = tmp_path / "airflow.db"
    with sqlite3.connect(database) as connection:
        connection.executescript(
            """
            CREATE TABLE dag_run (id, run_id, state, triggered_by, end_date);
            CREATE TABLE task_instance (run_id, state);
            INSERT INTO dag_run VALUES
              (1, 'cut', 'running', 'TEST', NULL), (2, 'live', 'running', 'TIMETABLE', NULL);
            INSERT INTO task_instance VALUES
              ('cut', 'success'), ('cut', 'running'), ('live', 'running');
            """
        )
    airflow_home._close_interrupted_runs(database)
    with sqlite3.connect(database) as connection:
        runs = connection.execute("SELECT run_id, state, end_date IS NULL FROM dag_run").fetchall()
        tasks = connection.execute("SELECT run_id, state FROM task_instance").fetchall()
    assert runs == [("cut", "failed", 0), ("live", "running", 1)]
    assert tasks == [("cut", "success"), ("cut", "failed"), ("live", "running")]
