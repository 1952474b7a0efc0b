"""A small repository whose jobs are fakes, for running the DAG's graph in seconds.

Its `dags/` is a copy of ours; its jobs say what they are told to in `control.json` and write down
how they were called.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from jobs.config import REPOSITORY

DOMAINS = ["left", "right"]
VERTICALS = ["left-main", "left-side", "right-main"]
_LIGHT = (
    "__init__",
    "config",
    "contract",
    "contract_checks",
    "errors",
    "feeds",
    "named_networks",
    "recipes",
    "representation_settings",
    "settings",
    "training_settings",
)
_LIGHT_CONTENT = ("__init__", "settings")
_JOB = """\
import json, sys, time
from pathlib import Path

root = Path(__file__).resolve().parents[1]
job = Path(__file__).stem
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
rules = json.loads((root / "control.json").read_text())
rule = rules.get(f"{job} {options.get('--student')}", rules.get(job, {}))
with (root / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps([job, options]) + "\\n")
print(f"{job}: at work", file=sys.stderr, flush=True)
time.sleep(rule.get("seconds", 0))
print(rule["say"] if "say" in rule else "nothing to say", file=sys.stderr)
print("a library's line on stdout")
if not rule.get("mute"):
    print(json.dumps({"job": job, "rows": {"t": 3}, "outputs": {"t": 7}, "seconds": 0.5,
                      "mlflow_run": None, "details": rule.get("details", {})}), flush=True)
print("a line on stderr after the summary", file=sys.stderr)
sys.exit(rule.get("exit", 0))
"""

_LIGHT_PARTS = (
    "model/__init__.py",
    "model/distillation/__init__.py",
    "model/distillation/config.py",
    "model/frozen.py",
    "model/heads_config.py",
    "model/interaction/__init__.py",
    "model/interaction/config.py",
    "model/representations/__init__.py",
    "model/representations/config.py",
    "model/sequence/__init__.py",
    "model/sequence/config.py",
    "model/sequence_config.py",
    "validation/__init__.py",
    "validation/tables.py",
)


def make_repository(root: Path, jobs: list[str]) -> Path:
    """Build the repository in an empty folder.

    Args:
        root: The folder.
        jobs: Names of the fake jobs.

    Returns:
        The folder.
    """
    shutil.copytree(REPOSITORY / "dags", root / "dags")
    shutil.copytree(REPOSITORY / "infra" / "contracts", root / "infra" / "contracts")
    for name in _LIGHT_PARTS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    (root / "jobs").mkdir()
    for name in _LIGHT:
        shutil.copy(REPOSITORY / "jobs" / f"{name}.py", root / "jobs")
    (root / "jobs" / "content").mkdir()
    for name in _LIGHT_CONTENT:
        shutil.copy(REPOSITORY / "jobs" / "content" / f"{name}.py", root / "jobs" / "content")
    for name in jobs:
        (root / "jobs" / f"{name}.py").write_text(_JOB, encoding="utf-8")
    control(root)
    return root


def control(root: Path, **rules: dict) -> None:
    """Tell jobs what to do: `exit`, `say`, `seconds`, `mute`, `details`; forget earlier calls.

    A rule is of a job's name, or of that and a student's.
    """
    (root / "ready").touch()
    details = {
        "config": str(root / "config.json"),
        "day": "2022-05-03",
        "domains": DOMAINS,
        "verticals": VERTICALS,
        "direct_verticals": [],
        "ready": str(root / "ready"),
    }
    told = rules.get("resolve_config", {})
    details |= told.get("details", {})
    rules = {**rules, "resolve_config": {**told, "details": details}}
    (root / "control.json").write_text(json.dumps(rules), encoding="utf-8")
    (root / "calls.jsonl").unlink(missing_ok=True)


def calls(root: Path) -> list[tuple[str, dict[str, str]]]:
    """Jobs that ran, in order, with their options."""
    lines = (root / "calls.jsonl").read_text(encoding="utf-8").splitlines()
    return [(job, options) for job, options in map(json.loads, lines)]


def airflow_environment(root: Path) -> dict[str, str]:
    """Environment of an Airflow with a home of its own, whose DAGs are the repository's."""
    unset = {"LAPIDARY_RECIPE", "LAPIDARY_SPARK_POOL", "LAPIDARY_RAY_POOL"}
    kept = {k: v for k, v in os.environ.items() if k not in unset and not k.startswith("AIRFLOW")}
    return {
        **kept,
        "AIRFLOW_HOME": str(root / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(root / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_FS_DEFAULT": "fs://",
        "LAPIDARY_HOME": str(root / "var"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(root),
    }


def describe(dag: str, home: Path, pool: str) -> dict[str, Any]:
    """What a DAG's file declares, read in a process of its own.

    Args:
        dag: Name of the file.
        home: An empty folder for Airflow.
        pool: Which engine's pool is set, `SPARK` or `RAY`.
    """
    told = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "describe_graph.py"), dag],
        env={
            **airflow_environment(home),
            "PYTHONPATH": str(REPOSITORY),
            f"LAPIDARY_{pool}_POOL": pool.lower(),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(told.stdout.splitlines()[-1])
