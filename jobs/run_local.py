"""Run a whole retrain without Airflow: the same jobs in the same order, in one process.

For debugging, and as the proof that the scheduler is only a scheduler. A failing gate still gets
its report, and a student that cannot be trained does not stop those beside it. `--start-at` goes on
in a run folder that exists; `--stop-after` ends early.

    python -m jobs.run_local --day 2022-05-03
    python -m jobs.run_local --config var/runs/<run>/config.json --start-at judge_teacher
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from jobs.command import JobSummary, exit_with, log, run_job
from jobs.config import RunConfig, load_config, parse_day
from jobs.errors import ConfigError
from jobs.resolve_config import parse_overrides, resolve

STEPS = (
    "ingest_log",
    "gate_events",
    "build_tables",
    "gate_examples",
    "pack_examples",
    "train_teacher",
    "fit_baselines",
    "judge_teacher",
    "score_teacher",
    "train_domain_student",
    "train_vertical_student",
    "judge_family",
    "absorb_gate_window",
    "promote_family",
)
REPORT = "write_report"


def run(config: RunConfig, start_at: str | None, stop_after: str | None) -> list[JobSummary]:
    """Run the jobs of a retrain.

    Args:
        config: The run's configuration.
        start_at: First job to run; the first of all if None.
        stop_after: Last job to run; the last of all if None.

    Returns:
        Their summaries.
    """
    names = [*STEPS, REPORT]
    for name in (start_at, stop_after):
        if name is not None and name not in names:
            raise ConfigError(f"--start-at, --stop-after: no job {name!r}; the jobs are {names}")
    first = 0 if start_at is None else names.index(start_at)
    last = len(names) if stop_after is None else names.index(stop_after) + 1
    summaries = []
    try:
        for name in names[first:last]:
            if name != REPORT:
                summaries += list(_run_step(config, name))
    finally:
        if last == len(names):
            summaries += list(_run_step(config, REPORT))
    return summaries


def _run_step(config: RunConfig, name: str) -> Iterator[JobSummary]:
    job = importlib.import_module(f"jobs.{name}").run
    refused: list[ConfigError] = []
    for arguments in parts(config, name):
        started = time.time()
        log.info("--- %s %s", name, " ".join(arguments.values()))
        try:
            yield run_job(config, job, **arguments)
        except ConfigError as error:
            log.info("--- %s refused: %s", name, error)
            refused.append(error)
            continue
        log.info("--- %s done in %.1f s", name, time.time() - started)
    if refused:
        raise refused[0]


def parts(config: RunConfig, name: str) -> list[dict[str, str]]:
    """Arguments of a job: once, or once per domain or vertical."""
    from jobs.family import verticals

    if name == "train_domain_student":
        return [{"student": domain} for domain in config.contract.domains]
    if name == "train_vertical_student":
        return [{"student": vertical} for vertical in verticals(config.contract)]
    return [{}]


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="a run's config.json, to go on with")
    parser.add_argument("--recipe", default="kuairand", help="name of the recipe")
    parser.add_argument("--day", help="day D, YYYY-MM-DD")
    parser.add_argument("--overrides", default="{}", help="JSON object of changed settings")
    parser.add_argument("--start-at", help="first job to run")
    parser.add_argument("--stop-after", help="last job to run")
    options = parser.parse_args()

    def body() -> dict[str, Any]:
        if options.config:
            config = load_config(options.config)
        else:
            day = parse_day(options.day, "--day") if options.day else None
            label = f"local-{int(time.time())}"
            overrides = parse_overrides(options.overrides)
            config = resolve(options.recipe, overrides, day, None, label)
        summaries = run(config, options.start_at, options.stop_after)
        return {"run_id": config.run.run_id, "jobs": [asdict(s) for s in summaries]}

    exit_with(body)


if __name__ == "__main__":
    _main()
