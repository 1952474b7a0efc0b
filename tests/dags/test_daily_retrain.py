"""The graph is what the listing says, parses light, and ends as its jobs end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.config import REPOSITORY, with_overrides
from jobs.recipes import RECIPES, kuairand
from tests.dags.stubs import DOMAINS, VERTICALS, airflow_environment, make_repository

HERE = Path(__file__).parent
LISTING = HERE / "daily_retrain.txt"
TABLES = ["ingest_log", "gate_events", "build_tables", "gate_examples", "pack_examples"]
PROMOTION = ["judge_family", "absorb_gate_window", "promote_family"]


def _taught(by_domain: list[str], directly: list[str]) -> dict[str, dict[str, Any]]:
    """What `resolve_config` says where some verticals learn straight from the teacher."""
    return {"resolve_config": {"details": {"verticals": by_domain, "direct_verticals": directly}}}


SCENARIOS: dict[str, dict[str, dict[str, Any]]] = {
    "all done": {},
    "gate fails": {"gate_examples": {"exit": 3, "say": "lapidary: too few rows"}},
    "crash": {"train_teacher": {"exit": 1}, "fit_baselines": {"seconds": 1}},
    "one vertical fails": {
        **_taught(VERTICALS[:2], VERTICALS[2:]),
        "train_vertical_student right-main": {"exit": 2},
    },
    "one domain fails": {
        "train_domain_student left": {"exit": 2},
        "train_vertical_student left-main": {"exit": 2},
        "train_vertical_student left-side": {"exit": 2},
    },
    "no domain is trained": {"train_domain_student": {"exit": 2}},
    "direct": _taught([], VERTICALS),
    "conflict": {"promote_family": {"exit": 4}},
    "report fails": {"write_report": {"exit": 2}},
    "no configuration": {"resolve_config": {"exit": 2}},
}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the DAG file declares, read in a process of its own."""
    environment = {
        **airflow_environment(tmp_path_factory.mktemp("home")),
        "PYTHONPATH": str(REPOSITORY),
        "LAPIDARY_SPARK_POOL": "spark",
        "LAPIDARY_RAY_POOL": "ray",
    }
    told = subprocess.run(
        [sys.executable, str(HERE / "describe_graph.py"), "daily_retrain"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(told.stdout.splitlines()[-1])


def test_parsing_loads_nothing_heavy(described):
    # Names of tables and columns, read by contracts; shapes of networks, read by recipes.
    light = {"validation", "validation.tables", "model", "model.frozen", "model.interaction"}
    light |= {"model.interaction.config", "model.sequence", "model.sequence.config"}
    light |= {"model.heads_config", "model.sequence_config"}
    light |= {"model.distillation", "model.distillation.config"}
    light |= {"model.representations", "model.representations.config"}
    loaded = {module.partition(".")[0] for module in described["loaded"] if module not in light}
    heavy = {"torch", "pyspark", "ray", "mlflow", "great_expectations", "pandas", "pyarrow"}
    assert not loaded & (heavy | {"numpy", "deltalake", "sklearn", "model", "validation"})


def test_graph_equals_the_listing(described):
    if os.environ.get("UPDATE_LISTING"):
        LISTING.write_text("\n".join(described["graph"]) + "\n", encoding="utf-8")
    assert described["graph"] == LISTING.read_text(encoding="utf-8").splitlines()


def test_every_task_that_runs_a_job_has_one(described):
    jobs = {path.stem for path in (REPOSITORY / "jobs").glob("*.py")}
    kinds = ("JobOperator", "GateOperator", "ResolveConfig")
    tasks = [line.split(": ")[0] for line in described["graph"] if any(k in line for k in kinds)]
    tasks = [task.removeprefix("direct.") for task in tasks]
    assert len(tasks) == 17
    assert set(tasks) <= jobs


def test_gates_are_never_retried(described):
    gates = [line for line in described["graph"] if "GateOperator" in line]
    assert len(gates) == 4
    assert all("retries=0" in line for line in gates)


def test_runs_start_when_the_logs_day_has_closed(described):
    assert described["schedule"] == ["0 1 * * *", "Asia/Shanghai"]
    assert (described["catchup"], described["max_active_runs"], described["paused"]) == (
        False,
        1,
        True,
    )


def test_parameters_match_the_config(described):
    params = described["params"]
    assert list(params) == ["day", "recipe", "overrides"]
    assert params["recipe"]["enum"] == list(RECIPES)
    assert params["recipe"]["default"] == "kuairand"
    assert params["day"]["default"] is None
    assert with_overrides(kuairand(), params["overrides"]["default"]) == kuairand()
    assert with_overrides(kuairand(), {"teacher.batch_size": 256}).teacher.batch_size == 256


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How the DAG ended, by scenario, its jobs replaced by fakes."""
    listed = LISTING.read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[0] for line in listed if "Operator" in line or "Resolve" in line]
    names = [name.removeprefix("direct.") for name in names]
    root = make_repository(tmp_path_factory.mktemp("repository"), names)
    told = subprocess.run(
        [sys.executable, str(HERE / "run_graph.py"), str(root)],
        input="".join(json.dumps(rules) + "\n" for rules in SCENARIOS.values()),
        env=airflow_environment(root),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in told.stdout.splitlines() if line.startswith("RUN ")]
    assert len(lines) == len(SCENARIOS), told.stdout[-4000:] + told.stderr[-4000:]
    return {n: json.loads(line[4:]) for n, line in zip(SCENARIOS, lines, strict=True)}


def _called(run: dict[str, Any]) -> list[str]:
    return [job for job, _ in run["calls"]]


def test_a_run_whose_jobs_are_done_succeeds(runs):
    run = runs["all done"]
    assert run["state"] == "success"
    # No vertical learns straight from the teacher.
    skipped = [task for task, state in run["tasks"].items() if state != "success"]
    assert skipped == ["direct.train_vertical_student"]
    assert run["tasks"][skipped[0]] == "skipped"


def test_jobs_run_in_the_order_of_the_graph(runs):
    called = _called(runs["all done"])
    assert called[:6] == ["resolve_config", *TABLES]
    assert set(called[6:8]) == {"train_teacher", "fit_baselines"}
    assert called[8:10] == ["judge_teacher", "score_teacher"]
    students = [*["train_domain_student"] * len(DOMAINS), *["train_vertical_student"] * 3]
    assert called[10:15] == students
    assert called[15:] == [*PROMOTION, "write_report"]


def test_one_student_per_domain_and_vertical_is_trained(runs):
    students = {
        (job, options["--student"])
        for job, options in runs["all done"]["calls"]
        if "--student" in options
    }
    domains = {("train_domain_student", domain) for domain in DOMAINS}
    assert students == domains | {("train_vertical_student", v) for v in VERTICALS}


def test_jobs_get_the_configuration_that_was_resolved(runs):
    configs = {options.get("--config") for _, options in runs["all done"]["calls"][1:]}
    assert len(configs) == 1
    assert configs.pop().endswith("/config.json")


def test_a_failed_gate_fails_the_run_once_and_the_report_is_still_written(runs):
    run = runs["gate fails"]
    assert run["state"] == "failed"
    assert _called(run) == ["resolve_config", *TABLES[:4], "write_report"]
    assert run["tasks"]["gate_examples"] == "failed"
    assert run["tasks"]["promote_family"] == "upstream_failed"
    assert run["tasks"]["write_report"] == "success"


def test_a_crash_is_retried_once_and_the_report_waits_for_what_still_runs(runs):
    called = _called(runs["crash"])
    assert runs["crash"]["state"] == "failed"
    assert called.count("train_teacher") == 2
    assert called.count("fit_baselines") == 1
    assert called[-1] == "write_report"


def _students(run: dict[str, Any], job: str) -> set[str]:
    return {options["--student"] for called, options in run["calls"] if called == job}


def test_a_refused_vertical_stops_the_promotion_and_no_other_vertical(runs):
    run = runs["one vertical fails"]
    assert run["state"] == "failed"
    assert _students(run, "train_vertical_student") == set(VERTICALS)
    vertical = [state for task, state in run["tasks"].items() if "train_vertical" in task]
    assert vertical.count("success") == len(VERTICALS) - 1
    assert _called(run)[-1] == "write_report"
    assert run["tasks"]["judge_family"] == "upstream_failed"


def test_a_refused_domain_stops_the_promotion_and_no_other_domain(runs):
    run = runs["one domain fails"]
    assert run["state"] == "failed"
    assert _students(run, "train_domain_student") == set(DOMAINS)
    taught = [f"train_vertical_student[{i}]" for i in range(len(VERTICALS))]
    assert [run["tasks"][task] for task in taught] == ["failed", "failed", "success"]
    assert run["tasks"]["judge_family"] == "upstream_failed"
    assert _called(run)[-1] == "write_report"


def test_without_any_domain_student_no_vertical_is_tried(runs):
    run = runs["no domain is trained"]
    assert run["state"] == "failed"
    assert _students(run, "train_vertical_student") == set()
    assert run["tasks"]["judge_family"] == "upstream_failed"


def test_a_family_without_hierarchy_is_trained_and_promoted(runs):
    run = runs["direct"]
    assert run["state"] == "success"
    assert _students(run, "train_vertical_student") == set(VERTICALS)
    assert run["tasks"]["promote_family"] == "success"


def test_a_promotion_conflict_is_not_retried(runs):
    run = runs["conflict"]
    assert run["state"] == "failed"
    assert _called(run)[-2:] == ["promote_family", "write_report"]


def test_a_report_that_fails_fails_the_run(runs):
    run = runs["report fails"]
    assert run["state"] == "failed"
    assert run["tasks"]["retrained"] == "success"


def test_a_run_without_configuration_runs_no_other_job(runs):
    run = runs["no configuration"]
    assert run["state"] == "failed"
    assert _called(run) == ["resolve_config"]
    assert run["tasks"]["write_report"] == "skipped"
