"""What the jobs of a small run would have left in its folder, written by hand."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import date
from html import unescape
from typing import Any

from jobs.command import JobSummary, write_json
from jobs.config import RunConfig
from jobs.gating import NUMBERS, verdict_file
from jobs.report.models import Record, _record
from jobs.run_local import STEPS, parts
from tests.jobs.samples import DAY, recipe, run_config

TEACHER = "shop-teacher"
NEXT_DAY = date(2024, 3, 6)


def first_run(home: object, **changes: Any) -> RunConfig:
    """A run that no family came before, of a contract with one domain and two verticals."""
    return run_config(home, recipe(**changes), DAY)


def daily_run(home: object) -> RunConfig:
    """A run that goes on from the family that serves."""
    return run_config(home, recipe(), DAY, first=DAY)


def repeat(home: object) -> RunConfig:
    """A run of a day that the champion has learnt already."""
    return run_config(home, recipe(), DAY, first=NEXT_DAY)


def job(config: RunConfig, name: str, part: str | None = None, **values: Any) -> None:
    """Leave a job's summary; `failed` is the error that it died of."""
    failed = values.pop("failed", None)
    if failed is not None:
        values["details"] = {"failed": failed}
    values = {"started": 1.0, "seconds": 1.0} | values
    summary = JobSummary(job=name, part=part, **values)
    file = name if part is None else f"{name}-{part}"
    write_json(config.run_folder / "summaries" / f"{file}.json", asdict(summary))


def jobs_until(config: RunConfig, last: str, **rows: dict[str, int]) -> None:
    """Leave the summaries of every job up to one, a minute each; `rows` by job."""
    started = 1e9
    for name in STEPS[: STEPS.index(last) + 1]:
        for arguments in parts(config, name):
            part = arguments.get("student")
            job(config, name, part, started=started, seconds=60.0, rows=rows.get(name, {}))
            started += 60


def check(name: str, *, passed: bool = True, **changes: Any) -> dict[str, Any]:
    """A check of a gate as its verdict holds it."""
    values = {
        "part": "overall",
        "check": name,
        "description": f"Rule of {name}.",
        "passed": passed,
        "observed": 1.5,
        "limit": "≤ 1",
        "failing": [],
    }
    return values | changes


def gate(
    config: RunConfig, name: str, *checks: dict[str, Any], reason: str = "", **more: Any
) -> None:
    """Leave a gate's verdict: it passed if all of its checks did."""
    held = checks or (check(f"{name}.rows"),)
    passed = all(c["passed"] for c in held)
    verdict = {"name": name, "passed": passed, "reason": reason, "checks": list(held)}
    write_json(verdict_file(config, name), verdict | more)


def all_gates(config: RunConfig) -> None:
    """Leave five gates that passed, with a check each."""
    for name in NUMBERS:
        gate(config, name)


def figures(model: str = TEACHER, task: str = "click", **changes: Any) -> dict[str, Any]:
    """A record of the judging jobs."""
    values = {
        "model": model,
        "task": task,
        "slice_kind": "overall",
        "slice": "all",
        "rows": 2000,
        "positives": 500,
        "judged": True,
        "opponent": "champion",
        "ne": 0.85,
        "ne_low": 0.84,
        "ne_high": 0.86,
        "auc": 0.75,
        "gauc": 0.6,
        "calibration": 1.02,
        "calibration_low": 0.98,
        "calibration_high": 1.06,
        "versus_value": -0.01,
        "versus_low": -0.02,
        "versus_high": -0.005,
        "ne_champion": 0.86,
        "ne_trees": 0.87,
        "auc_champion": 0.74,
        "auc_trees": 0.73,
    }
    return values | changes


def of(domain: str) -> dict[str, str]:
    """What marks a record as one of a domain."""
    return {"slice_kind": "domain", "slice": domain}


def absorbed(model: str = TEACHER, task: str = "click", **changes: Any) -> dict[str, Any]:
    """A record of the pass over the gate window."""
    values = {
        "opponent": "judged",
        "versus_value": -0.0008,
        "versus_low": -0.0018,
        "versus_high": 0.0002,
        "ne_judged": 0.8507,
    }
    record = figures(model, task, **(values | changes))
    return {key: value for key, value in record.items() if key.split("_")[-1] not in _OTHERS}


_OTHERS = ("champion", "trees")


def record(**changes: Any) -> Record:
    """A record as the report reads it."""
    return _record(figures(**changes))


def leave(config: RunConfig, file: str, *rows: dict[str, Any]) -> None:
    """Leave a file of records."""
    write_json(config.run_folder / f"{file}.json", list(rows))


def promoted(config: RunConfig, **changes: Any) -> RunConfig:
    """Leave everything that a run leaves which promoted family 2."""
    jobs_until(config, "absorb_gate_window", train_teacher={"learnt": 1234})
    details = {"promoted": True, "champion": 2, "reason": "All gates passed.", "versions": {}}
    job(config, "promote_family", started=2e9, details=details | changes)
    all_gates(config)
    tasks = ("click", "buy")
    leave(config, "metrics_teacher", *(figures(task=task) for task in tasks))
    of_domain = [figures("shop-app", task, **of("app")) for task in tasks]
    leave(config, "metrics_family", *of_domain, *(figures("shop", task) for task in tasks))
    leave(config, "metrics_absorbed", absorbed(), absorbed(task="buy", versus_value=0.0031))
    return config


def section(page: str, name: str) -> str:
    """A section of the page; empty if it has none."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)
    return found.group(1) if found else ""


def text(html: str) -> str:
    """What a reader sees of it, drawings apart."""
    words = re.sub(r"<svg.*?</svg>|<style.*?</style>", " ", html, flags=re.DOTALL)
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", words).split()))


def rows(html: str) -> list[list[str]]:
    """The cells of every row of its tables."""
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in found]
    return [[text(cell) for cell in row] for row in cells]
